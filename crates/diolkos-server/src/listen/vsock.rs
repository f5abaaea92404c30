// SPDX-License-Identifier: Apache-2.0
//! Sockets of the family `AF_VSOCK` on tokio, which has no type for them. Its `UnixStream` takes any descriptor of a socket, waits
//! for it, and reads and writes with the calls that every stream socket knows; nothing that is for unix sockets alone is asked of it.

use std::io;
use std::os::fd::OwnedFd;

use diolkos_shm::vsock::{self, VsockAddr};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::socket::Socket;

/// Something to accept connections of virtual machines on.
#[derive(Debug)]
pub(super) struct VsockListener(UnixStream);

impl VsockListener {
    /// From a socket that listens and does not block. Must be called within a runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<VsockListener> {
        Ok(VsockListener(UnixStream::from_std(socket.into())?))
    }

    pub(super) fn address(&self) -> io::Result<VsockAddr> {
        vsock::listens_at(&self.0)
    }

    /// The next connection, and the CID of the machine that it comes from.
    pub(super) async fn accept(&self) -> io::Result<(Socket, u32)> {
        let (socket, from) = self.0.async_io(Interest::READABLE, || vsock::accept(&self.0)).await?;
        Ok((Socket::Vsock(UnixStream::from_std(socket.into())?.into()), from.cid))
    }
}
