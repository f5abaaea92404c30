// SPDX-License-Identifier: Apache-2.0
//! Every order in which two threads can meet on a ring, by loom: the same ring code, on loom's memory.

#![allow(clippy::unwrap_used)] // A test may panic.

use std::sync::atomic::Ordering;

use diolkos_shm::ring::{Consumer, ENTRY_BYTES, Entry, Layout, Producer, PushError};
use diolkos_shm::segment::{Segment, Word};
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

struct LoomWord(AtomicU32);

impl Word for LoomWord {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, order);
    }

    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.0.swap(value, order)
    }
}

/// Three counters, and entries that loom watches for accesses that are not ordered.
struct LoomSegment {
    layout: Layout,
    words: [LoomWord; 3],
    entries: Vec<UnsafeCell<Entry>>,
}

const LINE: usize = 128;
const ENTRIES: usize = 3 * LINE;

impl LoomSegment {
    fn new(capacity: u32) -> LoomSegment {
        LoomSegment {
            layout: Layout::new(0, capacity).unwrap(),
            words: [0; 3].map(|zero| LoomWord(AtomicU32::new(zero))),
            entries: (0..capacity).map(|_| UnsafeCell::new([0; ENTRY_BYTES])).collect(),
        }
    }

    fn entry(&self, offset: usize, len: usize) -> &UnsafeCell<Entry> {
        assert_eq!((len, (offset - ENTRIES) % ENTRY_BYTES), (ENTRY_BYTES, 0), "rings copy whole entries");
        &self.entries[(offset - ENTRIES) / ENTRY_BYTES]
    }
}

// SAFETY: the memory is the value's own; what is outside panics; and that no two threads touch an entry
// at once is what loom is here to find out.
unsafe impl Send for LoomSegment {}
// SAFETY: as above.
unsafe impl Sync for LoomSegment {}

// SAFETY: the memory is the value's own, of constant size, and what is outside panics.
unsafe impl Segment for LoomSegment {
    type Word = LoomWord;

    fn len(&self) -> usize {
        self.layout.end()
    }

    fn word(&self, offset: usize) -> &LoomWord {
        assert_eq!(offset % LINE, 0);
        &self.words[offset / LINE]
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        // SAFETY: loom fails the test if another thread writes meanwhile.
        self.entry(offset, into.len()).with(|entry| into.copy_from_slice(unsafe { &*entry }));
    }

    fn write(&self, offset: usize, from: &[u8]) {
        // SAFETY: loom fails the test if another thread reads or writes meanwhile.
        self.entry(offset, from.len()).with_mut(|entry| unsafe { &mut *entry }.copy_from_slice(from));
    }

    fn fence(&self) {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// An eventfd: rung any number of times, it wakes once.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// loom's `Arc` is not the one that rings know.
#[derive(Clone)]
struct Shared(Arc<LoomSegment>);

// SAFETY: every call is that of the segment, which lives as long as this.
unsafe impl Segment for Shared {
    type Word = LoomWord;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn word(&self, offset: usize) -> &LoomWord {
        self.0.word(offset)
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        self.0.read(offset, into);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        self.0.write(offset, from);
    }

    fn fence(&self) {
        self.0.fence();
    }
}

fn entry(number: u8) -> Entry {
    [number; ENTRY_BYTES]
}

/// A producer of `count` entries and a consumer that sleeps whenever there is nothing. loom reports an entry
/// that is read while it is written, an entry that is lost or torn, and a consumer that nobody wakes.
fn meet(capacity: u32, count: u8) {
    let mut builder = loom::model::Builder::new();
    // All orders of the larger one take minutes. A bug that needs three switches at the worst moments is rare;
    // LOOM_MAX_PREEMPTIONS says how many are tried otherwise.
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(move || {
        let shared = Shared(Arc::new(LoomSegment::new(capacity)));
        let layout = shared.0.layout;
        let bell = Arc::new(Bell::default());
        let mut producer = Producer::new(shared.clone(), layout).unwrap();
        let mut consumer = Consumer::new(shared, layout).unwrap();
        let ringer = bell.clone();
        let sender = thread::spawn(move || {
            for number in 1..=count {
                while let Err(error) = producer.push(&entry(number)) {
                    assert_eq!(error, PushError::Full);
                    thread::yield_now();
                }
                if producer.wake() {
                    ringer.ring();
                }
            }
        });
        for number in 1..=count {
            let taken = loop {
                match consumer.pop().unwrap() {
                    Some(taken) => break taken,
                    None if consumer.may_sleep().unwrap() => {
                        bell.wait();
                        consumer.awake();
                    }
                    None => {}
                }
            };
            assert_eq!(taken, entry(number));
        }
        assert_eq!(consumer.pop(), Ok(None));
        sender.join().unwrap();
    });
}

#[test]
fn a_sleeper_is_woken_and_sees_the_entry() {
    meet(2, 2);
}

#[test]
fn a_place_is_free_only_after_its_entry_was_copied() {
    meet(1, 2);
}
