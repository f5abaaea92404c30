// SPDX-License-Identifier: Apache-2.0
//! From a virtual machine to its host: sockets of the family `AF_VSOCK`, see vsock(7).
//!
//! They carry bytes and no descriptors, so what goes over them is sent and not shared.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::AddressFamily;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

use crate::connect;

/// The host, as every virtual machine knows it (`VMADDR_CID_HOST`).
pub const HOST: u32 = 2;

/// A port of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VsockAddr {
    /// Which machine: its context id.
    pub cid: u32,
    /// Which port.
    pub port: u32,
}

/// `struct sockaddr_vm` of linux/vm_sockets.h.
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
    fn nobody_there_is_an_error_and_no_hang() {
        let limit = Some(Duration::from_millis(200));
        // The hypervisor itself, where nobody listens on such a port; without the family at all it is an error as well.
        let error = connect_stream(VsockAddr { cid: 0, port: u32::MAX - 7 }, limit).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }
}
