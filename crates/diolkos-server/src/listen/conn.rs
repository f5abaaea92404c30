// SPDX-License-Identifier: Apache-2.0
//! One connection, from accept to its end, in one task.
//!
//! ```text
//! accept ──may it?──> refuse (403, 503)
//!    │ yes
//! read until it is clear which HTTP ──header_timeout──> 408
//!    │                └──native──> served by `native`, until it is cut
//!    │
//! serve ──expired──> header: 408; idle, reply: close
//!    ├──client hung up──> close, which cancels what is in flight
//!    ├──evicted──> good-bye within EVICT_GRACE, then close
//!    └──draining──> finish what is in flight, then close
//! ```

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use diolkos_types::Code;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use super::activity::{Expired, Timeouts};
use super::callers::Callers;
use super::listener::{Listener, is_exhausted};
use super::peer::Peer;
use super::refuse::{self, Refusal, Refuser, Unproven};
use super::service::{ConnService, Fronts};
use super::socket::{Socket, Watched};
use super::table::{ConnState, Entry, Table};
use super::watchdog::Watchdog;
use crate::app::App;
use crate::audit::Action;
use crate::identity::{self, Claim, Directory};
use crate::limits;
use crate::logging::limited;
use crate::native::{Native, NativeFront, speaks_native};
use crate::sessions::{SessionLease, SessionPool};

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How far stopping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Serving.
    No,
    /// Nothing more is accepted; connections end when what is in flight has.
    Drain,
    /// Connections end now.
    Cut,
}

/// Returns once stopping has come so far.
async fn at_least(stop: &mut watch::Receiver<Stop>, stage: Stop) {
    // A sender that is gone can't say any more that it stopped, so it has.
    let _ = stop.wait_for(|now| *now >= stage).await;
}

/// Everything that connections share.
#[derive(Clone)]
pub(crate) struct Rim {
    app: Arc<App>,
    fronts: Fronts,
    native: Arc<NativeFront>,
    sessions: Arc<SessionPool>,
    table: Arc<Table>,
    refuser: Refuser,
    stop: watch::Receiver<Stop>,
}

impl Rim {
    /// The rim around an engine, until `stop` says otherwise.
    pub(crate) fn new(
        app: Arc<App>,
        rest: axum::Router,
        grpc: axum::Router,
        stop: watch::Receiver<Stop>,
    ) -> Rim {
        Rim {
            app,
            fronts: Fronts { rest, grpc },
            native: Arc::default(),
            sessions: Arc::default(),
            table: Arc::default(),
            refuser: Refuser::default(),
            stop,
        }
    }

    /// The connections there are.
    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Accepts until told to stop. The listener is closed at the end.
    pub(crate) async fn accept_until_stopped(self, listener: Listener) {
        let mut stop = self.stop.clone();
        let mut stopped = pin!(at_least(&mut stop, Stop::Drain));
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => self.admit(socket, peer),
                Err(error) if is_exhausted(&error) => {
                    let evicted = self.table.make_room();
                    limited!(warn, address = %listener.bound(), %error, evicted,
                        "can't accept: raise the limit of open files, or lower limits.connections_max");
                    tokio::select! {
                        biased;
                        () = &mut stopped => return,
                        () = tokio::time::sleep(limits::ACCEPT_PAUSE) => {}
                    }
                }
                // The client went away before it was accepted; the next one is none the worse.
                Err(error) => tracing::debug!(address = %listener.bound(), %error, "accepting failed"),
            }
        }
    }

    fn admit(&self, socket: Socket, mut peer: Peer) {
        let settings = self.app.settings();
        let directory = self.app.directory();
        identity::ask_kernel(&mut peer, &socket, &directory);
        let claim = directory.claim(&peer);
        match self.let_in(&peer, &claim, settings.limits.connections_max, &directory) {
            Ok((entry, lease)) => {
                let limits = &settings.limits;
                let timeouts = Timeouts {
                    header: limits.header_timeout.get(),
                    idle: limits.idle_timeout.get(),
                    body: limits.body_timeout.get(),
                };
                tokio::spawn(self.clone().serve(socket, peer, entry, lease, timeouts));
            }
            Err(refusal) => {
                limited!(warn, %peer, reason = refusal.name(), "refused a connection");
                self.app.counters.refused(refusal);
                let code = match refusal {
                    Refusal::Forbidden(_) => Code::PermissionDenied,
                    Refusal::Full | Refusal::Sessions => Code::Busy,
                };
                let tenant = match &claim {
                    Claim::Tenant(tenant) => Some(tenant),
                    Claim::Token | Claim::Nobody => None,
                };
                self.app.audit.refused(tenant, Some(&peer), Action::Connect, code, refusal.name());
                self.refuser.refuse(socket, refusal);
            }
        }
    }

    /// A place in the table and a session, for whoever it is. Somebody who has to show a token first has no session yet.
    fn let_in(
        &self,
        peer: &Peer,
        claim: &Claim,
        connections_max: usize,
        directory: &Directory,
    ) -> Result<(Entry, Option<SessionLease>), Refusal> {
        let (tenant, own_limit) = match claim {
            Claim::Tenant(tenant) => (Some(tenant), directory.rights(tenant).connections_max),
            // Those who have shown nothing together have half of what there is.
            Claim::Token => (None, (connections_max as u64).div_ceil(2)),
            Claim::Nobody => {
                let unproven = match (&peer.of_listener, peer.uid) {
                    (Some(_), _) => Unproven::Gone,
                    (None, Some(uid)) => Unproven::Uid(uid),
                    (None, None) => Unproven::Nothing,
                };
                return Err(Refusal::Forbidden(unproven));
            }
        };
        let entered = self.table.enter(tenant.cloned(), connections_max, own_limit);
        let (entry, evicts) = entered.map_err(|_| Refusal::Full)?;
        if evicts {
            self.app.counters.evicted();
        }
        let lease = tenant.map(|tenant| self.sessions.lease(&self.app, peer, tenant)).transpose();
        lease.map(|lease| (entry, lease)).map_err(|_| Refusal::Sessions)
    }

    async fn serve(
        self,
        mut socket: Socket,
        peer: Peer,
        entry: Entry,
        lease: Option<SessionLease>,
        timeouts: Timeouts,
    ) {
        let _open = self.app.counters.connection_opened(peer.transport);
        let connection = entry.connection().clone();
        let first = self.first_bytes(&mut socket, &connection, &timeouts).await;
        let (spoken, replay) = match first {
            First::Spoken(spoken, replay) => (spoken, replay),
            First::Gone => return,
            First::Expired(expired) => {
                self.app.counters.expired(expired);
                if expired == Expired::Header {
                    refuse::too_slow(socket).await;
                }
                return;
            }
        };
        if spoken == Spoken::Native {
            // Its session ends with its connection, so the one of its process is not its.
            if let Some(lease) = lease {
                lease.discard();
            }
            self.serve_native(socket, peer, &replay, &entry).await;
            return drop(entry);
        }
        let callers = Callers {
            app: self.app.clone(),
            sessions: self.sessions.clone(),
            peer,
            place: entry.place(),
            by_transport: lease,
            by_token: Mutex::default(),
        };
        let service = ConnService {
            app: self.app.clone(),
            fronts: self.fronts.clone(),
            callers,
            connection: connection.clone(),
            requests: AtomicU64::new(0),
        };
        let hung_up = socket.clone().hung_up();
        let io = TokioIo::new(Watched::new(socket, replay, connection.clone(), spoken == Spoken::Http1));
        let http = Http::new(spoken, io, service);
        self.converse(http, hung_up, &connection, &timeouts).await;
        // The sessions were given back with the service.
        drop(entry);
    }

    /// A native connection counts as busy for as long as it is there: what its client keeps open in it can't be
    /// taken up again by another connection.
    async fn serve_native(&self, socket: Socket, peer: Peer, replay: &[u8], entry: &Entry) {
        entry.connection().activity().request_began(0);
        let place = entry.place();
        let native = Native { app: self.app.clone(), front: self.native.clone(), socket, peer, place };
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            () = at_least(&mut stop, Stop::Cut) => {}
            () = native.serve(replay, self.stop.clone()) => {}
        }
    }

    /// Reads until it is clear what the client speaks.
    async fn first_bytes(&self, socket: &mut Socket, connection: &ConnState, timeouts: &Timeouts) -> First {
        let mut stop = self.stop.clone();
        let read = async {
            let mut bytes = BytesMut::with_capacity(PREFACE.len());
            loop {
                match socket.read_buf(&mut bytes).await {
                    Ok(0) | Err(_) => return First::Gone,
                    Ok(_) => connection.activity().bytes_arrived(Instant::now()),
                }
                if speaks_native(&bytes) {
                    return First::Spoken(Spoken::Native, bytes.freeze());
                }
                let length = bytes.len().min(PREFACE.len());
                if bytes[..length] != PREFACE[..length] {
                    return First::Spoken(Spoken::Http1, bytes.freeze());
                }
                if length == PREFACE.len() {
                    connection.activity().preface_ended(Instant::now());
                    return First::Spoken(Spoken::Http2, bytes.freeze());
                }
            }
        };
        let mut watchdog = Watchdog::new(connection, timeouts);
        let mut read = pin!(read);
        let watched = poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(first) => Poll::Ready(first),
            Poll::Pending => watchdog.poll(cx).map(First::Expired),
        });
        tokio::select! {
            biased;
            () = at_least(&mut stop, Stop::Drain) => First::Gone,
            () = connection.evicted() => First::Gone,
            first = watched => first,
        }
    }

    async fn converse(
        &self,
        mut http: Http,
        hung_up: impl Future<Output = ()>,
        connection: &ConnState,
        timeouts: &Timeouts,
    ) {
        let mut hung_up = pin!(hung_up);
        let (mut drain, mut cut) = (self.stop.clone(), self.stop.clone());
        let mut drained = pin!(at_least(&mut drain, Stop::Drain));
        let mut cut = pin!(at_least(&mut cut, Stop::Cut));
        let mut evicted = pin!(connection.evicted());
        let mut watchdog = Watchdog::new(connection, timeouts);
        let mut saying_good_bye = false;
        let end = poll_fn(|cx| {
            loop {
                if let Poll::Ready(result) = http.poll(cx) {
                    return Poll::Ready(End::Closed(result));
                }
                // With bytes of a next request in its buffer, hyper reads nothing while one is in flight, and
                // would not learn that nobody waits for the reply. HTTP/2 is always read.
                if http.is_one()
                    && connection.activity().has_requests()
                    && hung_up.as_mut().poll(cx).is_ready()
                {
                    return Poll::Ready(End::HungUp);
                }
                if evicted.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(End::Evicted);
                }
                if cut.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(End::Cut);
                }
                if !saying_good_bye && drained.as_mut().poll(cx).is_ready() {
                    saying_good_bye = true;
                    http.say_good_bye();
                    continue;
                }
                return watchdog.poll(cx).map(End::Expired);
            }
        })
        .await;
        match end {
            End::Closed(Ok(())) | End::HungUp | End::Cut => {}
            End::Closed(Err(error)) => tracing::debug!(%error, "a connection ended badly"),
            End::Evicted => {
                http.say_good_bye();
                // Whatever has not ended by then is dropped with the connection.
                let _ = tokio::time::timeout(limits::EVICT_GRACE, poll_fn(|cx| http.poll(cx))).await;
            }
            End::Expired(expired) => {
                self.app.counters.expired(expired);
                let socket = http.into_socket().filter(|_| !connection.activity().is_write_blocked());
                if expired == Expired::Header
                    && let Some(socket) = socket
                {
                    refuse::too_slow(socket).await;
                }
            }
        }
    }
}

/// What the first bytes of a connection said.
enum First {
    Spoken(Spoken, Bytes),
    Gone,
    Expired(Expired),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http2,
    Native,
}

enum End {
    Closed(hyper::Result<()>),
    HungUp,
    Evicted,
    Cut,
    Expired(Expired),
}

type Io = TokioIo<Watched>;

/// The two versions of HTTP, alike.
enum Http {
    One(Box<http1::Connection<Io, ConnService>>),
    Two(Pin<Box<http2::Connection<Io, ConnService, TokioExecutor>>>),
}

impl Http {
    fn new(spoken: Spoken, io: Io, service: ConnService) -> Http {
        match spoken {
            // Native connections have been served by now.
            Spoken::Http1 | Spoken::Native => Http::One(Box::new(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    // The watchdog does this; hyper's timer would also run between requests.
                    .header_read_timeout(None)
                    .max_headers(limits::HEADER_FIELDS_MAX)
                    .max_header_size(limits::HEADER_BYTES_MAX)
                    .serve_connection(io, service),
            )),
            Spoken::Http2 => Http::Two(Box::pin(
                http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(limits::STREAMS_MAX)
                    .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
                    .max_frame_size(limits::FRAME_BYTES_MAX)
                    .max_header_list_size(u32::try_from(limits::HEADER_BYTES_MAX).unwrap_or(u32::MAX))
                    .max_pending_accept_reset_streams(limits::RESET_STREAMS_MAX)
                    .max_local_error_reset_streams(limits::RESET_STREAMS_MAX)
                    .max_send_buf_size(limits::SEND_BUFFER_BYTES)
                    .keep_alive_interval(limits::PING_INTERVAL)
                    .keep_alive_timeout(limits::PING_TIMEOUT)
                    .serve_connection(io, service),
            )),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        match self {
            Http::One(http) => Pin::new(&mut **http).poll(cx),
            Http::Two(http) => http.as_mut().poll(cx),
        }
    }

    fn is_one(&self) -> bool {
        matches!(self, Http::One(_))
    }

    /// Takes no further request and ends when those in flight have.
    fn say_good_bye(&mut self) {
        match self {
            Http::One(http) => Pin::new(&mut **http).graceful_shutdown(),
            Http::Two(http) => http.as_mut().graceful_shutdown(),
        }
    }

    /// The socket, for a last word, where the protocol has one.
    fn into_socket(self) -> Option<Watched> {
        match self {
            Http::One(http) => Some(http.into_parts().io.into_inner()),
            Http::Two(_) => None,
        }
    }
}
