// SPDX-License-Identifier: Apache-2.0
//! Why bytes are no message, why a message can't be written, and why a channel's layout is refused.

use diolkos_types::Code;

use crate::hello::PREFACE;
use crate::limits::{RING_ENTRIES_MAX, SLOT_BYTES_MAX};

/// Why bytes of a peer are refused. `what` is the name of a field as the protocol's description has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A connection that begins with something else.
    #[error("the connection begins with {given:02x?}, and the native channel begins with {PREFACE:02x?}")]
    Preface {
        /// What came.
        given: [u8; 8],
    },
    /// The body ends inside a field, or a list claims more entries than can be left.
    #[error("{what} is cut off: it needs {needed} bytes and {left} are left")]
    Truncated {
        /// Which field.
        what: &'static str,
        /// Bytes that it needs, as far as is known.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// The body goes on after its last field.
    #[error("{bytes} bytes follow the last field of the message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The body is not as long as its header says.
    #[error("the body has {given} bytes, and its header says {expected}")]
    BodyLength {
        /// Length in the header.
        expected: u32,
        /// Length of the body.
        given: usize,
    },
    /// A text, a body or a payload is too long.
    #[error("{what} has {given} bytes, and the limit is {max}")]
    TooLong {
        /// Which.
        what: &'static str,
        /// Most bytes.
        max: u64,
        /// Bytes that it has or claims.
        given: u64,
    },
    /// A list is too long.
    #[error("{what} has {given} entries, and the limit is {max}")]
    TooMany {
        /// Which.
        what: &'static str,
        /// Most entries.
        max: usize,
        /// Entries that it claims.
        given: usize,
    },
    /// A text is no UTF-8.
    #[error("{what} is not UTF-8 from its byte {at} on")]
    NotUtf8 {
        /// Which.
        what: &'static str,
        /// First byte that does not fit.
        at: usize,
    },
    /// A number that stands for one of a few things stands for none.
    #[error("{what} is {given}, and known are {first} to {last}")]
    UnknownNumber {
        /// Which field.
        what: &'static str,
        /// The number.
        given: u8,
        /// Smallest that is known.
        first: u8,
        /// Largest that is known.
        last: u8,
    },
    /// A kind of message that this side does not know. The next message can be read all the same.
    #[error("unknown kind of message {given:#06x}")]
    UnknownKind {
        /// The number.
        given: u16,
    },
    /// A flag that this side does not know.
    #[error("{what} are {given:#06x}, and known are the bits {known:#06x}")]
    UnknownFlags {
        /// Which flags.
        what: &'static str,
        /// All that are set.
        given: u16,
        /// All that are known.
        known: u16,
    },
    /// Two parameters have the same name.
    #[error("parameter {index} has the name of an earlier one")]
    DuplicateParam {
        /// Which, from 0.
        index: usize,
    },
    /// The tensors of a message take another number of payload bytes than came with it.
    #[error("the tensors take {expected} bytes of payload, and {given} come with the message")]
    Payload {
        /// Sum over the tensors.
        expected: u64,
        /// Payload in the header; 0 over rings.
        given: u64,
    },
    /// The tensors of a message take more payload than can be counted.
    #[error("the lengths of the tensors add up to more than 64 bits hold")]
    PayloadOverflow,
    /// A part of an extent lies past what 64 bits can name.
    #[error("{length} bytes from offset {offset} of region {region} go past what 64 bits hold")]
    Extent {
        /// Number of the region.
        region: u16,
        /// Where the extent begins.
        offset: u64,
        /// How long it claims to be.
        length: u64,
    },
    /// Bytes of a ring entry that mean nothing are not zero.
    #[error("byte {at} of the ring entry is {given}, and an unused byte is zero")]
    NotZero {
        /// Which byte of the entry, from 0.
        at: usize,
        /// What it is.
        given: u8,
    },
    /// A ring entry names a message slot that does not exist.
    #[error("the ring entry names slot {given}, and there are {count}")]
    Slot {
        /// Which it names.
        given: u32,
        /// How many there are.
        count: u32,
    },
    /// A ring entry points to a slot although its body fits into the entry, or the other way round.
    #[error("a body of {given} bytes is {used}, and only one of up to {max} bytes lies in the entry")]
    WrongPlace {
        /// Length of the body.
        given: u32,
        /// Longest body that lies in an entry.
        max: u32,
        /// Where the entry has it.
        used: &'static str,
    },
    /// The layout of a channel is impossible.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl DecodeError {
    /// What a daemon answers to a message like this.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            DecodeError::UnknownKind { .. } => Code::Unsupported,
            DecodeError::TooLong { .. } | DecodeError::TooMany { .. } => Code::TooLarge,
            DecodeError::Preface { .. }
            | DecodeError::Truncated { .. }
            | DecodeError::Trailing { .. }
            | DecodeError::BodyLength { .. }
            | DecodeError::NotUtf8 { .. }
            | DecodeError::UnknownNumber { .. }
            | DecodeError::UnknownFlags { .. }
            | DecodeError::DuplicateParam { .. }
            | DecodeError::Payload { .. }
            | DecodeError::PayloadOverflow
            | DecodeError::Extent { .. }
            | DecodeError::NotZero { .. }
            | DecodeError::Slot { .. }
            | DecodeError::WrongPlace { .. }
            | DecodeError::Layout(_) => Code::InvalidArgument,
        }
    }
}

/// Why a message can't be written: it holds what no receiver would take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A text is too long.
    #[error("{what} has {given} bytes, and the limit is {max}")]
    TooLong {
        /// Which.
        what: &'static str,
        /// Most bytes.
        max: usize,
        /// Bytes that it has.
        given: usize,
    },
    /// A list is too long.
    #[error("{what} has {given} entries, and the limit is {max}")]
    TooMany {
        /// Which.
        what: &'static str,
        /// Most entries.
        max: usize,
        /// Entries that it has.
        given: usize,
    },
    /// The tensors of a message take more payload than can be counted.
    #[error("the lengths of the tensors add up to more than 64 bits hold")]
    PayloadOverflow,
    /// An extent ends past what 64 bits can name.
    #[error("{length} bytes from offset {offset} of region {region} go past what 64 bits hold")]
    Extent {
        /// Number of the region.
        region: u16,
        /// Where the extent begins.
        offset: u64,
        /// How long it is.
        length: u64,
    },
    /// The layout of a channel is impossible.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Why the layout of a channel's shared memory is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A ring of another size.
    #[error("{what} can't have {given} entries, but a power of two up to {RING_ENTRIES_MAX}")]
    Entries {
        /// Which ring.
        what: &'static str,
        /// Entries it has.
        given: u32,
    },
    /// Slots of another size.
    #[error("a slot can't have {given} bytes, but a multiple of 64 from 64 to {SLOT_BYTES_MAX}")]
    SlotBytes {
        /// Bytes it has.
        given: u32,
    },
    /// No slot at all.
    #[error("the channel has no slots, and needs at least one")]
    NoSlots,
    /// Something begins in the middle of a cache line.
    #[error("{what} begin at byte {offset}, and must begin at a multiple of {multiple}")]
    Misaligned {
        /// What.
        what: &'static str,
        /// Where it begins.
        offset: u64,
        /// What divides a good offset.
        multiple: u64,
    },
    /// Something ends outside the segment.
    #[error("{what} take {bytes} bytes from byte {offset}, and the segment has {segment_bytes}")]
    Outside {
        /// What.
        what: &'static str,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        bytes: u64,
        /// Length of the segment.
        segment_bytes: u64,
    },
    /// Two things share bytes.
    #[error("{first} and {second} overlap")]
    Overlap {
        /// The one that begins first.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
}
