// SPDX-License-Identifier: Apache-2.0
//! One connection to a daemon: its greeting, its calls, its rings.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use diolkos_shm::arena::Arena;
use diolkos_shm::region::{Pages, Region, RegionError, seal_writes};
use diolkos_wire::{
    Bell, CloseRegion, CommitRegion, Features, Hello, Limits, Message, OpenChannel, RegisterRegion, VERSION,
};

use crate::address::Address;
use crate::board::{Board, Kept};
use crate::connection::{Answered, Sent, unexpected};
use crate::error::Error;
use crate::memory::descriptor;
use crate::options::{Memory, Options, Waiting};
use crate::ring::{Ring, watched};
use crate::stream::{Answer, Socket, Stream};

/// A message slot: room for an `Infer` of some seventy tensors. Longer ones go over the stream.
const SLOT_BYTES: u32 = 4096;

/// The number of the region with the rings, until they take it.
const RING_REGION: u16 = u16::MAX;

/// Who waits for a free slot looks again after so long.
const SLOT_WAIT: Duration = Duration::from_millis(10);

/// One connection.
pub(crate) struct Remote {
    stream: Arc<Stream>,
    answers: Arc<Board<Answer>>,
    ring: Option<Arc<Ring>>,
    ring_answers: Arc<Board<Message>>,
    /// The daemon said good-bye: requests that it has are answered, and others go to a new connection.
    leaving: Arc<AtomicBool>,
    /// Threads that receive for tasks, once there is one.
    receivers: Once,
    next: AtomicU64,
    /// What the daemon grants.
    pub(crate) limits: Limits,
}

impl Remote {
    /// Connects, and says hello.
    pub(crate) fn open(address: &Address, options: &Options) -> Result<Remote, Error> {
        let until = Instant::now().checked_add(options.connect);
        let leaving = Arc::<AtomicBool>::default();
        let stream = Arc::new(Stream::new(Socket::connect(address, &options.tls, until)?, leaving.clone()));
        let shared = options.memory == Memory::Shared && stream.socket().is_unix();
        let mut connection = Remote {
            stream,
            answers: Arc::default(),
            ring: None,
            ring_answers: Arc::default(),
            leaving,
            receivers: Once::new(),
            next: AtomicU64::new(1),
            limits: Limits::default(),
        };
        // A daemon that is stopped takes connections in and says nothing.
        let too_slow = |error| match error {
            Error::Timeout => Error::Connect {
                address: address.to_string(),
                source: Arc::new(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    "it takes connections and says nothing; is it stopped, or overloaded?",
                )),
            },
            other => other,
        };
        connection.set_up(options, shared, until).map_err(too_slow)?;
        Ok(connection)
    }

    fn set_up(&mut self, options: &Options, shared: bool, until: Option<Instant>) -> Result<(), Error> {
        let features = self.greet(options, shared, until)?;
        if shared && features.contains(Features::SHARED_MEMORY) {
            self.ring = Some(Arc::new(self.open_ring(options, features, until)?));
        }
        Ok(())
    }

    fn greet(&mut self, options: &Options, shared: bool, until: Option<Instant>) -> Result<Features, Error> {
        self.stream.send_preface()?;
        let features = if shared {
            Features::SHARED_MEMORY.union(Features::FUTEX).union(Features::EVENTFD)
        } else {
            Features::default()
        };
        let end = options.name.floor_char_boundary(diolkos_wire::limits::PEER_NAME_BYTES_MAX);
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            features,
            client: options.name[..end].into(),
            token: options.token.clone(),
            tenant: options.tenant.as_str().into(),
        };
        match self.call_before(until, &Message::Hello(hello), &[])?.into_message()? {
            Message::Welcome(welcome) => {
                self.limits = welcome.limits;
                Ok(welcome.features)
            }
            other => Err(unexpected(&other)),
        }
    }

    fn open_ring(
        &self,
        options: &Options,
        features: Features,
        until: Option<Instant>,
    ) -> Result<Ring, Error> {
        let replies = match options.waiting {
            Waiting::Polling => Bell::Polled,
            // An event and the socket can be waited for in one call.
            _ if features.contains(Features::EVENTFD) => Bell::Event,
            _ => Bell::Futex,
        };
        let open =
            OpenChannel { entries: options.in_flight, slot_bytes: SLOT_BYTES, replies, region: RING_REGION };
        let region = self.ring_region(&open, until)?;
        let mut answer = self.call_before(until, &Message::OpenChannel(open), &[])?;
        let descriptors = std::mem::take(&mut answer.descriptors);
        match answer.into_message()? {
            Message::ChannelOpened(opened) => {
                let socket = watched(self.stream.socket())?;
                Ring::new(&opened, &region, descriptors, socket, options.waiting, self.leaving.clone())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// A region for rings, which the daemon knows.
    fn ring_region(&self, open: &OpenChannel, until: Option<Instant>) -> Result<Region, Error> {
        let bytes = open.lay_out().segment_bytes;
        let no_memory =
            |error: RegionError| Error::Memory { bytes: bytes as usize, reason: error.to_string() };
        // Lossless: some MiB at most.
        let region = Region::create_whole(bytes as usize, Pages::Ordinary).map_err(no_memory)?;
        self.lend(until, RING_REGION, &region, bytes)?;
        Ok(region)
    }

    /// Whether tensors lie in regions.
    pub(crate) fn shares_memory(&self) -> bool {
        self.ring.is_some()
    }

    /// Why it is of no use any more, if it is so.
    pub(crate) fn ended(&self) -> Option<Error> {
        let ended = self.answers.ended().or_else(|| self.ring_answers.ended());
        ended.or_else(|| self.is_leaving().then(|| Error::lost("the daemon is shutting down")))
    }

    /// Whether the daemon said good-bye.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Tells the daemon of a region that was made for this connection. If that fails, the daemon knows of none.
    pub(crate) fn register(&self, number: u16, arena: &Arena) -> Result<(), Error> {
        self.lend(None, number, arena, arena.len() as u64)
    }

    fn lend(&self, until: Option<Instant>, number: u16, file: impl AsFd, length: u64) -> Result<(), Error> {
        let file = file.as_fd();
        let register = Message::RegisterRegion(RegisterRegion { region: number, length });
        self.done_before(until, &register, &[descriptor(file)?])?;
        // After the daemon has mapped it, so that it can write; and before it lends it, so that it never has holes.
        let sealed = seal_writes(file)
            .map_err(|error| Error::Memory { bytes: length as usize, reason: error.to_string() });
        let committed = sealed.and_then(|()| {
            self.done_before(until, &Message::CommitRegion(CommitRegion { region: number }), &[])
        });
        // One that is refused the daemon has forgotten already.
        if matches!(committed, Err(Error::Memory { .. } | Error::Timeout)) {
            self.tell(&Message::CloseRegion(CloseRegion { region: number }));
        }
        committed
    }

    fn done_before(
        &self,
        until: Option<Instant>,
        message: &Message,
        descriptors: &[OwnedFd],
    ) -> Result<(), Error> {
        match self.call_before(until, message, descriptors)?.into_message()? {
            Message::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a message over the stream and waits for its answer.
    pub(crate) fn call(&self, message: &Message, descriptors: &[OwnedFd]) -> Result<Answer, Error> {
        self.call_before(None, message, descriptors)
    }

    /// The same; [`Error::Timeout`] if there is no answer until then.
    fn call_before(
        &self,
        until: Option<Instant>,
        message: &Message,
        descriptors: &[OwnedFd],
    ) -> Result<Answer, Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.answers.enter(id)?;
        if let Err(error) = self.stream.send(id, message, &[], descriptors) {
            self.end(&error);
            return Err(error);
        }
        let answer = self.answers.wait(id, until, &*self.stream).inspect_err(|error| self.end(error))?;
        answer.ok_or(Error::Timeout)
    }

    /// Sends a message over the stream. What is answered interests nobody.
    pub(crate) fn tell(&self, message: &Message) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if self.answers.enter(id).is_err() {
            return;
        }
        self.answers.abandon(id, Box::new(()));
        if let Err(error) = self.stream.send(id, message, &[], &[]) {
            self.end(&error);
        }
    }

    /// Whether a request would have to wait before it can be sent.
    pub(crate) fn is_full(&self) -> bool {
        self.ring.as_ref().is_some_and(|ring| ring.is_full())
    }

    /// Ends it on this side: all who wait are told, whatever they wait in.
    pub(crate) fn close(&self, error: &Error) {
        self.end(error);
        self.stream.socket().shutdown();
    }

    /// Sends a request. Where it does not fit into the ring, it goes over the stream.
    pub(crate) fn infer(&self, infer: &Message, payload: &[&[u8]]) -> Result<Sent, Error> {
        if let (Some(ring), true) = (&self.ring, payload.is_empty()) {
            let id = self.begin(ring)?;
            self.ring_answers.enter(id).inspect_err(|_| ring.withdraw(id))?;
            match ring.send(id, infer) {
                Ok(true) => return Ok(Sent::Ring(id)),
                Ok(false) => {
                    self.ring_answers.withdraw(id);
                    ring.withdraw(id);
                }
                Err(error) => {
                    self.ring_answers.withdraw(id);
                    ring.withdraw(id);
                    if matches!(error, Error::Lost { .. }) {
                        self.end(&error);
                    }
                    return Err(error);
                }
            }
        }
        let bytes: u64 = payload.iter().map(|part| part.len() as u64).sum();
        if bytes > self.limits.payload_bytes_max {
            // The daemon would hang up.
            return Err(Error::invalid(format!(
                "tensors of {bytes} bytes would have to travel with the request, and the daemon takes {} \
                 (`limits.body_bytes_max`); make them in shared memory",
                self.limits.payload_bytes_max
            )));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.answers.enter(id)?;
        match self.stream.send(id, infer, payload, &[]) {
            Ok(()) => Ok(Sent::Stream(id)),
            Err(error) => {
                self.answers.withdraw(id);
                if matches!(error, Error::Lost { .. }) {
                    self.end(&error);
                }
                Err(error)
            }
        }
    }

    /// Takes a slot of the ring; while there is none, takes answers in.
    fn begin(&self, ring: &Arc<Ring>) -> Result<u64, Error> {
        loop {
            if let Some(id) = ring.begin() {
                return Ok(id);
            }
            if let Some(ended) = self.ring_answers.ended() {
                return Err(ended);
            }
            // Another thread may take in the last answer in this very moment; then none comes, and a slot is free.
            let until = Some(Instant::now() + SLOT_WAIT);
            self.ring_answers.pass_one(until, &**ring).inspect_err(|error| self.end(error))?;
        }
    }

    /// Waits for what came of a request. `None`: not until `until`.
    pub(crate) fn wait(&self, sent: Sent, until: Option<Instant>) -> Result<Option<Answered>, Error> {
        match sent {
            Sent::Ring(id) => {
                let ring = self.ring.as_ref().expect("what was sent through a ring has one");
                let message =
                    self.ring_answers.wait(id, until, &**ring).inspect_err(|error| self.end(error))?;
                Ok(message.map(Answered::of_ring))
            }
            Sent::Stream(id) => {
                let answer =
                    self.answers.wait(id, until, &*self.stream).inspect_err(|error| self.end(error))?;
                answer.map(Answered::of_stream).transpose()
            }
        }
    }

    /// What came of a request, for a task.
    pub(crate) fn poll(&self, sent: Sent, context: &mut Context<'_>) -> Poll<Result<Answered, Error>> {
        self.receivers.call_once(|| self.start_receivers());
        match sent {
            Sent::Ring(id) => self.ring_answers.poll(id, context).map_ok(Answered::of_ring),
            Sent::Stream(id) => {
                self.answers.poll(id, context).map(|answer| answer.and_then(Answered::of_stream))
            }
        }
    }

    /// Receives for tasks, on threads that end with the connection.
    fn start_receivers(&self) {
        let start = |work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name("diolkos-receiver".into()).spawn(work).map(drop)
        };
        let (answers, stream) = (self.answers.clone(), self.stream.clone());
        let mut started = start(Box::new(move || answers.serve(&*stream)));
        if let Some(ring) = self.ring.clone() {
            let answers = self.ring_answers.clone();
            started = started.and(start(Box::new(move || answers.serve(&*ring))));
        }
        if let Err(error) = started {
            self.end(&Error::lost(format!("no thread to receive on: {error}")));
        }
    }

    /// Nobody waits for a request any more. What it uses is kept until its answer comes.
    pub(crate) fn cancel(&self, sent: Sent, kept: Kept) {
        let told = match sent {
            Sent::Ring(id) => {
                let ring = self.ring.as_ref().expect("what was sent through a ring has one");
                self.ring_answers.abandon(id, kept);
                ring.cancel(id)
            }
            Sent::Stream(id) => {
                self.answers.abandon(id, kept);
                self.stream.send(id, &Message::Cancel, &[], &[])
            }
        };
        if let Err(error) = told {
            self.end(&error);
        }
    }

    /// Takes in answers that nobody waits for, so that what they keep can be used again.
    pub(crate) fn reap(&self) {
        if let Some(ring) = &self.ring {
            self.ring_answers.reap(&**ring);
        }
        self.answers.reap(&*self.stream);
    }

    /// It is lost: everybody who waits is told.
    fn end(&self, error: &Error) {
        // A time limit and a refusal are no end.
        if matches!(error, Error::Lost { .. }) {
            self.answers.end(error);
            self.ring_answers.end(error);
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // In good order, if it still can be.
            let _ = self.stream.send(0, &Message::Goodbye, &[], &[]);
        }
        // Wakes whoever receives.
        self.stream.socket().shutdown();
    }
}
