// SPDX-License-Identifier: Apache-2.0
//! Every way in, and how either of the two comes through it.

use std::io::Write as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use diolkos_server::BoundAddress;
use diolkos_shm::vsock::{self, VsockAddr};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::certificates::client_config;
use crate::users::as_user;
use crate::world::{Who, World};

/// Ends what would hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(crate) type Connection = Box<dyn Io>;

/// A way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// Each has a unix socket of its own. Hybrid vsock is this, too.
    UnixSocket,
    /// One unix socket for all; the kernel says whose user it is.
    UnixUser,
    /// Somebody who speaks for both.
    Bridge,
    /// A token, over TCP.
    TcpToken,
    /// The kernel says whose user it is, over TCP.
    TcpUser,
    /// A token, over TLS.
    TlsToken,
    /// A certificate.
    Certificate,
    /// The machine: the hostile one is this one, and the victim another.
    Machine,
}

/// What a request says of who sends it, beside what the connection shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    pub(crate) token: Option<String>,
    pub(crate) tenant: Option<String>,
}

impl Claims {
    /// As headers of HTTP.
    pub(crate) fn headers(&self) -> Vec<(&'static str, String)> {
        let token = self.token.iter().map(|token| ("authorization", format!("Bearer {token}")));
        let tenant = self.tenant.iter().map(|tenant| ("x-diolkos-tenant", tenant.clone()));
        token.chain(tenant).collect()
    }
}

impl Door {
    /// Those that this machine has.
    pub(crate) fn all(world: &World) -> Vec<Door> {
        let mut doors =
            vec![Door::UnixSocket, Door::Bridge, Door::TcpToken, Door::TlsToken, Door::Certificate];
        if world.has_users {
            doors.extend([Door::UnixUser, Door::TcpUser]);
        }
        if machine_port(world).is_some() && std::env::var_os("DIOLKOS_TEST_VSOCK_RELAY").is_some() {
            doors.push(Door::Machine);
        }
        let must = std::env::var_os("DIOLKOS_TEST_VSOCK").is_some();
        assert!(
            !must || (world.has_users && doors.contains(&Door::Machine)),
            "there is more here: {doors:?}"
        );
        doors
    }

    /// Whether the two are different users of the system.
    pub(crate) fn has_users(self) -> bool {
        matches!(self, Door::UnixUser | Door::TcpUser)
    }

    pub(crate) fn claims(self, world: &World, who: Who) -> Claims {
        match self {
            Door::TcpToken | Door::TlsToken => {
                Claims { token: Some(world.tokens.of(who).clone()), ..Claims::default() }
            }
            Door::Bridge => Claims { tenant: Some(who.tenant().into()), ..Claims::default() },
            _ => Claims::default(),
        }
    }

    /// Connects, to speak `protocol` (an ALPN protocol id; empty for the native one).
    pub(crate) async fn connect(self, world: &World, who: Who, protocol: &str) -> Connection {
        let connecting = self.connect_now(world, who, protocol);
        tokio::time::timeout(PATIENCE, connecting).await.expect("it connects")
    }

    async fn connect_now(self, world: &World, who: Who, protocol: &str) -> Connection {
        match self {
            Door::UnixSocket => unix(world, &format!("{}.sock", who.tenant())).await,
            Door::Bridge => unix(world, "bridge.sock").await,
            Door::UnixUser => {
                let path = world.socket("users.sock");
                let stream = as_user(who.uid(), move || StdUnixStream::connect(path).unwrap());
                stream.set_nonblocking(true).unwrap();
                Box::new(UnixStream::from_std(stream).unwrap())
            }
            Door::TcpToken => Box::new(at_once(TcpStream::connect(tcp(world, 0)).await.unwrap())),
            Door::TcpUser => {
                let address = tcp(world, 0);
                let stream = as_user(who.uid(), move || std::net::TcpStream::connect(address).unwrap());
                stream.set_nonblocking(true).unwrap();
                Box::new(at_once(TcpStream::from_std(stream).unwrap()))
            }
            Door::TlsToken | Door::Certificate => {
                let shown = (self == Door::Certificate).then(|| world.certificates.of(who));
                let config = client_config(&world.ca, shown, protocol);
                let tcp = at_once(TcpStream::connect(tcp(world, 1)).await.unwrap());
                let name = ServerName::try_from("localhost").unwrap();
                Box::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap())
            }
            Door::Machine => {
                let port = machine_port(world).unwrap();
                tokio::task::spawn_blocking(move || machine(who, port)).await.unwrap()
            }
        }
    }
}

/// Without it small frames wait for each other.
fn at_once(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream
}

async fn unix(world: &World, name: &str) -> Connection {
    Box::new(UnixStream::connect(world.socket(name)).await.unwrap())
}

fn tcp(world: &World, index: usize) -> std::net::SocketAddr {
    let tcp = |address: &BoundAddress| match address {
        BoundAddress::Tcp(address) => Some(*address),
        BoundAddress::Unix(_) | BoundAddress::Vsock(_) => None,
    };
    world.daemon.addresses().iter().filter_map(tcp).nth(index).unwrap()
}

fn machine_port(world: &World) -> Option<u32> {
    let vsock = |address: &BoundAddress| match address {
        BoundAddress::Vsock(address) => Some(address.port),
        _ => None,
    };
    world.daemon.addresses().iter().find_map(vsock)
}

/// From this machine, or from the host, which connects back when it is told a port (`tests/vm/run.py`).
fn machine(who: Who, port: u32) -> Connection {
    let cid_and_port = match who {
        Who::Hostile => (vsock::LOCAL, port),
        Who::Victim => (vsock::HOST, std::env::var("DIOLKOS_TEST_VSOCK_RELAY").unwrap().parse().unwrap()),
    };
    let (cid, to) = cid_and_port;
    let mut stream =
        StdUnixStream::from(vsock::connect_stream(VsockAddr { cid, port: to }, Some(PATIENCE)).unwrap());
    if who == Who::Victim {
        writeln!(stream, "{port}").unwrap();
    }
    stream.set_nonblocking(true).unwrap();
    Box::new(UnixStream::from_std(stream).unwrap())
}
