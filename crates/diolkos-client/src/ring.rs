// SPDX-License-Identifier: Apache-2.0
//! A pair of rings: requests into one, answers out of the other.
//!
//! A request takes a message slot until its answer was taken out, and its number tells which: slot = number mod
//! slots. Its body goes there if it does not fit into the entry, and so does that of the answer. While all slots are
//! taken, a sender waits for answers.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use diolkos_shm::bell::{Bell, Receiver, WaitError};
use diolkos_shm::mapping::Mapping;
use diolkos_shm::region::Region;
use diolkos_shm::ring::{Consumer, Layout, Producer, PushError};
use diolkos_shm::segment::Segment as _;
use diolkos_wire::{
    ChannelOpened, EntryBody, Inferred, InlineBody, Message, Part, RingEntry, RingPlace, SlotsPlace,
};

use crate::board::Source;
use crate::error::Error;
use crate::options::Waiting;

/// Both rings of a connection.
pub(crate) struct Ring {
    /// The daemon said good-bye.
    leaving: Arc<AtomicBool>,
    memory: Arc<Mapping>,
    slots: SlotsPlace,
    /// Entries of the ring of requests.
    entries: u32,
    sending: Mutex<Sending>,
    receiving: Mutex<Receiver<Arc<Mapping>>>,
}

struct Sending {
    ring: Producer<Arc<Mapping>>,
    bell: Bell,
    free: Vec<u32>,
    rounds: u64,
    /// Entries that were ever put in, and which of them are cancellations that the daemon did not take out yet.
    put: u32,
    cancels: VecDeque<u32>,
    /// Kept for its room.
    body: Vec<u8>,
}

impl Sending {
    fn ring_bell(&self) -> Result<(), Error> {
        self.bell.ring(&self.ring).map_err(|error| Error::lost(error.to_string()))
    }
}

impl Ring {
    /// The rings that the daemon laid out in a region. `socket` tells of its end.
    pub(crate) fn new(
        opened: &ChannelOpened,
        region: &Region,
        descriptors: Vec<OwnedFd>,
        socket: OwnedFd,
        waiting: Waiting,
        leaving: Arc<AtomicBool>,
    ) -> Result<Ring, Error> {
        let nonsense =
            |what: String| Error::lost(format!("the daemon opened a channel that can't be: {what}"));
        let mut descriptors = descriptors.into_iter();
        let mut descriptor = || descriptors.next().ok_or_else(|| nonsense("descriptors are missing".into()));
        let memory = region.mapping().clone();
        if (memory.len() as u64) < opened.segment_bytes {
            return Err(nonsense("its memory is too small".into()));
        }
        let mut bell = |bell: diolkos_wire::Bell| -> Result<Bell, Error> {
            Ok(match bell {
                diolkos_wire::Bell::Event => Bell::Event(descriptor()?),
                diolkos_wire::Bell::Futex => Bell::Futex,
                diolkos_wire::Bell::Polled => Bell::Polled,
            })
        };
        let (requests, replies) = (bell(opened.requests)?, bell(opened.replies)?);
        let layout = |place: &RingPlace| {
            // Lossless: it was checked to lie inside the segment.
            Layout::new(place.offset as usize, place.entries).map_err(|error| nonsense(error.to_string()))
        };
        let outside = |error: diolkos_shm::ring::LayoutError| nonsense(error.to_string());
        let ring = Producer::new(memory.clone(), layout(&opened.submissions)?).map_err(outside)?;
        let answers = Consumer::new(memory.clone(), layout(&opened.completions)?).map_err(outside)?;
        let free = (0..opened.slots.count).rev().collect();
        Ok(Ring {
            leaving,
            memory,
            slots: opened.slots,
            entries: opened.submissions.entries,
            sending: Mutex::new(Sending {
                ring,
                bell: requests,
                free,
                rounds: 0,
                put: 0,
                cancels: VecDeque::new(),
                body: Vec::new(),
            }),
            receiving: Mutex::new(Receiver::new(answers, replies, waiting.spin()).watch(socket)),
        })
    }

    fn sending(&self) -> MutexGuard<'_, Sending> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot_offset(&self, slot: u32) -> usize {
        // Lossless: the slots lie inside the segment.
        (self.slots.offset + u64::from(slot) * u64::from(self.slots.bytes)) as usize
    }

    /// Takes a slot, and gives the number for a request.
    pub(crate) fn begin(&self) -> Option<u64> {
        let mut sending = self.sending();
        let slot = sending.free.pop()?;
        sending.rounds += 1;
        Some(sending.rounds * u64::from(self.slots.count) + u64::from(slot))
    }

    /// Whether all slots are taken.
    pub(crate) fn is_full(&self) -> bool {
        self.sending().free.is_empty()
    }

    /// Gives back a slot whose request was not sent.
    pub(crate) fn withdraw(&self, id: u64) {
        self.sending().free.push(self.slot_of(id));
    }

    fn slot_of(&self, id: u64) -> u32 {
        // Lossless: the remainder is less than a `u32`.
        (id % u64::from(self.slots.count)) as u32
    }

    /// Sends a request whose number came from [`Ring::begin`]. `false`: it is longer than a slot, and was not sent.
    pub(crate) fn send(&self, id: u64, message: &Message) -> Result<bool, Error> {
        let mut sending = self.sending();
        let mut body = std::mem::take(&mut sending.body);
        body.clear();
        message.append_to(&mut body).map_err(|error| Error::invalid(error.to_string()))?;
        let slot = self.slot_of(id);
        let at = match InlineBody::new(&body) {
            Some(inline) => EntryBody::Inline(inline),
            None if body.len() > self.slots.bytes as usize => {
                sending.body = body;
                return Ok(false);
            }
            None => {
                self.memory.write(self.slot_offset(slot), &body);
                // Lossless: it fits into a slot.
                EntryBody::Slot { slot, length: body.len() as u32 }
            }
        };
        sending.body = body;
        let entry = RingEntry { kind: message.kind().number(), part: Part::Last, id, body: at };
        self.push(&mut sending, &entry).map(|()| true)
    }

    /// Says that nobody waits for a request any more. Of the requests that the daemon did not take out yet there is at most one
    /// for each slot, so what the ring has beyond that is for cancellations. If that is full as well, the answer comes in its time.
    pub(crate) fn cancel(&self, id: u64) -> Result<(), Error> {
        let body = EntryBody::Inline(InlineBody::new(&[]).expect("nothing fits into an entry"));
        let entry = RingEntry { kind: Message::Cancel.kind().number(), part: Part::Last, id, body };
        let mut sending = self.sending();
        let room = sending.ring.room().map_err(|corrupt| Error::lost(corrupt.to_string()))?;
        let (put, in_ring) = (sending.put, self.entries - room);
        while sending.cancels.front().is_some_and(|&place| put.wrapping_sub(place) > in_ring) {
            sending.cancels.pop_front();
        }
        if sending.cancels.len() >= self.entries.saturating_sub(self.slots.count) as usize {
            return Ok(());
        }
        sending.cancels.push_back(put);
        self.push(&mut sending, &entry)
    }

    fn push(&self, sending: &mut Sending, entry: &RingEntry) -> Result<(), Error> {
        match sending.ring.push(&entry.encode()) {
            Ok(()) => {
                sending.put = sending.put.wrapping_add(1);
                sending.ring_bell()
            }
            // A slot is free only if its last request was taken out of the ring, and `cancel` leaves a place for each.
            Err(PushError::Full) => {
                Err(Error::lost("the daemon answered what it never took out of the ring"))
            }
            Err(PushError::Corrupt(corrupt)) => Err(Error::lost(corrupt.to_string())),
        }
    }

    fn message(&self, entry: &[u8; 64]) -> Result<(u64, Message), Error> {
        let nonsense =
            |error: diolkos_wire::DecodeError| Error::lost(format!("the daemon sent nonsense: {error}"));
        let entry = RingEntry::decode(entry, &self.slots).map_err(nonsense)?;
        let message = match &entry.body {
            EntryBody::Inline(body) => entry.message(body.as_bytes()),
            &EntryBody::Slot { slot, length } => {
                let mut body = vec![0; length as usize];
                self.memory.read(self.slot_offset(slot), &mut body);
                entry.message(&body)
            }
        };
        Ok((entry.id, message.map_err(nonsense)?))
    }
}

impl Source<Message> for Ring {
    fn receive(&self, until: Option<Instant>) -> Result<Option<(u64, Message)>, Error> {
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        // Who can't wait does not look for a while either.
        let entry = if until.is_some_and(|until| until <= Instant::now()) {
            receiving.try_next().map_err(|corrupt| Error::lost(corrupt.to_string()))?
        } else {
            receiving.next_before(until).map_err(|error| match error {
                WaitError::HungUp => Error::lost("the daemon closed it"),
                other => Error::lost(other.to_string()),
            })?
        };
        let Some(entry) = entry else { return Ok(None) };
        let (id, message) = self.message(&entry)?;
        if let Message::Inferred(Inferred { timing, .. }) = &message {
            receiving.worked_on_for(timing.total());
        }
        drop(receiving);
        if message == Message::Goodbye {
            self.leaving.store(true, Ordering::Release);
            return Ok(None);
        }
        self.sending().free.push(self.slot_of(id));
        Ok(Some((id, message)))
    }
}

/// A copy of the socket's descriptor, for the one who waits in the ring.
pub(crate) fn watched(socket: &crate::stream::Socket) -> Result<OwnedFd, Error> {
    socket
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| Error::lost(format!("no descriptor is left: {error}")))
}
