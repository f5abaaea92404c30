// SPDX-License-Identifier: Apache-2.0
//! Messages in a ring: 64 bytes each, one cache line.
//!
//! ```text
//!  0    u16  kind
//!  2    u16  flags    bit 0, MORE: further parts follow; bit 1, INLINE: the body is in the entry
//!  4    u32  length   bytes of the body
//!  8    u64  id       number of the request; 0 where there is none
//! 16         INLINE: the body, up to 48 bytes; else u32 slot, the message slot in which the body lies
//!            zeros up to 64
//! ```
//!
//! A body lies in the entry exactly if it fits there. Over rings a message has no payload.
//!
//! An entry comes from memory that the peer can write: copy it first, then decode the copy, and do the same
//! with the body in a slot.

use crate::error::DecodeError;
use crate::frame::Part;
use crate::layout::SlotsPlace;
use crate::message::Message;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 64;

/// Longest body that lies in an entry.
pub const INLINE_BYTES_MAX: usize = ENTRY_BYTES - HEAD_BYTES;

const HEAD_BYTES: usize = 16;
const SLOT_END: usize = HEAD_BYTES + 4;
const FLAG_INLINE: u16 = 2;

/// A body that fits into an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InlineBody {
    length: u8,
    /// Zero from `length` on.
    bytes: [u8; INLINE_BYTES_MAX],
}

impl InlineBody {
    /// This body, if it fits.
    #[must_use]
    pub fn new(body: &[u8]) -> Option<InlineBody> {
        let mut bytes = [0; INLINE_BYTES_MAX];
        bytes.get_mut(..body.len())?.copy_from_slice(body);
        Some(InlineBody { length: u8::try_from(body.len()).ok()?, bytes })
    }

    /// The bytes of the body.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Where the body of a message in a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryBody {
    /// In the entry.
    Inline(InlineBody),
    /// In a message slot.
    Slot {
        /// Which.
        slot: u32,
        /// Bytes of the body, more than [`INLINE_BYTES_MAX`].
        length: u32,
    },
}

/// A message in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingEntry {
    /// Number of the kind, known to this side or not.
    pub kind: u16,
    /// Whether further parts follow.
    pub part: Part,
    /// Number of the request; 0 where there is none.
    pub id: u64,
    /// Where the body is.
    pub body: EntryBody,
}

impl RingEntry {
    /// Reads an entry. Behind one that is refused the ring can't be trusted any more.
    pub fn decode(entry: &[u8; ENTRY_BYTES], slots: &SlotsPlace) -> Result<RingEntry, DecodeError> {
        let [k0, k1, f0, f1, l0, l1, l2, l3, i0, i1, i2, i3, i4, i5, i6, i7, rest @ ..] = *entry;
        let flags = u16::from_le_bytes([f0, f1]);
        let part = Part::from_bits("flags of the ring entry", flags, FLAG_INLINE)?;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let body = if flags & FLAG_INLINE == 0 {
            slot_body(entry, length, slots)?
        } else {
            inline_body(entry, length, rest)?
        };
        let id = u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]);
        Ok(RingEntry { kind: u16::from_le_bytes([k0, k1]), part, id, body })
    }

    /// The bytes of this entry.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        let (inline, length) = match &self.body {
            EntryBody::Inline(body) => {
                entry[HEAD_BYTES..].copy_from_slice(&body.bytes);
                (FLAG_INLINE, u32::from(body.length))
            }
            EntryBody::Slot { slot, length } => {
                debug_assert!(
                    *length as usize > INLINE_BYTES_MAX,
                    "a body of {length} bytes lies in the entry"
                );
                entry[HEAD_BYTES..SLOT_END].copy_from_slice(&slot.to_le_bytes());
                (0, *length)
            }
        };
        entry[..2].copy_from_slice(&self.kind.to_le_bytes());
        entry[2..4].copy_from_slice(&(self.part.bits() | inline).to_le_bytes());
        entry[4..8].copy_from_slice(&length.to_le_bytes());
        entry[8..16].copy_from_slice(&self.id.to_le_bytes());
        entry
    }

    /// The message whose body this is: that of the entry, or a copy of `length` bytes of its slot.
    pub fn message(&self, body: &[u8]) -> Result<Message, DecodeError> {
        let expected = match &self.body {
            EntryBody::Inline(inline) => u32::from(inline.length),
            EntryBody::Slot { length, .. } => *length,
        };
        if u32::try_from(body.len()) != Ok(expected) {
            return Err(DecodeError::BodyLength { expected, given: body.len() });
        }
        Message::decode(self.kind, body, 0)
    }
}

fn inline_body(
    entry: &[u8; ENTRY_BYTES],
    length: u32,
    bytes: [u8; INLINE_BYTES_MAX],
) -> Result<EntryBody, DecodeError> {
    match u8::try_from(length) {
        Ok(small) if usize::from(small) <= INLINE_BYTES_MAX => {
            check_zero(entry, HEAD_BYTES + usize::from(small))?;
            Ok(EntryBody::Inline(InlineBody { length: small, bytes }))
        }
        _ => Err(wrong_place(length, "in the entry")),
    }
}

fn slot_body(entry: &[u8; ENTRY_BYTES], length: u32, slots: &SlotsPlace) -> Result<EntryBody, DecodeError> {
    if length as usize <= INLINE_BYTES_MAX {
        return Err(wrong_place(length, "in a slot"));
    }
    if length > slots.bytes {
        return Err(DecodeError::TooLong {
            what: "the body in a slot",
            max: slots.bytes.into(),
            given: length.into(),
        });
    }
    let [s0, s1, s2, s3] = [entry[16], entry[17], entry[18], entry[19]];
    let slot = u32::from_le_bytes([s0, s1, s2, s3]);
    if slot >= slots.count {
        return Err(DecodeError::Slot { given: slot, count: slots.count });
    }
    check_zero(entry, SLOT_END)?;
    Ok(EntryBody::Slot { slot, length })
}

fn wrong_place(given: u32, used: &'static str) -> DecodeError {
    DecodeError::WrongPlace { given, max: INLINE_BYTES_MAX as u32, used }
}

/// Refuses an entry with anything but zeros from byte `start` on.
fn check_zero(entry: &[u8; ENTRY_BYTES], start: usize) -> Result<(), DecodeError> {
    match entry.iter().enumerate().skip(start).find(|(_, byte)| **byte != 0) {
        None => Ok(()),
        Some((at, &given)) => Err(DecodeError::NotZero { at, given }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: SlotsPlace = SlotsPlace { offset: 0, count: 4, bytes: 128 };

    fn slot_entry(slot: u32, length: u32) -> RingEntry {
        RingEntry { kind: 0x22, part: Part::Last, id: 9, body: EntryBody::Slot { slot, length } }
    }

    fn inline_entry(body: &[u8]) -> RingEntry {
        let body = EntryBody::Inline(InlineBody::new(body).unwrap());
        RingEntry { kind: 0xfffe, part: Part::More, id: u64::MAX, body }
    }

    #[test]
    fn entries_round_trip() {
        for entry in [inline_entry(b""), inline_entry(&[0; 48]), inline_entry(b"abc"), slot_entry(3, 128)] {
            assert_eq!(RingEntry::decode(&entry.encode(), &SLOTS), Ok(entry));
        }
        assert_eq!(InlineBody::new(&[0; 49]), None);
    }

    #[test]
    fn slots_are_held_against_those_that_exist() {
        let decode = |entry: RingEntry| RingEntry::decode(&entry.encode(), &SLOTS);
        assert_eq!(decode(slot_entry(4, 128)), Err(DecodeError::Slot { given: 4, count: 4 }));
        assert_eq!(
            decode(slot_entry(0, 129)),
            Err(DecodeError::TooLong { what: "the body in a slot", max: 128, given: 129 })
        );
    }

    #[test]
    fn a_body_lies_in_the_entry_exactly_if_it_fits() {
        let mut bytes = slot_entry(0, 49).encode();
        bytes[4] = 48;
        let error = DecodeError::WrongPlace { given: 48, max: 48, used: "in a slot" };
        assert_eq!(RingEntry::decode(&bytes, &SLOTS), Err(error));
        bytes[2] = 2;
        bytes[4] = 49;
        let error = DecodeError::WrongPlace { given: 49, max: 48, used: "in the entry" };
        assert_eq!(RingEntry::decode(&bytes, &SLOTS), Err(error));
    }

    #[test]
    fn unused_bytes_and_flags_are_zero() {
        for (entry, at) in [(inline_entry(b"abc"), 19), (slot_entry(0, 64), 63)] {
            let mut bytes = entry.encode();
            bytes[at] = 1;
            assert_eq!(RingEntry::decode(&bytes, &SLOTS), Err(DecodeError::NotZero { at, given: 1 }));
            bytes[2] |= 4;
            assert!(matches!(RingEntry::decode(&bytes, &SLOTS), Err(DecodeError::UnknownFlags { .. })));
        }
    }

    #[test]
    fn a_body_has_the_length_that_the_entry_says() {
        assert_eq!(inline_entry(b"").message(b""), Ok(Message::Done));
        assert_eq!(
            slot_entry(0, 64).message(&[0; 63]),
            Err(DecodeError::BodyLength { expected: 64, given: 63 })
        );
    }
}
