// SPDX-License-Identifier: Apache-2.0
//! One connection, from accept to its end, in one task.
//!
//! ```text
//! accept ──may it?──> refuse (403, 503)
//!    │ yes                    ^
//! TLS, where it is spoken ────┤ now it is known who it is
//!    │
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
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use diolkos_types::{Code, TenantId};
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
use super::tls::Tls;
use super::watchdog::Watchdog;
use crate::app::App;
use crate::audit::Action;
use crate::identity::{self, Claim, Directory, Rights};
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

/// Returns once nothing more is accepted.
pub(crate) async fn draining(mut stop: watch::Receiver<Stop>) {
    at_least(&mut stop, Stop::Drain).await;
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
            if let Some(wait) = self.pause_before(&listener) {
                tokio::select! {
                    biased;
                    () = &mut stopped => return,
                    // Not all at once: the rate may be another one by then.
                    () = tokio::time::sleep(wait.min(limits::PACE_LOOK)) => continue,
                }
            }
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => self.admit(socket, peer, listener.tls()),
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

    /// How long not to accept, where a tenant that has its own socket connects too often.
    fn pause_before(&self, listener: &Listener) -> Option<Duration> {
        let tenant = listener.tenant()?;
        self.table.paces().wait(tenant, self.app.directory().rights(tenant).connection_rate)
    }

    /// A tenant is no longer served: its connections are cut, and its sessions end with them.
    pub(crate) fn end_tenant(&self, tenant: &TenantId) {
        self.table.end_tenant(tenant);
        self.sessions.forget(tenant);
    }

    fn admit(&self, socket: Socket, mut peer: Peer, tls: Option<&Arc<Tls>>) {
        let settings = self.app.settings();
        let directory = self.app.directory();
        identity::ask_kernel(&mut peer, &socket, &directory);
        let claim = match tls {
            // The handshake will tell.
            Some(_) if peer.of_listener.is_none() => Claim::Token,
            _ => directory.claim(&peer),
        };
        match self.let_in(&peer, &claim, settings.limits.connections_max, &directory) {
            Ok((entry, lease)) => {
                let limits = &settings.limits;
                let timeouts = Timeouts {
                    header: limits.header_timeout.get(),
                    idle: limits.idle_timeout.get(),
                    body: limits.body_timeout.get(),
                };
                let serving = Serving { rim: self.clone(), peer, entry, lease, timeouts };
                tokio::spawn(serving.serve(socket, tls.cloned()));
            }
            Err(refusal) => {
                self.refused(&peer, claim.tenant(), refusal, refusal.name());
                self.refuser.refuse(socket, refusal);
            }
        }
    }

    /// Writes down that a connection was refused.
    fn refused(&self, peer: &Peer, tenant: Option<&TenantId>, refusal: Refusal, reason: &str) {
        limited!(warn, %peer, reason, "refused a connection");
        self.app.counters.refused(refusal);
        let code = match refusal {
            Refusal::Forbidden(_) | Refusal::Handshake => Code::PermissionDenied,
            Refusal::Full | Refusal::Rate | Refusal::Sessions => Code::Busy,
        };
        self.app.audit.refused(tenant, Some(peer), Action::Connect, code, reason);
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
            Claim::Tenant(tenant) => {
                let rights = directory.rights(tenant);
                if !self.table.paces().connects(tenant, rights.connection_rate) {
                    return Err(Refusal::Rate);
                }
                (Some(tenant), rights.connections_max)
            }
            // Those who have shown nothing together have half of what there is.
            Claim::Token => (None, (connections_max as u64).div_ceil(2)),
            Claim::Nobody => return Err(Refusal::Forbidden(Unproven::of(peer))),
        };
        let entered = self.table.enter(tenant.cloned(), connections_max, own_limit);
        let (entry, evicts) = entered.map_err(|_| Refusal::Full)?;
        if evicts {
            self.app.counters.evicted();
        }
        let lease = tenant.map(|tenant| self.sessions.lease(&self.app, peer, tenant)).transpose();
        lease.map(|lease| (entry, lease)).map_err(|_| Refusal::Sessions)
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
            () = entry.connection().evicted() => {}
            () = native.serve(replay, self.stop.clone()) => {}
        }
    }

    async fn serve_http(
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

/// One connection that was let in.
struct Serving {
    rim: Rim,
    peer: Peer,
    entry: Entry,
    /// The session of whoever the transport proved.
    lease: Option<SessionLease>,
    timeouts: Timeouts,
}

impl Serving {
    async fn serve(mut self, socket: Socket, tls: Option<Arc<Tls>>) {
        let _open = self.rim.app.counters.connection_opened(self.peer.transport);
        let socket = match tls {
            None => Some(socket),
            Some(tls) => self.shake_hands(socket, &tls).await,
        };
        if let Some(socket) = socket {
            self.converse(socket).await;
        }
    }

    /// TLS, and then it is known who this is; `None` if that is nobody, who was told.
    async fn shake_hands(&mut self, socket: Socket, tls: &Tls) -> Option<Socket> {
        // What speaks TLS listens on TCP.
        let Socket::Tcp(tcp) = socket else { return None };
        let connection = self.entry.connection().clone();
        // It has as much time as a header.
        connection.activity().bytes_arrived(Instant::now());
        let shaken = match self.unless_late(tls.accept(tcp)).await {
            Ok(shaken) => shaken,
            Err(early) => {
                self.count(early);
                return None;
            }
        };
        connection.activity().preface_ended(Instant::now());
        match shaken {
            Ok((socket, certificate)) => {
                self.peer.certificate = certificate;
                match self.identify() {
                    Ok(()) => Some(socket),
                    Err((tenant, refusal)) => {
                        self.rim.refused(&self.peer, tenant.as_ref(), refusal, refusal.name());
                        self.rim.refuser.refuse(socket, refusal);
                        None
                    }
                }
            }
            Err(error) => {
                let reason = format!("TLS: {error}");
                self.rim.refused(&self.peer, None, Refusal::Handshake, &reason);
                None
            }
        }
    }

    /// Takes the session of whoever the handshake proved, unless the address said before whose it is.
    fn identify(&mut self) -> Result<(), (Option<TenantId>, Refusal)> {
        if self.lease.is_some() {
            return Ok(());
        }
        let directory = self.rim.app.directory();
        let tenant = match directory.claim(&self.peer) {
            Claim::Tenant(tenant) => tenant,
            Claim::Token => return Ok(()),
            Claim::Nobody => return Err((None, Refusal::Forbidden(Unproven::of(&self.peer)))),
        };
        let Rights { connections_max, connection_rate, .. } = directory.rights(&tenant);
        if !self.rim.table.paces().connects(&tenant, connection_rate) {
            return Err((Some(tenant), Refusal::Rate));
        }
        if self.entry.place().belongs_to(&tenant, connections_max).is_err() {
            return Err((Some(tenant), Refusal::Full));
        }
        match self.rim.sessions.lease(&self.rim.app, &self.peer, &tenant) {
            Ok(lease) => self.lease = Some(lease),
            Err(_) => return Err((Some(tenant), Refusal::Sessions)),
        }
        Ok(())
    }

    /// What comes before the first request: it ends when the connection has to make room, when the daemon stops, and when
    /// it takes too long.
    async fn unless_late<T>(&self, work: impl Future<Output = T>) -> Result<T, Early> {
        let connection = self.entry.connection();
        let mut stop = self.rim.stop.clone();
        let mut watchdog = Watchdog::new(connection, &self.timeouts);
        let mut work = pin!(work);
        let watched = poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => watchdog.poll(cx).map(|expired| Err(Early::Expired(expired))),
        });
        tokio::select! {
            biased;
            () = at_least(&mut stop, Stop::Drain) => Err(Early::Gone),
            () = connection.evicted() => Err(Early::Gone),
            done = watched => done,
        }
    }

    fn count(&self, early: Early) {
        if let Early::Expired(expired) = early {
            self.rim.app.counters.expired(expired);
        }
    }

    async fn converse(mut self, mut socket: Socket) {
        let connection = self.entry.connection().clone();
        let first = self.unless_late(first_bytes(&mut socket, &connection)).await;
        let (spoken, replay) = match first {
            Ok(Some(first)) => first,
            Ok(None) => return,
            Err(early) => {
                self.count(early);
                if early == Early::Expired(Expired::Header) {
                    refuse::too_slow(socket).await;
                }
                return;
            }
        };
        let lease = self.lease.take();
        if spoken == Spoken::Native {
            // Its session ends with its connection, so the one of its process is not its.
            if let Some(lease) = lease {
                lease.discard();
            }
            return self.rim.serve_native(socket, self.peer, &replay, &self.entry).await;
        }
        let Serving { rim, peer, entry, timeouts, .. } = self;
        let callers = Arc::new(Callers {
            app: rim.app.clone(),
            sessions: rim.sessions.clone(),
            peer,
            place: entry.place(),
            by_transport: lease,
            by_token: Mutex::default(),
            spoken_for: Mutex::default(),
        });
        connection.serves(&callers);
        let service = ConnService {
            app: rim.app.clone(),
            fronts: rim.fronts.clone(),
            callers,
            connection: connection.clone(),
            requests: AtomicU64::new(0),
        };
        let hung_up = socket.clone().hung_up();
        let io = TokioIo::new(Watched::new(socket, replay, connection.clone(), spoken == Spoken::Http1));
        let http = Http::new(spoken, io, service);
        rim.serve_http(http, hung_up, &connection, &timeouts).await;
        // The sessions were given back with the service.
        drop(entry);
    }
}

/// Reads until it is clear what the client speaks; `None`: it went away.
async fn first_bytes(socket: &mut Socket, connection: &ConnState) -> Option<(Spoken, Bytes)> {
    let mut bytes = BytesMut::with_capacity(PREFACE.len());
    loop {
        match socket.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => connection.activity().bytes_arrived(Instant::now()),
        }
        if speaks_native(&bytes) {
            return Some((Spoken::Native, bytes.freeze()));
        }
        let length = bytes.len().min(PREFACE.len());
        if bytes[..length] != PREFACE[..length] {
            return Some((Spoken::Http1, bytes.freeze()));
        }
        if length == PREFACE.len() {
            connection.activity().preface_ended(Instant::now());
            return Some((Spoken::Http2, bytes.freeze()));
        }
    }
}

/// Why a connection ended before its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Early {
    /// It made room, or the daemon stops.
    Gone,
    /// It took too long.
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
