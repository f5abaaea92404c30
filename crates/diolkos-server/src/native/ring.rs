// SPDX-License-Identifier: Apache-2.0
//! A client's rings: requests out of one, answers into the other.
//!
//! A request with number `id` owns the message slot `id mod slots` from the moment it is put in until its answer was
//! taken out: its body lies there if it does not fit into the entry, and so does the body of the answer. There are as
//! many slots as the ring of answers has entries, so that ring is never full for a client that keeps to this.
//!
//! ```text
//! poll thread                        device's thread, or the poll thread itself
//!   take: entry, body ── copied, then decoded
//!     │ Infer ──> engine ───────────────> Answer: outputs to the region, message to slot, entry, bell
//!     └ Cancel ─> its ticket
//! ```
//!
//! What breaks these rules (a slot in use, an entry that says nonsense, a full ring of answers) ends the connection:
//! there is no telling any more which request an answer would be for. Everything else is answered.

use std::io;
use std::mem;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use diolkos_engine::{Here, Offer, Reply, ReplySink, Ticket};
use diolkos_shm::bell::Bell;
use diolkos_shm::mapping::Mapping;
use diolkos_shm::ring::{Consumer, Layout, Producer, PushError};
use diolkos_shm::segment::Segment as _;
use diolkos_types::{Code, Signature, Status};
use diolkos_wire::{
    ChannelOpened, EntryBody, Failed, Infer, Inferred, InlineBody, Kind, Message, OpenChannel, Part,
    RingEntry, SlotsPlace,
};
use tokio::sync::Notify;

use super::limits;
use super::poller::{Broken, Channel, Taken};
use super::regions::RegionMemory;
use super::session::{NativeSession, Prepared, Results, place_outputs, positions, timing_of};

/// What the poll thread, the threads of devices and the connection share of one pair of rings.
pub(super) struct Lane {
    session: Arc<NativeSession>,
    memory: Arc<Mapping>,
    slots: SlotsPlace,
    flights: Mutex<Box<[Option<Flight>]>>,
    /// How many of them there are. Written under their lock; read without it, as a hint.
    in_flight: AtomicUsize,
    answers: Mutex<Answers>,
    draining: AtomicBool,
    broken: AtomicBool,
    /// Tells the connection that something ended: the lane, or the last request of one that drains.
    pub(super) changed: Notify,
    /// Its tenant is charged for the region until the last one lets go.
    _region: Arc<RegionMemory>,
}

/// A request that was not answered yet.
struct Flight {
    id: u64,
    /// `None` for the moment between the request's arrival and the engine's answer that it took it.
    ticket: Option<Ticket>,
}

struct Answers {
    ring: Producer<Arc<Mapping>>,
    bell: Bell,
    /// Kept for its room.
    body: Vec<u8>,
}

impl Lane {
    fn flights(&self) -> MutexGuard<'_, Box<[Option<Flight>]>> {
        // Nothing below panics while it holds the lock.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot_of(&self, id: u64) -> u32 {
        // Lossless: the remainder is less than a `u32`.
        (id % u64::from(self.slots.count)) as u32
    }

    fn slot_offset(&self, slot: u32) -> usize {
        // Lossless: it lies inside of a mapping.
        (self.slots.offset + u64::from(slot) * u64::from(self.slots.bytes)) as usize
    }

    /// Requests that were not answered yet.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Says good-bye, and begins no request from now on. In this order, so that a client that is refused for it knows
    /// why, and asks elsewhere.
    pub(super) fn drain(&self) {
        let body = EntryBody::Inline(InlineBody::new(&[]).expect("nothing fits into an entry"));
        let entry = RingEntry { kind: Kind::Goodbye.number(), part: Part::Last, id: 0, body };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        // A ring that is full of answers has no room for it, and its client hears it when the connection ends.
        if answers.ring.push(&entry.encode()).is_ok() {
            // A bell that can't be rung shows with the next answer.
            let _ = answers.bell.ring(&answers.ring);
        }
        drop(answers);
        // Whoever called this looks next at what is in flight; see `answer`.
        self.draining.store(true, Ordering::SeqCst);
    }

    /// The connection has ended: nothing is answered any more.
    pub(super) fn end(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// Whether the client broke the protocol. The connection ends then.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn break_off(&self, why: &str) -> Broken {
        if !self.broken.swap(true, Ordering::AcqRel) {
            tracing::warn!(why, session = %self.session.client.id().0, "a native channel was broken off");
            self.changed.notify_one();
        }
        Broken
    }

    /// Answers a request. Its slot is free before the answer is out: a client that is quick may use it at once.
    fn answer(&self, id: u64, message: &Message) {
        let slot = self.slot_of(id);
        let none_left = {
            let mut flights = self.flights();
            flights[slot as usize] = None;
            // In one order with `drain` and with who looks behind it at what is in flight (all are `SeqCst`): whichever comes
            // second sees what the other wrote.
            self.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 && self.draining.load(Ordering::SeqCst)
        };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(why) = answers.push(id, slot, message, self) {
            self.break_off(why);
        }
        drop(answers);
        if none_left {
            self.changed.notify_one();
        }
    }
}

impl Answers {
    fn push(&mut self, id: u64, slot: u32, message: &Message, lane: &Lane) -> Result<(), &'static str> {
        let mut body = mem::take(&mut self.body);
        body.clear();
        let kind = match message.append_to(&mut body) {
            Ok(()) if body.len() <= lane.slots.bytes as usize => message.kind(),
            // Too many outputs for the slot. A failure always fits.
            _ => {
                body.clear();
                let status = Status::new(
                    Code::TooLarge,
                    "the answer does not fit into a message slot; open the channel with larger ones",
                );
                let failed = Message::Failed(Failed::from(&status));
                failed.append_to(&mut body).map_err(|_| "a failure can't be encoded")?;
                failed.kind()
            }
        };
        let at = match InlineBody::new(&body) {
            Some(inline) => EntryBody::Inline(inline),
            None => {
                lane.memory.write(lane.slot_offset(slot), &body);
                // Lossless: it fits into a slot.
                EntryBody::Slot { slot, length: body.len() as u32 }
            }
        };
        self.body = body;
        let entry = RingEntry { kind: kind.number(), part: Part::Last, id, body: at };
        self.ring.push(&entry.encode()).map_err(|error| match error {
            PushError::Full => "the client takes no answers, and sends more requests than it has slots for",
            PushError::Corrupt(_) => "the counters of its ring of answers contradict each other",
        })?;
        self.bell.ring(&self.ring).map_err(|_| "its bell can't be rung")
    }
}

/// The poll thread's side of a lane.
pub(super) struct RingChannel {
    lane: Arc<Lane>,
    requests: Consumer<Arc<Mapping>>,
    bell: OwnedFd,
    /// Bodies are copied here before anything looks at them.
    body: Vec<u8>,
}

/// Makes the two sides of a lane over a region that is laid out as `opened` says.
pub(super) fn open(
    session: Arc<NativeSession>,
    region: Arc<RegionMemory>,
    opened: &ChannelOpened,
    request_bell: OwnedFd,
    reply_bell: Bell,
) -> Result<(Arc<Lane>, RingChannel), Status> {
    let memory = region.mapping().clone();
    let wrong = |error: diolkos_shm::ring::LayoutError| Status::new(Code::Internal, error.to_string());
    let layout = |place: &diolkos_wire::RingPlace| {
        // Lossless: the place was laid out in a mapping.
        Layout::new(place.offset as usize, place.entries).map_err(wrong)
    };
    let requests = Consumer::new(memory.clone(), layout(&opened.submissions)?).map_err(wrong)?;
    let ring = Producer::new(memory.clone(), layout(&opened.completions)?).map_err(wrong)?;
    let flights = (0..opened.slots.count).map(|_| None).collect();
    let lane = Arc::new(Lane {
        session,
        memory,
        slots: opened.slots,
        flights: Mutex::new(flights),
        in_flight: AtomicUsize::new(0),
        answers: Mutex::new(Answers { ring, bell: reply_bell, body: Vec::new() }),
        draining: AtomicBool::new(false),
        broken: AtomicBool::new(false),
        changed: Notify::new(),
        _region: region,
    });
    let body = vec![0; opened.slots.bytes as usize];
    Ok((lane.clone(), RingChannel { lane, requests, bell: request_bell, body }))
}

impl Channel for RingChannel {
    fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn take(&mut self, offer: Offer) -> Result<Taken, Broken> {
        if self.lane.is_broken() {
            return Err(Broken);
        }
        let corrupt = |_| self.lane.break_off("the counters of its ring of requests contradict each other");
        let Some(entry) = self.requests.pop().map_err(corrupt)? else { return Ok(Taken::None) };
        let entry = RingEntry::decode(&entry, &self.lane.slots)
            .map_err(|error| self.lane.break_off(&error.to_string()))?;
        let here = self.handle(&entry, offer)?;
        Ok(here.map_or(Taken::One, Taken::Run))
    }

    fn is_owed(&self) -> bool {
        self.lane.in_flight() > 0
    }

    fn may_sleep(&mut self) -> Result<bool, Broken> {
        let corrupt = |_| self.lane.break_off("the counters of its ring of requests contradict each other");
        self.requests.may_sleep().map_err(corrupt)
    }

    fn awake(&mut self) {
        self.requests.awake();
    }

    fn give_up(&self, why: &io::Error) {
        self.lane.break_off(&format!("its bell can't be watched: {why}"));
    }
}

impl RingChannel {
    fn handle(&mut self, entry: &RingEntry, offer: Offer) -> Result<Option<Here>, Broken> {
        let id = entry.id;
        if Kind::from_number(entry.kind) == Some(Kind::Cancel) {
            self.cancel(id);
            return Ok(None);
        }
        let slot = self.lane.slot_of(id);
        {
            let mut flights = self.lane.flights();
            let flight = &mut flights[slot as usize];
            if flight.is_some() {
                drop(flights);
                return Err(self
                    .lane
                    .break_off("a request came in a slot whose request was not answered yet"));
            }
            *flight = Some(Flight { id, ticket: None });
            self.lane.in_flight.fetch_add(1, Ordering::SeqCst);
        }
        match self.message(entry, slot)? {
            Ok(Message::Infer(infer)) => return Ok(self.infer(id, infer, offer)),
            Ok(other) => self.refuse(
                id,
                &Status::new(
                    Code::Unsupported,
                    format!("`{:?}` goes over the socket; rings carry `Infer` and `Cancel`", other.kind()),
                ),
            ),
            Err(error) => self.refuse(id, &Status::new(error.code(), error.to_string())),
        }
        Ok(None)
    }

    /// The message of an entry, from a copy of its body.
    fn message(
        &mut self,
        entry: &RingEntry,
        own: u32,
    ) -> Result<Result<Message, diolkos_wire::DecodeError>, Broken> {
        match &entry.body {
            EntryBody::Inline(body) => Ok(entry.message(body.as_bytes())),
            &EntryBody::Slot { slot, length } => {
                if slot != own {
                    return Err(self.lane.break_off("a request's body lies in another slot than its own"));
                }
                let body = &mut self.body[..length as usize];
                self.lane.memory.read(self.lane.slot_offset(slot), body);
                Ok(entry.message(body))
            }
        }
    }

    fn refuse(&self, id: u64, status: &Status) {
        self.lane.answer(id, &Message::Failed(Failed::from(status)));
    }

    fn infer(&self, id: u64, infer: Infer, offer: Offer) -> Option<Here> {
        let lane = &self.lane;
        if lane.draining.load(Ordering::SeqCst) {
            self.refuse(id, &Status::new(Code::Unavailable, "the daemon is shutting down"));
            return None;
        }
        // Before anything is copied.
        if let Some(status) = lane.session.client.refuse_over_bytes() {
            self.refuse(id, &status);
            return None;
        }
        let Prepared { request, opened, results } = match lane.session.prepare(infer, &Bytes::new()) {
            Ok(prepared) => prepared,
            Err(status) => {
                self.refuse(id, &status);
                return None;
            }
        };
        lane.session.client.received(request.input_bytes());
        let sink = Box::new(Answer { lane: lane.clone(), id, opened, results });
        let (ticket, here) = lane.session.client.submit_offering(request, sink, offer);
        // A short job is run by this thread before it takes anything else out: nobody can cancel it.
        if here.as_ref().is_some_and(Here::is_short) {
            return here;
        }
        let mut flights = lane.flights();
        if let Some(flight) = &mut flights[lane.slot_of(id) as usize]
            && flight.id == id
        {
            flight.ticket = Some(ticket);
        }
        drop(flights);
        here
    }

    /// Nobody waits for a request any more. It is answered all the same, so that its slot becomes free.
    fn cancel(&self, id: u64) {
        let ticket = {
            let mut flights = self.lane.flights();
            let flight = flights[self.lane.slot_of(id) as usize].as_mut().filter(|flight| flight.id == id);
            flight.and_then(|flight| flight.ticket.take())
        };
        // Outside of the lock: a job that waits is answered at once, and on this thread.
        if let Some(ticket) = ticket {
            ticket.cancel();
        }
    }
}

impl Drop for RingChannel {
    fn drop(&mut self) {
        // However it came to this, the connection has to end with its rings.
        self.lane.end();
        self.lane.changed.notify_one();
        // Nobody will take what these were for.
        let tickets: Vec<Ticket> =
            self.lane.flights().iter_mut().flatten().filter_map(|flight| flight.ticket.take()).collect();
        for ticket in tickets {
            ticket.cancel();
        }
    }
}

/// Answers one request.
struct Answer {
    lane: Arc<Lane>,
    id: u64,
    /// The signature that the client knows.
    opened: Arc<Signature>,
    results: Option<Results>,
}

impl ReplySink for Answer {
    fn complete(self: Box<Self>, reply: Reply) {
        // The client is gone.
        if self.lane.is_broken() {
            return;
        }
        let message = match self.inferred(&reply) {
            Ok(inferred) => Message::Inferred(inferred),
            Err(failed) => Message::Failed(failed),
        };
        // The outputs are in the region now, and their memory can be used again.
        drop(reply);
        self.lane.answer(self.id, &message);
    }
}

impl Answer {
    fn inferred(&self, reply: &Reply) -> Result<Inferred, Failed> {
        let outputs = reply.result.as_ref().map_err(Failed::from)?;
        let placed = match &self.results {
            Some((region, room)) => place_outputs(outputs, &self.opened, *region, room)?,
            None => nowhere(outputs, &self.opened)?,
        };
        Ok(Inferred { version: outputs.version.version, timing: timing_of(&reply.timing), outputs: placed })
    }
}

/// Outputs of a request that named no place for them: over a ring there must be none.
fn nowhere(
    outputs: &diolkos_engine::Outputs,
    opened: &Signature,
) -> Result<Vec<diolkos_wire::TensorRef>, Failed> {
    match positions(outputs, opened).next() {
        None => Ok(Vec::new()),
        Some(_) => Err(Failed::from(&Status::invalid(
            "over a ring the outputs need a place in a region (`results`); or send the request over the socket",
        ))),
    }
}

/// Refuses a channel that is larger or smaller than there may be.
pub(super) fn check(open: &OpenChannel) -> Result<(), Status> {
    let &OpenChannel { entries, slot_bytes, .. } = open;
    let (least, most) = (limits::RING_ENTRIES_MIN, limits::RING_ENTRIES_MAX);
    if !(least..=most).contains(&entries) {
        return Err(Status::invalid(format!(
            "rings of {entries} entries; between {least} and {most} are possible"
        )));
    }
    let (least, most) = (limits::SLOT_BYTES_MIN, limits::SLOT_BYTES_MAX);
    if !(least..=most).contains(&slot_bytes) {
        return Err(Status::invalid(format!(
            "message slots of {slot_bytes} bytes; between {least} and {most} are possible"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(entries: u32, slot_bytes: u32) -> OpenChannel {
        OpenChannel { entries, slot_bytes, replies: diolkos_wire::Bell::Futex, region: 0 }
    }

    #[test]
    fn every_layout_that_may_be_is_sound() {
        for entries in [1, 2, 256, limits::RING_ENTRIES_MAX] {
            for slot_bytes in [limits::SLOT_BYTES_MIN, limits::SLOT_BYTES_MAX] {
                let open = open(entries, slot_bytes);
                check(&open).unwrap();
                let opened = open.lay_out();
                opened.check().unwrap();
                assert!(opened.segment_bytes <= 64 << 20);
            }
        }
        for (entries, slot_bytes) in [(0, 4096), (1024, 4096), (2, 64)] {
            check(&open(entries, slot_bytes)).unwrap_err();
        }
    }
}
