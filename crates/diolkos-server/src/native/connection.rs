// SPDX-License-Identifier: Apache-2.0
//! One client's stream, from its preface to its end.
//!
//! ```text
//! preface, Hello ──> Welcome ──> requests ──────────────┐
//!    │                             │ each with a permit  │ Goodbye: what is in flight is answered
//!    └ wrong, late: Failed, close  v to answer           v
//!                              answers ── written in the order in which they come ──> close
//! ```
//!
//! Reading and writing happen in one task. A request takes a permit of the queue of answers before anything is done
//! about it, so a client that does not take its answers is not read from any more, and holds up nobody else.
//!
//! The end of the connection drops the session, and with it everything that waits.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diolkos_shm::bell::Bell;
use diolkos_shm::spin::Spin;
use diolkos_types::{Code, Status, TenantId};
use diolkos_wire::{
    Failed, Features, Hello, Infer, Limits, Message, OpenChannel, PREFACE, RegisterRegion, Welcome,
    choose_version, hello,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::answers::{Flights, Room, StreamAnswer, no_memory_for_body};
use super::frames::{Held, Outgoing, ReadError, Reader};
use super::ring::{self, Lane};
use super::session::{NativeSession, Prepared, inferred_bytes_max};
use super::{NativeFront, control, limits};
use crate::app::App;
use crate::audit::Action;
use crate::identity::{Claim, NOT_FOR_OTHERS};
use crate::limits::{BYTES_PAUSE_MAX, REFUSE_RETRY};
use crate::listen::{Budget, ConnPlace, Peer, Socket, Stop};
use crate::sessions::ClientSession;

/// What the daemon calls itself.
const SERVER: &str = concat!("diolkos ", env!("CARGO_PKG_VERSION"));

/// Whether a connection that begins with these bytes is for the native channel. One byte tells.
pub(crate) fn speaks_native(bytes: &[u8]) -> bool {
    bytes.first() == PREFACE.first()
}

/// A connection that is about to be served.
pub(crate) struct Native {
    pub(crate) app: Arc<App>,
    pub(crate) front: Arc<NativeFront>,
    pub(crate) socket: Socket,
    pub(crate) peer: Peer,
    /// Of the connection, among all others.
    pub(crate) place: ConnPlace,
}

/// Why the conversation ended, for the log.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("its answers could not be written")]
    Write(#[from] std::io::Error),
    #[error("refused: {0}")]
    Refused(Status),
    #[error("its rings were broken off")]
    Broken,
    #[error("good-bye")]
    Goodbye,
}

impl Native {
    /// Serves it to its end. `replay` was read from it already. Dropping the future cuts it off.
    pub(crate) async fn serve(self, replay: &[u8], stop: watch::Receiver<Stop>) {
        let settings = self.app.settings();
        let patience = settings.limits.body_timeout.get();
        let reader = Reader::new(self.socket.clone(), replay, patience);
        let peer = self.peer.clone();
        if let Err(end) = self.converse(reader, patience, stop).await {
            tracing::debug!(%peer, %end, "a native connection ended");
        }
    }

    async fn converse(
        self,
        mut reader: Reader,
        patience: Duration,
        stop: watch::Receiver<Stop>,
    ) -> Result<(), End> {
        let mut socket = self.socket.clone();
        let (id, session, features) = match self.greet(&mut reader).await {
            Ok(greeted) => greeted,
            Err((id, end)) => {
                if let End::Refused(status) = &end {
                    self.app.audit.refused(
                        None,
                        Some(&self.peer),
                        Action::Connect,
                        status.code(),
                        status.message(),
                    );
                    let failed = Message::Failed(Failed::from(status));
                    let _ = Outgoing::new(id, &failed).write(&mut socket, limits::GREETING_TIMEOUT).await;
                }
                return Err(end);
            }
        };
        let limits = limits::of(&self.app.settings());
        let welcome = Welcome { version: diolkos_wire::VERSION, features, limits, server: SERVER.into() };
        Outgoing::new(id, &Message::Welcome(welcome)).write(&mut socket, patience).await?;

        let (answers, queue) = mpsc::channel(limits::ANSWERS_MAX);
        let budget = session.client.bodies.clone();
        let conversation = Conversation {
            session: Arc::new(session),
            app: self.app,
            front: self.front,
            budget,
            limits,
            features,
            answers,
            flights: Arc::default(),
            calls: JoinSet::new(),
            channel: None,
        };
        // The queue ends when the conversation is over and the last answer is in it.
        let writing = write_all(queue, &mut socket, patience);
        let talking = conversation.talk(reader, stop);
        let (mut writing, mut talking) = (std::pin::pin!(writing), std::pin::pin!(talking));
        let end = tokio::select! {
            biased;
            end = &mut talking => end,
            written = &mut writing => return Err(written.err().map_or(End::Read(ReadError::Gone), End::Write)),
        };
        if matches!(end, End::Goodbye) {
            writing.await?;
        }
        Err(end)
    }

    /// Reads the first words. On refusal also says to which message the answer is.
    async fn greet(&self, reader: &mut Reader) -> Result<(u64, NativeSession, Features), (u64, End)> {
        let greeting = async {
            let preface = reader.bytes::<8>().await?;
            hello::check_preface(&preface).map_err(ReadError::from)?;
            let header = reader.header(&Limits::default()).await?;
            Ok((header, reader.message(&header).await?))
        };
        let greeting = tokio::time::timeout(limits::GREETING_TIMEOUT, greeting).await;
        let (header, message) =
            greeting.unwrap_or(Err(ReadError::Slow)).map_err(|error| (0, End::from(error)))?;
        let refused = |status| (header.id, End::Refused(status));
        let Hello { version_min, version_max, features, client, token, tenant } = match message {
            Ok(Message::Hello(hello)) => hello,
            Ok(other) => {
                let text = format!("the first message has to be `Hello`, and this is `{:?}`", other.kind());
                return Err(refused(Status::invalid(text)));
            }
            Err(error) => return Err(refused(Status::new(error.code(), error.to_string()))),
        };
        choose_version(version_min, version_max)
            .map_err(|error| refused(Status::new(Code::Unsupported, error.to_string())))?;
        let settings = self.app.settings();
        let tenant = self.tenant(&token.0).and_then(|own| self.on_behalf(own, &tenant)).map_err(refused)?;
        let session = ClientSession::open(&self.app, &tenant).map_err(refused)?;
        tracing::debug!(peer = %self.peer, client = &*client, session = %session.id().0, "a native client");
        let offered = match self.socket {
            Socket::Unix(_) => Features::SHARED_MEMORY.union(Features::FUTEX).union(Features::EVENTFD),
            Socket::Tcp(_) | Socket::Tls(_) | Socket::Vsock(_) => Features::default(),
        };
        let copied = self.app.counters.copied();
        let files = self.front.files.clone();
        let session = NativeSession::new(session, limits::of(&settings), copied, files);
        Ok((header.id, session, features.intersection(offered)))
    }
}

impl Native {
    /// Who this is: as for the other fronts, a token counts where the transport is TCP.
    fn tenant(&self, token: &[u8]) -> Result<TenantId, Status> {
        let directory = self.app.directory();
        let denied = |text: &str| Status::new(Code::PermissionDenied, text);
        if !token.is_empty() && directory.takes_tokens(&self.peer) {
            let token = std::str::from_utf8(token).ok();
            let tenant = token.and_then(|token| directory.of_token(&self.peer, token));
            let tenant = tenant.ok_or_else(|| denied("this is no token of anybody here"))?;
            let own_limit = directory.rights(&tenant).connections_max;
            self.place.belongs_to(&tenant, own_limit).map_err(|_| {
                let text =
                    "your tenant has as many connections as it may (`connections_max`), and all are busy";
                Status::busy(text, REFUSE_RETRY)
            })?;
            return Ok(tenant);
        }
        match directory.claim(&self.peer) {
            Claim::Tenant(tenant) => Ok(tenant),
            Claim::Token => Err(denied("this address serves those who show a token")),
            Claim::Nobody => Err(denied("this daemon serves you no more")),
        }
    }

    /// Whose the requests are: the client's own, or those of somebody whom it speaks for.
    fn on_behalf(&self, own: TenantId, name: &str) -> Result<TenantId, Status> {
        if name.is_empty() {
            return Ok(own);
        }
        let directory = self.app.directory();
        let tenant = directory
            .spoken_for(&own, name)
            .ok_or_else(|| Status::new(Code::PermissionDenied, NOT_FOR_OTHERS))?;
        // Before there is a session, so that it ends with the tenant whenever that goes.
        self.place.speaks_for(&tenant);
        Ok(tenant)
    }
}

async fn write_all(
    mut queue: mpsc::Receiver<Outgoing>,
    socket: &mut Socket,
    patience: Duration,
) -> std::io::Result<()> {
    while let Some(outgoing) = queue.recv().await {
        outgoing.write(socket, patience).await?;
    }
    Ok(())
}

/// A client that was welcomed.
struct Conversation {
    session: Arc<NativeSession>,
    app: Arc<App>,
    front: Arc<NativeFront>,
    budget: Arc<Budget>,
    limits: Limits,
    features: Features,
    answers: mpsc::Sender<Outgoing>,
    flights: Arc<Flights>,
    /// Calls that may take long: loading, and opening what is not loaded.
    calls: JoinSet<()>,
    channel: Option<OpenedChannel>,
}

/// Rings that the poll thread looks into, until this is dropped.
struct OpenedChannel {
    front: Arc<NativeFront>,
    number: u64,
    lane: Arc<Lane>,
}

impl Drop for OpenedChannel {
    fn drop(&mut self) {
        self.lane.end();
        // The thread runs, because it was told of the channel; the settings do not matter any more.
        self.front.forget(self.number);
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.session.regions.end();
    }
}

impl Conversation {
    async fn talk(mut self, mut reader: Reader, mut stop: watch::Receiver<Stop>) -> End {
        loop {
            let lane = self.channel.as_ref().map(|channel| channel.lane.clone());
            let changed = async {
                match &lane {
                    Some(lane) => lane.changed.notified().await,
                    None => std::future::pending().await,
                }
            };
            let begun = tokio::select! {
                biased;
                _ = stop.wait_for(|now| *now >= Stop::Drain) => break,
                () = changed => {
                    if lane.is_some_and(|lane| lane.is_broken()) {
                        return End::Broken;
                    }
                    continue;
                }
                Some(_) = self.calls.join_next(), if !self.calls.is_empty() => continue,
                begun = reader.begun() => begun,
            };
            let next = match begun {
                Ok(()) => self.next(&mut reader).await,
                Err(error) => Err(error.into()),
            };
            match next {
                Ok(()) => {}
                Err(End::Goodbye) => break,
                Err(end) => return end,
            }
        }
        self.finish().await;
        End::Goodbye
    }

    /// Answers what is in flight, and begins nothing more.
    async fn finish(&mut self) {
        if let Ok(permit) = self.answers.reserve().await {
            permit.send(Outgoing::new(0, &Message::Goodbye));
        }
        if let Some(channel) = &self.channel {
            channel.lane.drain();
            while channel.lane.in_flight() > 0 && !channel.lane.is_broken() {
                channel.lane.changed.notified().await;
            }
        }
        while self.calls.join_next().await.is_some() {}
        // Every request that is not answered holds a permit.
        let _ = self.answers.reserve_many(limits::ANSWERS_MAX).await;
    }

    /// Reads payload that nobody wants: at ease, while its tenant sends more bytes than it may.
    async fn pass_over(&self, reader: &mut Reader, mut left: u64) -> Result<(), End> {
        while left > 0 {
            let now = left.min(limits::PASSED_OVER_BYTES);
            // Lossless: it was just bounded.
            reader.skip(now as usize).await?;
            left -= now;
            if let Some(wait) = self.session.client.over_bytes() {
                tokio::time::sleep(wait.min(BYTES_PAUSE_MAX)).await;
            }
        }
        Ok(())
    }

    /// Takes in one message and begins whatever it asks for.
    async fn next(&mut self, reader: &mut Reader) -> Result<(), End> {
        let header = reader.header(&self.limits).await?;
        // Lossless, and no more than was granted.
        let length = header.length as usize;
        let paid = Held::of_more_than(limits::MESSAGE_UNCHARGED_BYTES, &self.budget, length);
        let message = match paid {
            Some(_) => Some(reader.message(&header).await?),
            None => {
                reader.skip(length).await?;
                None
            }
        };
        let permit = self.answers.clone().reserve_owned().await.map_err(|_| ReadError::Gone)?;
        let room = Room::new(header.id, permit, &self.budget);
        let Some(message) = message else {
            room.refuse(&no_memory_for_body());
            self.session.client.received(header.payload.min(limits::PASSED_OVER_BYTES));
            return self.pass_over(reader, header.payload).await;
        };
        if matches!(message, Ok(Message::Infer(_)))
            && let Some(over) = self.session.client.refuse_over_bytes()
        {
            room.refuse(&over);
            self.pass_over(reader, header.payload).await?;
            return Ok(());
        }
        let payload = if matches!(message, Ok(Message::Infer(_))) {
            self.session.client.received(header.payload);
            reader.payload(header.payload, &self.budget).await?
        } else {
            self.session.client.received(header.payload.min(limits::PASSED_OVER_BYTES));
            self.pass_over(reader, header.payload).await?;
            None
        };
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                room.refuse(&Status::new(error.code(), error.to_string()));
                return Ok(());
            }
        };
        match message {
            Message::Goodbye => return Err(End::Goodbye),
            Message::Cancel => {
                if let Some(ticket) = self.flights.take_ticket(header.id) {
                    ticket.cancel();
                }
            }
            Message::Infer(infer) => match payload {
                Some(payload) => self.infer(infer, header.id, &payload, room),
                None => room.refuse(&no_memory_for_body()),
            },
            Message::RegisterRegion(register) => match self.register(&register, reader.descriptor()) {
                Ok(()) => {
                    room.send(&[Message::Done]);
                }
                Err(status) => room.refuse(&status),
            },
            Message::OpenChannel(open) => match self.open_channel(&open) {
                Ok((opened, descriptors)) => room.send_with_descriptors(&opened, descriptors),
                Err(status) => room.refuse(&status),
            },
            // At once, so that what the client sends next finds it done.
            message @ (Message::CloseModel(_) | Message::CloseRegion(_) | Message::CommitRegion(_)) => {
                room.send(&control::answer(&self.app, &self.session, message).await);
            }
            message => {
                let (app, session) = (self.app.clone(), self.session.clone());
                self.calls.spawn(async move {
                    let answer = control::answer(&app, &session, message).await;
                    // A handle that the client is not told of would never be closed.
                    if !room.send(&answer)
                        && let [Message::ModelOpened(opened)] = &*answer
                    {
                        let _ = session.close(opened.handle);
                    }
                });
            }
        }
        Ok(())
    }

    fn register(&self, register: &RegisterRegion, file: Option<OwnedFd>) -> Result<(), Status> {
        self.check_shared_memory()?;
        let file = file.ok_or_else(|| {
            Status::invalid(
                "the descriptor of the region's memory file has to come with the message (SCM_RIGHTS)",
            )
        })?;
        let charge = |bytes| self.session.client.charge_region(bytes).map(Some);
        self.session.regions.register(register.region, register.length, file, charge)
    }

    fn check_shared_memory(&self) -> Result<(), Status> {
        if self.features.contains(Features::SHARED_MEMORY) {
            return Ok(());
        }
        Err(Status::new(
            Code::Unsupported,
            "shared memory was not agreed on: it takes a unix socket, and the feature SHARED_MEMORY in `Hello`",
        ))
    }

    /// Makes rings in a region of the client's, which they take.
    fn open_channel(&mut self, open: &OpenChannel) -> Result<(Message, Vec<OwnedFd>), Status> {
        self.check_shared_memory()?;
        if self.channel.is_some() {
            return Err(Status::invalid("this connection has its rings already; open another connection"));
        }
        ring::check(open)?;
        let opened = open.lay_out();
        let memory = self.session.regions.take_for_rings(open.region, opened.segment_bytes)?;
        let internal = |what: &str, error: &dyn std::fmt::Display| {
            Status::new(Code::Internal, format!("{what} for the channel: {error}"))
        };
        let bell = || Bell::event().map_err(|error| internal("no doorbell", &error));
        let cloned = |fd: std::os::fd::BorrowedFd<'_>| {
            fd.try_clone_to_owned().map_err(|error| internal("no descriptor", &error))
        };
        let Bell::Event(request_bell) = bell()? else { unreachable!("`Bell::event` makes an event") };
        let mut descriptors = vec![cloned(request_bell.as_fd())?];
        let reply_bell = match open.replies {
            diolkos_wire::Bell::Event => {
                let event = bell()?;
                let descriptor = event.descriptor().expect("an event has one");
                descriptors.push(cloned(descriptor)?);
                event
            }
            diolkos_wire::Bell::Futex => Bell::Futex,
            diolkos_wire::Bell::Polled => Bell::Polled,
        };
        let (lane, channel) = ring::open(self.session.clone(), memory, &opened, request_bell, reply_bell)?;
        let number = self.front.next_channel();
        let spin = Spin::new(self.app.settings().channel.spin.get());
        let jobs = self.app.engine.devices().iter().map(|device| device.slots).sum();
        self.front
            .serve(number, Box::new(channel), spin, jobs)
            .map_err(|error| internal("no thread", &error))?;
        self.channel = Some(OpenedChannel { front: self.front.clone(), number, lane });
        Ok((Message::ChannelOpened(opened), descriptors))
    }

    fn infer(&self, infer: Infer, id: u64, payload: &Bytes, mut room: Room) {
        let prepared = self.flights.check_free(id).and_then(|()| {
            let prepared = self.session.prepare(infer, payload)?;
            room.hold(inferred_bytes_max(&prepared.opened))?;
            Ok(prepared)
        });
        let Prepared { request, opened, results } = match prepared {
            Ok(prepared) => prepared,
            Err(status) => return room.refuse(&status),
        };
        // Those behind the message are charged already.
        let in_regions = request.input_bytes().saturating_sub(payload.len() as u64);
        self.session.client.received(in_regions);
        self.flights.begin(id);
        let answer = StreamAnswer { room, opened, results, flights: self.flights.clone() };
        let ticket = self.session.client.submit(request, Box::new(answer));
        self.flights.took(id, ticket);
    }
}
