// SPDX-License-Identifier: Apache-2.0
//! A ring of fixed-size entries from one producer to one consumer, in memory that both can write and
//! neither trusts the other with.
//!
//! # Layout
//!
//! Byte offsets from the ring's place in its segment. Words are 32 bits in the byte order of the machine: a
//! ring is never shared between machines. Nothing in it is a pointer or a descriptor, so it may be mapped
//! anywhere, and at several addresses.
//!
//! ```text
//!   0  tail      entries that were ever put in; written by the producer
//! 128  head      entries that were ever taken out; written by the consumer
//! 256  sleeping  1 while the consumer sleeps, or is about to; see below
//! 384  entries   entry n lies at 384 + (n mod capacity) × ENTRY_BYTES
//! ```
//!
//! Counters run freely and wrap at 2³²; the capacity is a power of two, so a place is a mask of a counter.
//! What the two sides write lies 128 bytes apart: the cache lines of some processors have that size, and
//! others fetch lines of 64 in pairs.
//!
//! # Ordering: how entries and counters belong together
//!
//! * *Put in*: the producer writes the entry, then `tail` with Release. The consumer reads `tail` with
//!   Acquire, then the entry. So whoever sees the counter sees the entry.
//! * *Taken out*: the consumer copies the entry, then writes `head` with Release. The producer reads `head` with
//!   Acquire before it writes into a place again. So no entry is overwritten before it was copied.
//!
//! # Sleeping: why no wake-up is lost
//!
//! ```text
//! consumer                               producer
//!   sleeping = 1                           write the entry, tail += 1
//!   fence (SeqCst)                         fence (SeqCst)
//!   tail == head? ──no──> sleeping = 0     sleeping == 0? ──yes──> done
//!        │yes                                   │no
//!   wait for the doorbell                  sleeping = 0, ring the doorbell
//! ```
//!
//! Each side writes its own word, and reads the other's behind a fence. The fences have one order: in
//! whichever comes second, the reading after it sees what was written before the first. So the consumer
//! sees the new `tail` and stays awake, or the producer sees `sleeping` and rings; perhaps both. The
//! producer clears the flag as it rings, so that one sleep costs one ring, however many entries follow.
//!
//! # A peer that lies
//!
//! Each side keeps its own counter to itself and never reads it back; what it publishes is a copy. The
//! other's counter is read once and taken only if it can be true: an entry put in is not taken back, and not
//! more than `capacity` are in the ring. Otherwise the ring is [`Corrupt`], for good: there is no telling which
//! entries were meant. A peer can write junk into entries and counters, put a sleeper to sleep or keep
//! a producer ringing, and harms nobody but itself: an entry is copied once, and judged by whoever uses it.

use core::sync::atomic::Ordering;

use crate::segment::{Segment, Word as _};

/// Distance between what the two sides write.
const LINE_BYTES: usize = 128;
const TAIL: usize = 0;
const HEAD: usize = LINE_BYTES;
const SLEEPING: usize = 2 * LINE_BYTES;
const ENTRIES: usize = 3 * LINE_BYTES;

/// Size of an entry: one cache line of most machines, room for a request's head without its tensors.
pub const ENTRY_BYTES: usize = 64;

/// Most entries of a ring: more would be memory for requests that nobody may have in flight.
pub const CAPACITY_MAX: u32 = 1 << 15;

const _: () = assert!(LINE_BYTES.is_multiple_of(ENTRY_BYTES), "entries begin on a cache line");
const _: () = assert!(CAPACITY_MAX < u32::MAX / 2, "a full ring and a counter that ran backwards differ");

/// One entry.
pub type Entry = [u8; ENTRY_BYTES];

/// Where a ring lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    offset: usize,
    capacity: u32,
}

/// Why a ring can't lie there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(thiserror::Error))]
pub enum LayoutError {
    /// The number of entries is no power of two, or too large.
    #[cfg_attr(
        feature = "std",
        error("a ring of {capacity} entries: 1, 2, 4, … up to {CAPACITY_MAX} are possible")
    )]
    Capacity {
        /// What was asked for.
        capacity: u32,
    },
    /// The place is not aligned.
    #[cfg_attr(feature = "std", error("a ring at byte {offset}, which is no multiple of {LINE_BYTES}"))]
    Unaligned {
        /// What was asked for.
        offset: usize,
    },
    /// The ring reaches beyond the segment.
    #[cfg_attr(feature = "std", error("a ring that ends at byte {end} of a segment of {len}"))]
    Outside {
        /// Where it would end.
        end: usize,
        /// Size of the segment.
        len: usize,
    },
}

impl Layout {
    /// A ring of so many entries at a place in a segment.
    pub fn new(offset: usize, capacity: u32) -> Result<Layout, LayoutError> {
        if !capacity.is_power_of_two() || capacity > CAPACITY_MAX {
            return Err(LayoutError::Capacity { capacity });
        }
        if !offset.is_multiple_of(LINE_BYTES) || offset.checked_add(bytes(capacity)).is_none() {
            return Err(LayoutError::Unaligned { offset });
        }
        Ok(Layout { offset, capacity })
    }

    /// Entries that it has room for.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> usize {
        self.offset + bytes(self.capacity)
    }

    fn check(&self, segment: &impl Segment) -> Result<(), LayoutError> {
        let (end, len) = (self.end(), segment.len());
        if end > len { Err(LayoutError::Outside { end, len }) } else { Ok(()) }
    }

    fn entry(&self, counter: u32) -> usize {
        let place = counter & (self.capacity - 1);
        self.offset + ENTRIES + place as usize * ENTRY_BYTES
    }
}

fn bytes(capacity: u32) -> usize {
    ENTRIES + capacity as usize * ENTRY_BYTES
}

/// The peer wrote a counter that can't be true. The ring is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(thiserror::Error))]
#[cfg_attr(feature = "std", error("the ring's counters contradict each other"))]
pub struct Corrupt;

/// Why an entry was not put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(thiserror::Error))]
pub enum PushError {
    /// The consumer has not taken out what is there.
    #[cfg_attr(feature = "std", error("the ring is full"))]
    Full,
    /// See [`Corrupt`].
    #[cfg_attr(feature = "std", error(transparent))]
    Corrupt(#[cfg_attr(feature = "std", from)] Corrupt),
}

/// The end that puts entries in.
#[derive(Debug)]
pub struct Producer<S> {
    segment: S,
    layout: Layout,
    tail: u32,
    /// The consumer's counter as it was last read.
    head: u32,
    corrupt: bool,
}

impl<S: Segment> Producer<S> {
    /// The producer of a ring whose memory is zero and that nobody used yet.
    pub fn new(segment: S, layout: Layout) -> Result<Producer<S>, LayoutError> {
        layout.check(&segment)?;
        Ok(Producer { segment, layout, tail: 0, head: 0, corrupt: false })
    }

    /// Puts an entry in. Whether the consumer must be woken, [`Producer::wake`] says.
    pub fn push(&mut self, entry: &Entry) -> Result<(), PushError> {
        if self.free()? == 0 {
            return Err(PushError::Full);
        }
        self.segment.write(self.layout.entry(self.tail), entry);
        self.tail = self.tail.wrapping_add(1);
        // Pairs with the load in `Consumer::pop`: the entry is there before its counter.
        self.segment.word(self.layout.offset + TAIL).store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Places that are known to be free. More may be, and none is taken but by [`Producer::push`].
    fn free(&mut self) -> Result<u32, Corrupt> {
        if self.corrupt {
            return Err(Corrupt);
        }
        let used = self.tail.wrapping_sub(self.head);
        if used < self.layout.capacity { Ok(self.layout.capacity - used) } else { self.room() }
    }

    /// Places that are free, as far as the consumer says now.
    pub fn room(&mut self) -> Result<u32, Corrupt> {
        if self.corrupt {
            return Err(Corrupt);
        }
        let used = self.tail.wrapping_sub(self.head);
        // Pairs with the store in `Consumer::pop`: the entry was copied before its place is free.
        let head = self.segment.word(self.layout.offset + HEAD).load(Ordering::Acquire);
        // A consumer that takes nothing back and nothing that is not there leaves at most what was used.
        let left = self.tail.wrapping_sub(head);
        if left > used {
            self.corrupt = true;
            return Err(Corrupt);
        }
        self.head = head;
        Ok(self.layout.capacity - left)
    }

    /// Whether the consumer sleeps and its doorbell must be rung now. To be asked after entries were put in: once
    /// for any number of them.
    #[must_use = "a consumer that sleeps and is not woken sleeps on"]
    pub fn wake(&self) -> bool {
        let sleeping = self.sleeping();
        // Between `tail` and `sleeping`; see "Sleeping".
        self.segment.fence();
        // Relaxed: the fence orders it. Looked at first, because writing would take the line from the consumer.
        sleeping.load(Ordering::Relaxed) != 0 && sleeping.swap(0, Ordering::Relaxed) != 0
    }

    /// The word that is 1 while the consumer sleeps: a futex may wake who waits on it.
    pub fn sleeping(&self) -> &S::Word {
        self.segment.word(self.layout.offset + SLEEPING)
    }
}

/// The end that takes entries out.
#[derive(Debug)]
pub struct Consumer<S> {
    segment: S,
    layout: Layout,
    head: u32,
    /// The producer's counter as it was last read.
    tail: u32,
    corrupt: bool,
}

impl<S: Segment> Consumer<S> {
    /// The consumer of a ring whose memory is zero and that nobody used yet.
    pub fn new(segment: S, layout: Layout) -> Result<Consumer<S>, LayoutError> {
        layout.check(&segment)?;
        Ok(Consumer { segment, layout, head: 0, tail: 0, corrupt: false })
    }

    /// Takes the next entry out, if there is one.
    pub fn pop(&mut self) -> Result<Option<Entry>, Corrupt> {
        if self.head == self.tail && !self.look(Ordering::Acquire)? {
            return Ok(None);
        }
        if self.corrupt {
            return Err(Corrupt);
        }
        let mut entry = [0; ENTRY_BYTES];
        self.segment.read(self.layout.entry(self.head), &mut entry);
        self.head = self.head.wrapping_add(1);
        // Pairs with the load in `Producer::free`: the entry was copied before its place is free.
        self.segment.word(self.layout.offset + HEAD).store(self.head, Ordering::Release);
        Ok(Some(entry))
    }

    /// Reads the producer's counter. Whether there is something to take out.
    fn look(&mut self, order: Ordering) -> Result<bool, Corrupt> {
        if self.corrupt {
            return Err(Corrupt);
        }
        // Pairs with the store in `Producer::push`: who sees the counter sees the entries.
        let tail = self.segment.word(self.layout.offset + TAIL).load(order);
        let (before, now) = (self.tail.wrapping_sub(self.head), tail.wrapping_sub(self.head));
        if now > self.layout.capacity || now < before {
            self.corrupt = true;
            return Err(Corrupt);
        }
        self.tail = tail;
        Ok(now > 0)
    }

    /// Announces that this end is about to wait for its doorbell. `false`: something came meanwhile, do not
    /// wait. After the wait, however it ended, [`Consumer::awake`] takes the announcement back.
    pub fn may_sleep(&mut self) -> Result<bool, Corrupt> {
        // Relaxed: the fence orders it. A swap where a store would do, because loom, which checks this, lets a store
        // come between another thread's swap and the value that it read, which no machine does.
        self.sleeping().swap(1, Ordering::Relaxed);
        // Between `sleeping` and `tail`; see "Sleeping".
        self.segment.fence();
        let something = self.look(Ordering::Acquire);
        if something != Ok(false) {
            self.awake();
        }
        something.map(|something| !something)
    }

    /// Takes back that this end sleeps, so that nobody rings for nothing.
    pub fn awake(&mut self) {
        // Relaxed: a ring too many is harmless, and one too few is impossible while awake.
        self.sleeping().store(0, Ordering::Relaxed);
    }

    /// The word that is 1 while this end sleeps: a futex may wait on it.
    pub fn sleeping(&self) -> &S::Word {
        self.segment.word(self.layout.offset + SLEEPING)
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use super::*;
    use crate::heap::HeapSegment;

    /// Both ends as they are after so many entries, which no test has time to pass through.
    fn late(entries: u32, capacity: u32) -> (Producer<Arc<HeapSegment>>, Consumer<Arc<HeapSegment>>) {
        let layout = Layout::new(0, capacity).unwrap();
        let segment = Arc::new(HeapSegment::new(layout.end()));
        segment.word(TAIL).store(entries, Ordering::Relaxed);
        segment.word(HEAD).store(entries, Ordering::Relaxed);
        let mut producer = Producer::new(segment.clone(), layout).unwrap();
        let mut consumer = Consumer::new(segment, layout).unwrap();
        (producer.tail, producer.head, consumer.tail, consumer.head) = (entries, entries, entries, entries);
        (producer, consumer)
    }

    #[test]
    fn counters_wrap() {
        for capacity in [1, 4, 8] {
            for before in 0..=2 * capacity {
                let (mut producer, mut consumer) = late(0u32.wrapping_sub(before), capacity);
                for round in 0..3u8 {
                    for number in 0..capacity {
                        producer.push(&[round * 8 + number as u8; ENTRY_BYTES]).unwrap();
                    }
                    assert_eq!(producer.push(&[0; ENTRY_BYTES]), Err(PushError::Full));
                    for number in 0..capacity {
                        assert_eq!(consumer.pop(), Ok(Some([round * 8 + number as u8; ENTRY_BYTES])));
                    }
                    assert_eq!(consumer.pop(), Ok(None));
                    assert_eq!(consumer.may_sleep(), Ok(true));
                }
            }
        }
    }
}
