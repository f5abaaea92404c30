// SPDX-License-Identifier: Apache-2.0
//! Whose the other end of a TCP connection within this host is: the kernel knows the user of every socket, and tells it to
//! whoever asks by the connection's two addresses (sock_diag(7)).

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` of linux/netlink.h: a question about one socket and no dump of all.
const REQUEST: u16 = 1;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `TCP_ESTABLISHED` of the kernel's tcp_states.h.
const ESTABLISHED: u8 = 1;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`: four bytes, the states, the socket's id.
const QUESTION: usize = 8 + ID;
/// `struct inet_diag_sockid`: two ports, two addresses of 16 bytes, interface, cookie of two words.
const ID: usize = 2 + 2 + 16 + 16 + 4 + 8;
/// Where the user is in `struct inet_diag_msg`: behind four bytes, the id, and three words.
const UID: usize = 4 + ID + 12;

/// The user whose socket `client` is, connected to our `server`. `None`: the kernel does not say, or the connection is not
/// established any more; one that is closing has no owner, and would be told to be root's.
pub(super) fn owner(client: SocketAddr, server: SocketAddr) -> io::Result<Option<u32>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::SOCK_DIAG),
    )?;
    send(&socket, &question(client, server), SendFlags::empty())?;
    let mut answer = [0; 1024];
    // The kernel has answered within `send`, so there is nothing to wait for.
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    Ok(read(&answer[..length], client, server))
}

fn id(client: SocketAddr, server: SocketAddr) -> [u8; ID - 8] {
    let mut id = [0; ID - 8];
    id[..2].copy_from_slice(&client.port().to_be_bytes());
    id[2..4].copy_from_slice(&server.port().to_be_bytes());
    for (address, at) in [(client.ip(), 4), (server.ip(), 20)] {
        match address {
            IpAddr::V4(address) => id[at..at + 4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => id[at..at + 16].copy_from_slice(&address.octets()),
        }
    }
    id
}

fn question(client: SocketAddr, server: SocketAddr) -> [u8; HEADER + QUESTION] {
    let mut bytes = [0; HEADER + QUESTION];
    bytes[..4].copy_from_slice(&((HEADER + QUESTION) as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    let family = if client.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    bytes[HEADER] = family.as_raw() as u8;
    bytes[HEADER + 1] = TCP;
    // All states: which one it is, the answer says.
    bytes[HEADER + 4..HEADER + 8].copy_from_slice(&u32::MAX.to_ne_bytes());
    let at = HEADER + 8;
    bytes[at..at + ID - 8].copy_from_slice(&id(client, server));
    // No cookie (`INET_DIAG_NOCOOKIE`): whichever socket it is.
    bytes[at + ID - 8..].fill(0xff);
    bytes
}

fn read(answer: &[u8], client: SocketAddr, server: SocketAddr) -> Option<u32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    // Anything else is an error: there is no such socket.
    if kind != BY_FAMILY {
        return None;
    }
    let message = answer.get(HEADER..)?;
    let uid = u32::from_ne_bytes(message.get(UID..UID + 4)?.try_into().ok()?);
    // The ports are those that were asked for, unless what was found is some other socket, one that listens, say.
    let ports = message.get(4..8)? == &id(client, server)[..4];
    (message.get(1) == Some(&ESTABLISHED) && ports).then_some(uid)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn our_own_connection_is_ours() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, from) = listener.accept().unwrap();
            let at = server.local_addr().unwrap();
            assert_eq!(owner(from, at).unwrap(), Some(rustix::process::geteuid().as_raw()), "{address}");
            drop(client);
            assert_eq!(owner(from, at).unwrap(), None, "it is closing");
        }
    }

    #[test]
    fn another_users_connection_is_theirs() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can become another user");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut child = std::process::Command::new("bash");
        child.args(["-c", &format!("exec 3<>/dev/tcp/127.0.0.1/{port}; read -u 3 word")]);
        std::os::unix::process::CommandExt::uid(&mut child, 65534);
        let mut child = child.spawn().unwrap();
        let (server, from) = listener.accept().unwrap();
        assert_eq!(owner(from, server.local_addr().unwrap()).unwrap(), Some(65534));
        drop(server);
        child.wait().unwrap();
    }

    #[test]
    fn an_ipv6_socket_that_speaks_ipv4_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{port}").parse().unwrap();
        let Ok(_client) = TcpStream::connect(mapped) else { return };
        let (server, from) = listener.accept().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(owner(from, server.local_addr().unwrap()).unwrap(), Some(uid));
    }

    #[test]
    fn nobody_has_no_owner() {
        let nowhere = "127.0.0.1:1".parse().unwrap();
        assert_eq!(owner(nowhere, nowhere).unwrap(), None);
        assert_eq!(read(&[], nowhere, nowhere), None);
    }
}
