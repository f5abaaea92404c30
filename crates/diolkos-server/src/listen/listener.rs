// SPDX-License-Identifier: Apache-2.0
//! Binding, and accepting until told to stop.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diolkos_shm::vsock::{self, VsockAddr};
use diolkos_types::TenantId;
use rustix::io::Errno;
use rustix::net::AddressFamily;

use super::address::{Address, AddressError, BoundAddress, tcp_addresses};
use super::peer::{Peer, Transport};
use super::socket::Socket;
use super::socket_file::{self, SocketFile};
use super::tls::{Tls, TlsError};
use super::vsock::VsockListener;
use crate::limits;
use crate::settings::Listen;

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is none, or none that is allowed.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Another daemon serves there.
    #[error("another daemon listens on `{}`; stop it or choose another path", .path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// A file that is not ours to remove.
    #[error("`{}` exists and is no socket; remove it or choose another path", .path.display())]
    NoSocket {
        /// The file.
        path: PathBuf,
    },
    /// Its certificates are not as they should be.
    #[error("can't speak TLS on `{address}`")]
    Tls {
        /// What was asked for.
        address: String,
        /// What is wrong.
        source: Box<TlsError>,
    },
    /// The system refused.
    #[error("can't listen on `{address}`")]
    Bind {
        /// What was asked for.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused, for virtual machines.
    #[error("can't listen on `{address}`{hint}")]
    Vsock {
        /// What was asked for.
        address: String,
        /// What that may mean, as the end of a sentence.
        hint: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What the service manager passed is nothing that can be accepted on.
    #[error("socket {index} of the service manager {problem}")]
    Passed {
        /// Which, from 0.
        index: usize,
        /// What is wrong with it, as the end of a sentence.
        problem: String,
    },
}

#[derive(Debug)]
enum Kind {
    Unix(tokio::net::UnixListener),
    Tcp(tokio::net::TcpListener),
    Vsock(VsockListener),
}

/// Something to accept connections on.
#[derive(Debug)]
pub(crate) struct Listener {
    kind: Kind,
    bound: BoundAddress,
    /// Whom everybody who connects here is served as.
    tenant: Option<TenantId>,
    /// What TLS is answered with, if it is spoken here.
    tls: Option<Arc<Tls>>,
    /// Removed when the listener goes; none for TCP and for sockets of the service manager.
    _file: Option<SocketFile>,
}

impl Listener {
    /// Listens on an address; a name may mean several (IPv4 and IPv6). Must be called within a runtime.
    pub(crate) fn bind(listen: &Listen, mode: u32) -> Result<Vec<Listener>, ListenError> {
        let tenant = listen.tenant.as_deref().map(TenantId::new);
        // Everybody is the tenant there, so the certificate is what lets in.
        let tls = listen.tls.as_ref().map(|files| Tls::load(files, tenant.is_some())).transpose();
        let tls = tls.map_err(|source| ListenError::Tls {
            address: listen.address.to_string(),
            source: Box::new(source),
        })?;
        let tls = tls.map(Arc::new);
        let mut listeners = Listener::bind_address(listen, mode)?;
        for listener in &mut listeners {
            (listener.tenant, listener.tls) = (tenant.clone(), tls.clone());
        }
        Ok(listeners)
    }

    fn bind_address(listen: &Listen, mode: u32) -> Result<Vec<Listener>, ListenError> {
        match &listen.address {
            Address::Unix(path) => {
                Ok(vec![Listener::bind_unix(path, listen.mode.map_or(mode, |mode| mode.get()))?])
            }
            Address::Tcp { host, port } => {
                let mut resolved = tcp_addresses(host, *port, listen.insecure || listen.tls.is_some())?;
                if *port == 0 {
                    // Each would get a port of its own, and a client could know only one.
                    resolved.truncate(1);
                }
                resolved.into_iter().map(|one| Listener::bind_tcp(&one.to_string(), one)).collect()
            }
            Address::Vsock(address) => Ok(vec![Listener::bind_vsock(*address)?]),
        }
    }

    fn bind_unix(path: &Path, mode: u32) -> Result<Listener, ListenError> {
        let path = std::path::absolute(path)
            .map_err(|source| ListenError::Bind { address: format!("unix:{}", path.display()), source })?;
        let bytes = path.as_os_str().len();
        if bytes > limits::UNIX_PATH_BYTES_MAX {
            return Err(AddressError::PathTooLong { path, bytes }.into());
        }
        let (socket, file) = socket_file::bind(&path, mode)?;
        let listener = tokio::net::UnixListener::from_std(socket.into())
            .map_err(|source| ListenError::Bind { address: format!("unix:{}", path.display()), source })?;
        let bound = BoundAddress::Unix(path);
        Ok(Listener { kind: Kind::Unix(listener), bound, tenant: None, tls: None, _file: Some(file) })
    }

    fn bind_tcp(name: &str, address: std::net::SocketAddr) -> Result<Listener, ListenError> {
        let fail = |source| ListenError::Bind { address: format!("tcp:{name}"), source };
        let socket =
            if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
        let socket = socket.map_err(fail)?;
        socket.set_reuseaddr(true).map_err(fail)?;
        socket.bind(address).map_err(fail)?;
        let listener = socket.listen(limits::LISTEN_BACKLOG.unsigned_abs()).map_err(fail)?;
        let bound = BoundAddress::Tcp(listener.local_addr().map_err(fail)?);
        Ok(Listener { kind: Kind::Tcp(listener), bound, tenant: None, tls: None, _file: None })
    }

    fn bind_vsock(address: VsockAddr) -> Result<Listener, ListenError> {
        let fail = |source: io::Error| {
            let hint = match Errno::from_io_error(&source) {
                Some(Errno::AFNOSUPPORT) => ": this kernel has no vsock (modprobe vhost_vsock on a host)",
                Some(Errno::ADDRNOTAVAIL) => ": that is no CID of this machine; write vsock:any:PORT",
                _ => "",
            };
            ListenError::Vsock { address: format!("vsock:{address}"), hint, source }
        };
        let socket = vsock::listen(address, limits::LISTEN_BACKLOG).map_err(fail)?;
        Listener::vsock(socket).map_err(fail)
    }

    fn vsock(socket: OwnedFd) -> io::Result<Listener> {
        let listener = VsockListener::new(socket)?;
        let bound = BoundAddress::Vsock(listener.address()?);
        Ok(Listener { kind: Kind::Vsock(listener), bound, tenant: None, tls: None, _file: None })
    }

    /// Takes over a listening socket that the service manager made.
    pub(crate) fn passed(index: usize, socket: OwnedFd) -> Result<Listener, ListenError> {
        let fail = |problem: String| ListenError::Passed { index, problem };
        let of_io = |error: io::Error| fail(format!("can't be used ({error})"));
        let family = rustix::net::getsockname(&socket).map_err(|errno| of_io(errno.into()))?.address_family();
        rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| of_io(errno.into()))?;
        if family == AddressFamily::UNIX {
            let listener = tokio::net::UnixListener::from_std(socket.into()).map_err(of_io)?;
            let path = listener.local_addr().map_err(of_io)?.as_pathname().map(Path::to_path_buf);
            let path =
                path.ok_or_else(|| fail("has no path; abstract sockets have no permissions".into()))?;
            let bound = BoundAddress::Unix(path);
            return Ok(Listener { kind: Kind::Unix(listener), bound, tenant: None, tls: None, _file: None });
        }
        if family == AddressFamily::VSOCK {
            return Listener::vsock(socket).map_err(of_io);
        }
        if family != AddressFamily::INET && family != AddressFamily::INET6 {
            return Err(fail("is neither a unix nor a TCP nor a vsock socket".into()));
        }
        let listener = tokio::net::TcpListener::from_std(socket.into()).map_err(of_io)?;
        let address = listener.local_addr().map_err(of_io)?;
        if !address.ip().is_loopback() {
            let address = format!("tcp:{address}");
            return Err(AddressError::NotLoopback { address, resolved: String::new() }.into());
        }
        let bound = BoundAddress::Tcp(address);
        Ok(Listener { kind: Kind::Tcp(listener), bound, tenant: None, tls: None, _file: None })
    }

    /// Where it listens.
    pub(crate) fn bound(&self) -> &BoundAddress {
        &self.bound
    }

    /// Whether others than this host can connect.
    pub(crate) fn is_open_to_others(&self) -> bool {
        matches!(self.bound, BoundAddress::Tcp(address) if !address.ip().is_loopback())
    }

    /// What TLS is answered with, if it is spoken here.
    pub(crate) fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// Whether it is for one tenant.
    pub(crate) fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        let (socket, peer) = self.accept_any().await?;
        let transport = if self.tls.is_some() { Transport::Tls } else { peer.transport };
        Ok((socket, Peer { transport, of_listener: self.tenant.clone(), ..peer }))
    }

    async fn accept_any(&self) -> io::Result<(Socket, Peer)> {
        match &self.kind {
            Kind::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let credentials = stream.peer_cred()?;
                let peer = Peer::unix(credentials.uid(), credentials.pid());
                Ok((stream.into(), peer))
            }
            Kind::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Small replies must not wait for an acknowledgement (Nagle and delayed ACK: 40 ms).
                stream.set_nodelay(true)?;
                Ok((stream.into(), Peer::tcp()))
            }
            Kind::Vsock(listener) => {
                let (socket, cid) = listener.accept().await?;
                Ok((socket, Peer::vsock(cid)))
            }
        }
    }
}

/// Whether accepting failed because the process or the node ran out of something, so that trying again
/// at once would only spin.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    Errno::from_io_error(error).is_some_and(|errno| exhausted.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn port_zero_becomes_a_real_one() {
        let listeners = Listener::bind(&"tcp:localhost:0".parse().unwrap(), 0o600).unwrap();
        let [listener] = &listeners[..] else { panic!("one port, one listener") };
        let BoundAddress::Tcp(address) = listener.bound() else { panic!("tcp") };
        assert!(address.port() > 0 && address.ip().is_loopback());
    }

    #[tokio::test]
    async fn long_paths_are_told() {
        let path = format!("unix:/{}", "x".repeat(107));
        let error = Listener::bind(&path.parse().unwrap(), 0o600).unwrap_err().to_string();
        assert!(error.ends_with("has 108 bytes; the kernel takes at most 107"), "{error}");
    }

    #[test]
    fn knows_exhaustion() {
        assert!(is_exhausted(&Errno::MFILE.into()));
        assert!(!is_exhausted(&Errno::CONNABORTED.into()));
    }
}
