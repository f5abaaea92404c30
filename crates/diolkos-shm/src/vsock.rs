// SPDX-License-Identifier: Apache-2.0
//! Between a virtual machine and its host: sockets of the family `AF_VSOCK`, see vsock(7).
//!
//! They carry bytes and no descriptors, so what goes over them is sent and not shared. The kernel says which machine the other
//! end is in: its context id (CID).

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SocketAddrAny, SocketFlags, SocketType};
use rustix::net::{acceptfrom_with, bind, getsockname, socket_with};

use crate::connect;

/// Every machine that may be reached or connects (`VMADDR_CID_ANY`): to listen on.
pub const ANY: u32 = u32::MAX;
/// This machine itself, where its kernel has the loopback device (`VMADDR_CID_LOCAL`).
pub const LOCAL: u32 = 1;
/// The host, as every virtual machine knows it (`VMADDR_CID_HOST`).
pub const HOST: u32 = 2;
/// A free port (`VMADDR_PORT_ANY`): to listen on.
const PORT_ANY: u32 = u32::MAX;

/// A port of a machine, written `CID:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VsockAddr {
    /// Which machine: its context id.
    pub cid: u32,
    /// Which port; 0 to listen on = one that is free.
    pub port: u32,
}

/// Names of CIDs.
const NAMES: [(&str, u32); 3] = [("any", ANY), ("local", LOCAL), ("host", HOST)];

/// Text that is no `CID:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoVsockAddr;

impl FromStr for VsockAddr {
    type Err = NoVsockAddr;

    fn from_str(text: &str) -> Result<VsockAddr, NoVsockAddr> {
        let (cid, port) = text.split_once(':').ok_or(NoVsockAddr)?;
        let named = NAMES.iter().find(|(name, _)| *name == cid);
        let cid = named.map_or_else(|| cid.parse(), |(_, cid)| Ok(*cid)).map_err(|_| NoVsockAddr)?;
        let port = port.parse().ok().filter(|&port| port != PORT_ANY).ok_or(NoVsockAddr)?;
        Ok(VsockAddr { cid, port })
    }
}

impl fmt::Display for VsockAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, cid)| *cid == self.cid) {
            Some((name, _)) => write!(f, "{name}:{}", self.port),
            None => write!(f, "{}:{}", self.cid, self.port),
        }
    }
}

/// `struct sockaddr_vm` of linux/vm_sockets.h.
#[derive(Clone, Copy)]
#[repr(C)]
struct Raw {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

// SAFETY: the pointer is to a `Raw` on the stack, which lives during the call of `f`, has the size that is passed
// and no padding, and is laid out as the kernel's `sockaddr_vm` with the family that says so.
unsafe impl SocketAddrArg for VsockAddr {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        let raw = Raw {
            family: AddressFamily::VSOCK.as_raw(),
            reserved: 0,
            port: self.port,
            cid: self.cid,
            flags: 0,
            zero: [0; 3],
        };
        f((&raw const raw).cast(), size_of::<Raw>() as SocketAddrLen)
    }
}

impl TryFrom<SocketAddrAny> for VsockAddr {
    type Error = Errno;

    fn try_from(any: SocketAddrAny) -> Result<VsockAddr, Errno> {
        if any.address_family() != AddressFamily::VSOCK || (any.addr_len() as usize) < size_of::<Raw>() {
            return Err(Errno::AFNOSUPPORT);
        }
        // SAFETY: `any` has `addr_len` initialised bytes at `as_ptr`, which are enough, and a `Raw` may be any bytes; the read
        // asks for no alignment.
        let raw = unsafe { any.as_ptr().cast::<Raw>().read_unaligned() };
        Ok(VsockAddr { cid: raw.cid, port: raw.port })
    }
}

/// A socket that listens, and does not block.
pub fn listen(at: VsockAddr, backlog: i32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?;
    let port = if at.port == 0 { PORT_ANY } else { at.port };
    bind(&socket, &VsockAddr { port, ..at })?;
    rustix::net::listen(&socket, backlog)?;
    Ok(socket)
}

/// Where a socket listens.
pub fn listens_at(socket: impl AsFd) -> io::Result<VsockAddr> {
    Ok(getsockname(socket)?.try_into()?)
}

/// The next connection, which does not block either, and which machine it comes from.
pub fn accept(listener: impl AsFd) -> io::Result<(OwnedFd, VsockAddr)> {
    let (socket, peer) = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    Ok((socket, peer.ok_or(Errno::AFNOSUPPORT)?.try_into()?))
}

/// Connects, within `limit` if there is one.
pub fn connect_stream(to: VsockAddr, limit: Option<Duration>) -> io::Result<OwnedFd> {
    connect::within(AddressFamily::VSOCK, &to, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_kernels() {
        assert_eq!((size_of::<Raw>(), align_of::<Raw>()), (16, 4));
        let address = VsockAddr { cid: 0x0102_0304, port: 0x0506_0708 };
        let read = |at: *const SocketAddrOpaque, length: SocketAddrLen| {
            // SAFETY: as many bytes are there, and they are read within the call.
            unsafe { std::slice::from_raw_parts(at.cast::<u8>(), length as usize) }.to_vec()
        };
        // SAFETY: `read` uses the pointer within the call only.
        let bytes = unsafe { address.with_sockaddr(read) };
        let mut expected = 40u16.to_ne_bytes().to_vec();
        expected.extend([0, 0]);
        expected.extend(address.port.to_ne_bytes());
        expected.extend(address.cid.to_ne_bytes());
        expected.extend([0; 4]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn addresses_as_they_are_written() {
        for (text, cid, port) in
            [("any:0", ANY, 0), ("local:1", LOCAL, 1), ("host:5001", HOST, 5001), ("7:80", 7, 80)]
        {
            assert_eq!(text.parse(), Ok(VsockAddr { cid, port }));
            assert_eq!(std::format!("{}", VsockAddr { cid, port }), text);
        }
        assert_eq!("2:5001".parse(), Ok(VsockAddr { cid: HOST, port: 5001 }));
        for wrong in
            ["", "5001", ":5001", "host:", "host", "-1:5001", "any:4294967295", "host:5001:1", "everybody:1"]
        {
            assert_eq!(wrong.parse::<VsockAddr>(), Err(NoVsockAddr), "{wrong}");
        }
    }

    #[test]
    fn a_listener_gets_a_port_of_its_own() {
        let listener = match listen(VsockAddr { cid: ANY, port: 0 }, 1) {
            Ok(listener) => listener,
            // A kernel without the family.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) => return,
            Err(error) => panic!("{error}"),
        };
        let at = listens_at(&listener).unwrap();
        assert!(at.cid == ANY && at.port != 0 && at.port != PORT_ANY, "{at}");
        assert_eq!(accept(&listener).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(listens_at(&unix).is_err(), "another family");
    }

    #[test]
    fn nobody_there_is_an_error_and_no_hang() {
        let limit = Some(Duration::from_millis(200));
        // The hypervisor itself, where nobody listens on such a port; without the family at all it is an error as well.
        let error = connect_stream(VsockAddr { cid: 0, port: u32::MAX - 7 }, limit).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }
}
