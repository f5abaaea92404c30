// SPDX-License-Identifier: Apache-2.0
//! Tests of layouts.

use proptest::prelude::*;

use super::*;
use crate::layout::{RingPlace, SlotsPlace};
use crate::strategies::channel_opened;

/// Two rings of 2 entries and 3 slots of 64 bytes, as tight as can be.
const TIGHT: ChannelOpened = ChannelOpened {
    segment_bytes: 1216,
    submissions: RingPlace { offset: 0, entries: 2 },
    completions: RingPlace { offset: 512, entries: 2 },
    slots: SlotsPlace { offset: 1024, count: 3, bytes: 64 },
    requests: Bell::Futex,
    replies: Bell::Event,
};

#[test]
fn a_tight_layout_is_fine() {
    assert_eq!(TIGHT.check(), Ok(()));
}

#[test]
fn every_way_to_be_wrong_is_named() {
    type Change = fn(&mut ChannelOpened);
    let check = |change: Change| {
        let mut opened = TIGHT;
        change(&mut opened);
        opened.check()
    };
    let (submissions, completions, slots) = ("the submissions", "the completions", "the slots");
    let cases: [(Change, LayoutError); 9] = [
        (|o| o.submissions.entries = 3, LayoutError::Entries { what: submissions, given: 3 }),
        (|o| o.completions.entries = 0, LayoutError::Entries { what: completions, given: 0 }),
        (|o| o.submissions.entries = 1 << 16, LayoutError::Entries { what: submissions, given: 1 << 16 }),
        (|o| o.slots.bytes = 65, LayoutError::SlotBytes { given: 65 }),
        (|o| o.slots.count = 0, LayoutError::NoSlots),
        (
            |o| o.completions.offset = 576,
            LayoutError::Misaligned { what: completions, offset: 576, multiple: 128 },
        ),
        (
            |o| o.slots.count = 4,
            LayoutError::Outside { what: slots, offset: 1024, bytes: 256, segment_bytes: 1216 },
        ),
        (
            |o| o.submissions.offset = u64::MAX - 127,
            LayoutError::Outside {
                what: submissions,
                offset: u64::MAX - 127,
                bytes: 512,
                segment_bytes: 1216,
            },
        ),
        (|o| o.submissions.offset = 128, LayoutError::Overlap { first: submissions, second: completions }),
    ];
    for (change, error) in cases {
        assert_eq!(check(change), Err(error));
    }
}

#[test]
fn the_order_in_the_segment_is_free() {
    let mut opened = TIGHT;
    opened.slots.offset = 0;
    opened.submissions.offset = 256;
    opened.completions.offset = 768;
    opened.segment_bytes = 1280;
    assert_eq!(opened.check(), Ok(()));
    opened.slots.offset = 128;
    assert_eq!(opened.check(), Err(LayoutError::Overlap { first: "the slots", second: "the submissions" }));
}

#[test]
fn bells_are_numbered_from_one() {
    for (index, bell) in Bell::ALL.into_iter().enumerate() {
        assert_eq!(bell as usize, index + 1);
    }
}

proptest! {
    /// Held against the plainest of models: a byte of a segment belongs to one thing at most.
    #[test]
    fn agrees_with_counting_bytes(
        good in channel_opened(),
        which in 0usize..3,
        moved in 0u64..64,
        shorter in 0u64..2,
    ) {
        let mut opened = good;
        let offset = moved * 128;
        match which {
            0 => opened.submissions.offset = offset,
            1 => opened.completions.offset = offset,
            _ => opened.slots.offset = offset,
        }
        opened.segment_bytes -= shorter;
        let slots = u64::from(opened.slots.count) * u64::from(opened.slots.bytes);
        let spans = [
            (opened.submissions.offset, opened.submissions.bytes()),
            (opened.completions.offset, opened.completions.bytes()),
            (opened.slots.offset, slots),
        ];
        let mut owners = alloc::vec![0u8; opened.segment_bytes as usize];
        let mut inside = true;
        for (offset, bytes) in spans {
            for at in offset..offset + bytes {
                match owners.get_mut(at as usize) {
                    Some(count) => *count += 1,
                    None => inside = false,
                }
            }
        }
        let expected = inside && owners.iter().all(|count| *count <= 1);
        prop_assert_eq!(opened.check().is_ok(), expected);
    }
}

proptest! {
    #[test]
    fn what_is_laid_out_fits_and_is_as_large_as_documented(power in 0u32..15, lines in 1u32..1000) {
        let (entries, slot_bytes) = (1 << power, lines * 64);
        let open = OpenChannel { entries, slot_bytes, replies: Bell::Polled, region: 1 };
        let opened = open.lay_out();
        prop_assert_eq!(opened.check(), Ok(()));
        let (entries, slot_bytes) = (u64::from(entries), u64::from(slot_bytes));
        // As docs/native-channel.md has it, for clients in other languages.
        prop_assert_eq!(opened.segment_bytes, 768 + 192 * entries + entries * slot_bytes);
        prop_assert_eq!((opened.slots.count, opened.completions.entries), (open.entries, open.entries));
        prop_assert_eq!(opened.replies, open.replies);
    }
}
