// SPDX-License-Identifier: Apache-2.0
//! Entries for fuzz targets, as plain functions that tests drive too.

use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::Ordering;

use crate::heap::HeapSegment;
use crate::ring::{Consumer, Corrupt, ENTRY_BYTES, Layout, Producer, PushError};
use crate::segment::Segment as _;

/// Memory on both sides of the ring that nothing may touch.
const MARGIN: usize = 128;
/// A command: what to do, where, and a word.
const COMMAND_BYTES: usize = 6;

/// Both ends of a ring do their work while somebody who has the memory writes whatever it likes into it. The first
/// byte says how large the ring is, the others what is done.
///
/// # Panics
///
/// If an end gives more entries than the ring can hold between two lies, works on after it found the ring
/// corrupt, or touches memory that is not the ring's.
pub fn fuzz_ring(bytes: &[u8]) {
    let Some((&size, commands)) = bytes.split_first() else { return };
    let capacity = 1u32 << (size % 5);
    let layout = Layout::new(MARGIN, capacity).expect("it is aligned and small");
    let segment = Arc::new(HeapSegment::new(layout.end() + MARGIN));
    let mut producer = Producer::new(segment.clone(), layout).expect("the segment is large enough");
    let mut consumer = Consumer::new(segment.clone(), layout).expect("the segment is large enough");
    let (mut no_producer, mut no_consumer) = (false, false);
    // Since the last lie.
    let (mut pushed, mut popped, mut taken) = (0u32, 0u32, 0u32);
    for command in commands.chunks_exact(COMMAND_BYTES) {
        let value = u32::from_le_bytes([command[2], command[3], command[4], command[5]]);
        let word = segment.word(MARGIN + usize::from(command[1] % 3) * 128);
        match command[0] % 8 {
            0 | 1 => match producer.push(&[command[1]; ENTRY_BYTES]) {
                Ok(()) => {
                    assert!(!no_producer, "an end works on in a corrupt ring");
                    pushed += 1;
                    // What was known before the lie, the lie itself and the truth after it can each free
                    // all of the ring, once; everything else was taken out.
                    assert!(pushed <= 3 * capacity + taken, "more entries went in than there is room for");
                }
                Err(PushError::Full) => assert!(!no_producer, "an end works on in a corrupt ring"),
                Err(PushError::Corrupt(Corrupt)) => no_producer = true,
            },
            2 | 3 => match consumer.pop() {
                Ok(Some(_)) => {
                    assert!(!no_consumer, "an end works on in a corrupt ring");
                    (popped, taken) = (popped + 1, taken + 1);
                    assert!(popped <= 3 * capacity + pushed, "more entries came out than there is room for");
                }
                Ok(None) => assert!(!no_consumer, "an end works on in a corrupt ring"),
                Err(Corrupt) => no_consumer = true,
            },
            4 => match consumer.may_sleep() {
                Ok(_) => assert!(!no_consumer, "an end works on in a corrupt ring"),
                Err(Corrupt) => no_consumer = true,
            },
            5 => drop(producer.wake()),
            lie => {
                // Half of them near the truth, where a check that is off by one would let them pass.
                let near = word.load(Ordering::Relaxed).wrapping_add(value % 8).wrapping_sub(4);
                word.store(if lie == 6 { value } else { near }, Ordering::Relaxed);
                (pushed, popped, taken) = (0, 0, 0);
            }
        }
    }
    for margin in [0, layout.end()] {
        let mut bytes = vec![1; MARGIN];
        segment.read(margin, &mut bytes);
        assert!(bytes.iter().all(|&byte| byte == 0), "memory outside of the ring was written");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_lying_peer_harms_itself(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            super::fuzz_ring(&bytes);
        }
    }
}
