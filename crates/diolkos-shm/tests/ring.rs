// SPDX-License-Identifier: Apache-2.0
//! A ring against a plainer model, and against a peer that lies.

#![allow(clippy::unwrap_used)] // A test may panic.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use diolkos_shm::heap::HeapSegment;
use diolkos_shm::ring::{
    CAPACITY_MAX, Consumer, Corrupt, ENTRY_BYTES, Entry, Layout, LayoutError, Producer, PushError,
};
use diolkos_shm::segment::Segment as _;
use proptest::prelude::*;

type Ends = (Arc<HeapSegment>, Producer<Arc<HeapSegment>>, Consumer<Arc<HeapSegment>>);

fn ring(capacity: u32) -> Ends {
    let layout = Layout::new(128, capacity).unwrap();
    let segment = Arc::new(HeapSegment::new(layout.end()));
    let producer = Producer::new(segment.clone(), layout).unwrap();
    let consumer = Consumer::new(segment.clone(), layout).unwrap();
    (segment, producer, consumer)
}

fn entry(number: u64) -> Entry {
    let mut entry = [0; ENTRY_BYTES];
    entry.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&number.to_le_bytes()));
    entry
}

#[test]
fn places_that_are_impossible() {
    for capacity in [0, 3, CAPACITY_MAX * 2, u32::MAX] {
        assert_eq!(Layout::new(0, capacity), Err(LayoutError::Capacity { capacity }));
    }
    for offset in [1, 64, usize::MAX - 127] {
        assert_eq!(Layout::new(offset, 2), Err(LayoutError::Unaligned { offset }));
    }
    let layout = Layout::new(128, 4).unwrap();
    assert_eq!(layout.end(), 128 + 384 + 4 * 64);
    let outside = LayoutError::Outside { end: layout.end(), len: layout.end() - 4 };
    assert_eq!(Producer::new(HeapSegment::new(layout.end() - 4), layout).unwrap_err(), outside);
    assert_eq!(Consumer::new(HeapSegment::new(layout.end() - 4), layout).unwrap_err(), outside);
    assert_eq!(outside.to_string(), "a ring that ends at byte 768 of a segment of 764");
}

#[test]
fn a_sleeper_is_woken_once() {
    let (_, mut producer, mut consumer) = ring(4);
    producer.push(&entry(1)).unwrap();
    assert!(!producer.wake(), "nobody sleeps");
    assert_eq!(consumer.may_sleep(), Ok(false), "something is there");
    assert_eq!(consumer.pop(), Ok(Some(entry(1))));
    assert_eq!(consumer.may_sleep(), Ok(true));
    producer.push(&entry(2)).unwrap();
    producer.push(&entry(3)).unwrap();
    assert!(producer.wake() && !producer.wake());
    consumer.awake();
    assert!(!producer.wake());
}

#[test]
fn full_is_full_and_empty_is_empty() {
    let (_, mut producer, mut consumer) = ring(1);
    for number in 0..1000 {
        producer.push(&entry(number)).unwrap();
        assert_eq!(producer.push(&entry(number)), Err(PushError::Full));
        assert_eq!(consumer.pop(), Ok(Some(entry(number))));
        assert_eq!(consumer.pop(), Ok(None));
    }
}

proptest! {
    #[test]
    fn is_a_queue_of_bounded_length(log_capacity in 0u32..5, pushes in proptest::collection::vec(any::<bool>(), 0..400)) {
        let capacity = 1 << log_capacity;
        let (_, mut producer, mut consumer) = ring(capacity);
        let mut model = VecDeque::new();
        for (number, push) in (0u64..).zip(pushes) {
            if push {
                let pushed = producer.push(&entry(number));
                if model.len() < capacity as usize {
                    prop_assert_eq!(pushed, Ok(()));
                    model.push_back(entry(number));
                } else {
                    prop_assert_eq!(pushed, Err(PushError::Full));
                }
            } else {
                prop_assert_eq!(consumer.pop(), Ok(model.pop_front()));
            }
        }
    }

    /// Whatever a peer writes into whichever word: the other side gives at most what the ring holds, or says
    /// that the ring is corrupt, and then says so for good.
    #[test]
    fn a_lying_peer_harms_itself(log_capacity in 0u32..4, lies in proptest::collection::vec((0usize..3, any::<u32>(), 0u32..6), 1..60)) {
        let capacity = 1u32 << log_capacity;
        let (segment, mut producer, mut consumer) = ring(capacity);
        let (mut producer_corrupt, mut consumer_corrupt) = (false, false);
        for (word, wild, near) in lies {
            let word = segment.word(128 + word * 128);
            // Half of the lies are near the truth, where a check that is off by one would let them through.
            let lie = if wild % 2 == 0 { wild } else { word.load(Ordering::Relaxed).wrapping_add(near).wrapping_sub(3) };
            word.store(lie, Ordering::Relaxed);
            let mut pushed = 0;
            loop {
                match producer.push(&entry(7)) {
                    Ok(()) => pushed += 1,
                    Err(PushError::Full) => { prop_assert!(!producer_corrupt); break }
                    Err(PushError::Corrupt(Corrupt)) => { producer_corrupt = true; break }
                }
                prop_assert!(!producer_corrupt && pushed <= 2 * capacity, "more than the ring holds");
            }
            let _ = producer.wake();
            let mut popped = 0;
            loop {
                match consumer.pop() {
                    Ok(Some(_)) => popped += 1,
                    Ok(None) => { prop_assert!(!consumer_corrupt); break }
                    Err(Corrupt) => { consumer_corrupt = true; break }
                }
                prop_assert!(!consumer_corrupt && popped <= 2 * capacity, "more than the ring holds");
            }
            let _ = consumer.may_sleep();
        }
    }
}
