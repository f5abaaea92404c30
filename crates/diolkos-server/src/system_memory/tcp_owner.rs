// SPDX-License-Identifier: Apache-2.0
//! Whose a TCP connection over loopback is. The socket at its other end is on this host, so the kernel knows
//! its user, and `/proc/net/tcp` lists it (proc_net_tcp(5)).
//!
//! A line counts only while its socket is connected and somebody's: for one that was closed, or that nobody
//! accepted yet, the list has uid 0 and no inode, and whoever took that for root would give anybody root's files.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::is_somebody;
use super::limits::{TCP_LIST_BYTES_MAX, TCP_LIST_READS};
use crate::listen::TcpEnds;

/// `TCP_ESTABLISHED`, as the list writes it.
const CONNECTED: &str = "01";

/// The user at the other end, if the kernel says so now. Reads files of `/proc`: not for an I/O thread.
pub(super) fn uid_of(ends: &TcpEnds) -> Option<u32> {
    (0..TCP_LIST_READS).find_map(|_| search(ends)).filter(|&uid| is_somebody(uid))
}

fn search(ends: &TcpEnds) -> Option<u32> {
    // A client may have made its socket for IPv6 and connect to a mapped address; it is in the other list then.
    let lists = ["/proc/net/tcp", "/proc/net/tcp6"];
    lists.into_iter().find_map(|list| {
        let short = !list.ends_with('6');
        let theirs = written(ends.remote, short)?;
        let ours = written(ends.local, short)?;
        let lines = BufReader::new(File::open(list).ok()?.take(TCP_LIST_BYTES_MAX)).lines();
        lines.map_while(Result::ok).find_map(|line| owner_in(&line, &theirs, &ours))
    })
}

/// The owner in this line, if it is about the socket at `local` that is connected to `remote`.
fn owner_in(line: &str, local: &str, remote: &str) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    if fields.next()? != local || fields.next()? != remote || fields.next()? != CONNECTED {
        return None;
    }
    // Then queues, timer, retransmissions; uid; timeout; inode.
    let uid = fields.nth(3)?.parse().ok()?;
    let inode: u64 = fields.nth(1)?.parse().ok()?;
    (inode != 0).then_some(uid)
}

/// An address as the list of its family writes it: words of four bytes in the byte order of this machine.
fn written(address: SocketAddr, short: bool) -> Option<String> {
    let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
    let text = match (address.ip().to_canonical(), short) {
        (IpAddr::V4(ip), true) => word(ip.octets()),
        (IpAddr::V4(ip), false) => of_ipv6(mapped(ip), word),
        (IpAddr::V6(_), true) => return None,
        (IpAddr::V6(ip), false) => of_ipv6(ip, word),
    };
    Some(format!("{text}:{:04X}", address.port()))
}

fn mapped(ip: Ipv4Addr) -> Ipv6Addr {
    ip.to_ipv6_mapped()
}

fn of_ipv6(ip: Ipv6Addr, word: impl Fn([u8; 4]) -> String) -> String {
    let bytes = ip.octets();
    bytes.chunks_exact(4).map(|part| word(part.try_into().expect("chunks have four bytes"))).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn ends(accepted: &TcpStream) -> TcpEnds {
        TcpEnds { local: accepted.local_addr().unwrap(), remote: accepted.peer_addr().unwrap() }
    }

    #[test]
    fn the_kernel_knows_who_connected() {
        let us = rustix::process::getuid().as_raw();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A host without IPv6 has no such list either.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let ends = ends(&accepted);
            assert_eq!(uid_of(&ends), Some(us), "{address}");
            // A client that closed its socket is nobody any more, and root least of all.
            drop(client);
            assert_eq!(uid_of(&ends), None, "{address}");
        }
    }

    #[test]
    fn only_connected_sockets_with_an_owner_count() {
        let (local, remote) = ("0100007F:A0B2", "0100007F:1F90");
        let owner = |state: &str, inode: &str| {
            let line = format!(
                "   3: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 x 20"
            );
            (owner_in(&line, local, remote), owner_in(&line, remote, local))
        };
        assert_eq!(owner("01", "77"), (Some(1000), None));
        assert_eq!(owner("01", "0"), (None, None));
        for state in ["02", "03", "04", "05", "06", "08"] {
            assert_eq!(owner(state, "77").0, None, "{state}");
        }
        for broken in ["", "sl local_address", "1: 0100007F:A0B2 0100007F:1F90 01 x"] {
            assert_eq!(owner_in(broken, local, remote), None, "{broken}");
        }
    }

    #[test]
    fn addresses_are_written_as_the_kernel_does() {
        let written = |text: &str, short| written(text.parse().unwrap(), short);
        assert_eq!(written("[::1]:1", true), None);
        if cfg!(target_endian = "little") {
            assert_eq!(written("127.0.0.1:8080", true).as_deref(), Some("0100007F:1F90"));
            assert_eq!(written("[::ffff:127.0.0.1]:8080", true).as_deref(), Some("0100007F:1F90"));
            let mapped = "0000000000000000FFFF00000100007F:1F90";
            assert_eq!(written("127.0.0.1:8080", false).as_deref(), Some(mapped));
            let loopback = "00000000000000000000000001000000:0050";
            assert_eq!(written("[::1]:80", false).as_deref(), Some(loopback));
        }
    }
}
