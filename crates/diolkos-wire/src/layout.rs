// SPDX-License-Identifier: Apache-2.0
//! Where things lie in a channel's segment, and whether they can.
//!
//! ```text
//! segment │ ring of submissions │ ring of completions │ message slots │
//!           384 + 64 × entries    384 + 64 × entries    count × bytes
//! ```
//!
//! The order is free, and there may be gaps. Offsets and lengths come from a peer: every sum is checked.

use crate::cursor::{Reader, Wire, Writer};
use crate::error::{DecodeError, LayoutError};
use crate::limits::{RING_ENTRIES_MAX, SLOT_BYTES_MAX};
use crate::ring_entry::ENTRY_BYTES;

/// Counters and wait flags of a ring, before its entries: three pairs of cache lines.
pub const RING_HEAD_BYTES: u64 = 384;

/// What divides the offset of a ring: two cache lines, which processors fetch together.
pub const RING_ALIGN: u64 = 128;

/// What divides the offset and the length of message slots: a cache line.
pub const SLOT_ALIGN: u64 = 64;

/// Where a ring lies in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingPlace {
    /// Where it begins.
    pub offset: u64,
    /// How many entries it has.
    pub entries: u32,
}

impl RingPlace {
    /// Bytes of the ring, its counters included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        RING_HEAD_BYTES + u64::from(self.entries) * ENTRY_BYTES as u64
    }

    pub(crate) fn check(&self, what: &'static str, segment_bytes: u64) -> Result<Span, LayoutError> {
        check_entries(what, self.entries)?;
        Span { what, offset: self.offset, bytes: self.bytes() }.check(RING_ALIGN, segment_bytes)
    }
}

impl Wire for RingPlace {
    fn write(&self, to: &mut Writer<'_>) {
        to.u64(self.offset);
        to.u32(self.entries);
    }

    fn read(from: &mut Reader<'_>) -> Result<RingPlace, DecodeError> {
        Ok(RingPlace { offset: from.u64("ring offset")?, entries: from.u32("ring entries")? })
    }
}

/// Where the message slots lie in their segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotsPlace {
    /// Where the first begins.
    pub offset: u64,
    /// How many there are.
    pub count: u32,
    /// Bytes of each.
    pub bytes: u32,
}

impl SlotsPlace {
    pub(crate) fn check(&self, segment_bytes: u64) -> Result<Span, LayoutError> {
        check_slot_bytes(self.bytes)?;
        if self.count == 0 {
            return Err(LayoutError::NoSlots);
        }
        let bytes = u64::from(self.count) * u64::from(self.bytes);
        Span { what: "the slots", offset: self.offset, bytes }.check(SLOT_ALIGN, segment_bytes)
    }
}

impl Wire for SlotsPlace {
    fn write(&self, to: &mut Writer<'_>) {
        to.u64(self.offset);
        to.u32(self.count);
        to.u32(self.bytes);
    }

    fn read(from: &mut Reader<'_>) -> Result<SlotsPlace, DecodeError> {
        Ok(SlotsPlace {
            offset: from.u64("slots offset")?,
            count: from.u32("slots count")?,
            bytes: from.u32("slots bytes")?,
        })
    }
}

/// Refuses a ring that is no power of two, or too large.
pub(crate) fn check_entries(what: &'static str, given: u32) -> Result<(), LayoutError> {
    let good = given.is_power_of_two() && given <= RING_ENTRIES_MAX;
    if good { Ok(()) } else { Err(LayoutError::Entries { what, given }) }
}

/// Refuses slots that are no whole number of cache lines, or too large.
pub(crate) fn check_slot_bytes(given: u32) -> Result<(), LayoutError> {
    let good = given > 0 && given <= SLOT_BYTES_MAX && u64::from(given).is_multiple_of(SLOT_ALIGN);
    if good { Ok(()) } else { Err(LayoutError::SlotBytes { given }) }
}

/// Something that lies in a segment.
pub(crate) struct Span {
    /// What, for errors.
    pub(crate) what: &'static str,
    /// Where it begins.
    pub(crate) offset: u64,
    /// How long it is.
    pub(crate) bytes: u64,
}

impl Span {
    fn check(self, multiple: u64, segment_bytes: u64) -> Result<Span, LayoutError> {
        let Span { what, offset, bytes } = self;
        if !offset.is_multiple_of(multiple) {
            return Err(LayoutError::Misaligned { what, offset, multiple });
        }
        if offset.checked_add(bytes).is_none_or(|end| end > segment_bytes) {
            return Err(LayoutError::Outside { what, offset, bytes, segment_bytes });
        }
        Ok(self)
    }
}
