// SPDX-License-Identifier: Apache-2.0
//! Makes `:authority` acceptable where it is a path.
//!
//! gRPC clients on unix sockets name the socket's path as the authority of every request: percent-encoded
//! (everything built on grpc-core 1.57 and later, so Python and C++, and Swift) or as it is (Java). Neither is an
//! authority by RFC 3986, and h2 resets each such request without asking anybody. A unix socket has only
//! one authority and nobody here reads it, so its text may as well be another.
//!
//! This walks over what a client sends on an HTTP/2 connection and replaces, in place, what an authority may not
//! hold by `-`. Lengths stay as they are, so nothing else moves. Header fields have to be stepped over, not
//! understood: no table is kept, no text is decoded, nothing is allocated.
//!
//! ```text
//! preface ──> frame head ──┬─ HEADERS, CONTINUATION ──> fields ──> frame head
//!                 ^        └─ all others ──> skipped in one step ──┐
//!                 └────────────────────────────────────────────────┘
//! ```
//!
//! Invariants: only bytes of a plain `:authority` value change, and only to `-`; what breaks the rules of
//! HTTP/2 passes unchanged, for h2 to refuse. A value in Huffman code passes unchanged, too: none of the clients
//! above sends one.

/// RFC 9113, section 3.4.
const PREFACE_BYTES: u32 = 24;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: u32 = 5;

const AUTHORITY: &[u8] = b":authority";
/// Where RFC 7541, appendix A has that name.
const AUTHORITY_INDEX: u8 = 1;

/// See the module. One per connection.
#[derive(Debug)]
pub(super) struct AuthorityFilter {
    at: At,
    field: Field,
}

/// Where in the sequence of frames.
#[derive(Clone, Copy, Debug)]
enum At {
    /// Bytes that do not matter, and then a frame head.
    Skipping(u32),
    /// A frame's nine-byte head.
    Head { bytes: [u8; 9], filled: usize },
    /// The length of a frame's padding; the rest of the payload has so many bytes.
    PadLength { left: u32, priority: bool },
    /// A stream's priority, before header fields of so many bytes and padding.
    Priority { left: u32, fields: u32, padding: u32 },
    /// Header fields of so many bytes, before padding.
    Fields { left: u32, padding: u32 },
}

/// Where in a header field (RFC 7541, section 6). A field may go on in the next CONTINUATION frame.
#[derive(Clone, Copy, Debug)]
enum Field {
    /// At its first byte.
    Start,
    /// In the rest of an index; a text follows or not.
    Index { then_value: bool },
    /// At the length of the name.
    NameLength,
    /// In the rest of that length.
    NameLengthRest { length: u32, shift: u32, plain: bool },
    /// In the name; so many bytes are left, and so many were those of `:authority`.
    Name { left: u32, matched: Option<usize> },
    /// At the length of the value.
    ValueLength { authority: bool },
    /// In the rest of that length.
    ValueLengthRest { length: u32, shift: u32, replace: bool },
    /// In the value.
    Value { left: u32, replace: bool },
    /// What came was no header field, so nothing more is touched.
    Lost,
}

const EMPTY_HEAD: At = At::Head { bytes: [0; 9], filled: 0 };

impl AuthorityFilter {
    /// For a connection whose preface is still to come.
    pub(super) fn new() -> AuthorityFilter {
        AuthorityFilter { at: At::Skipping(PREFACE_BYTES), field: Field::Start }
    }

    /// Takes the next bytes of the connection, in pieces of any size.
    pub(super) fn pass(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.take(rest);
            rest = &mut rest[taken..];
        }
    }

    /// Takes some bytes of at least one, and says how many; none only where a part of no length ends.
    fn take(&mut self, bytes: &mut [u8]) -> usize {
        let first = bytes[0];
        match self.at {
            At::Skipping(left) => {
                let taken = part(left, bytes);
                self.at = if taken == left { EMPTY_HEAD } else { At::Skipping(left - taken) };
                taken as usize
            }
            At::Fields { left: 0, padding } => {
                self.at = At::Skipping(padding);
                0
            }
            At::Fields { left, padding } => {
                let taken = part(left, bytes);
                bytes[..taken as usize].iter_mut().for_each(|byte| self.field.step(byte));
                self.at = At::Fields { left: left - taken, padding };
                taken as usize
            }
            At::Head { bytes: mut head, filled } => {
                head[filled] = first;
                self.at = match filled {
                    8 => self.begin(&head),
                    _ => At::Head { bytes: head, filled: filled + 1 },
                };
                1
            }
            At::PadLength { left, priority } => {
                let padding = u32::from(first).min(left);
                self.at = fields(left - padding, padding, priority);
                1
            }
            At::Priority { left, fields, padding } => {
                self.at = match left {
                    1 => At::Fields { left: fields, padding },
                    _ => At::Priority { left: left - 1, fields, padding },
                };
                1
            }
        }
    }

    /// What follows a frame head.
    fn begin(&mut self, head: &[u8; 9]) -> At {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (kind, flags) = (head[3], head[4]);
        match kind {
            HEADERS => {
                self.field = Field::Start;
                let priority = flags & PRIORITY != 0;
                match (flags & PADDED != 0, length.checked_sub(1)) {
                    (true, Some(left)) => At::PadLength { left, priority },
                    _ => fields(length, 0, priority),
                }
            }
            CONTINUATION => At::Fields { left: length, padding: 0 },
            _ => At::Skipping(length),
        }
    }
}

/// How many of `left` bytes are there.
fn part(left: u32, bytes: &[u8]) -> u32 {
    left.min(u32::try_from(bytes.len()).unwrap_or(u32::MAX))
}

/// The payload of HEADERS behind the length of its padding.
fn fields(length: u32, padding: u32, priority: bool) -> At {
    match length.checked_sub(PRIORITY_BYTES) {
        Some(fields) if priority => At::Priority { left: PRIORITY_BYTES, fields, padding },
        // Too short for the priority that it announces: h2 refuses it.
        None if priority => At::Skipping(length.saturating_add(padding)),
        _ => At::Fields { left: length, padding },
    }
}

impl Field {
    fn step(&mut self, byte: &mut u8) {
        *self = match *self {
            Field::Start => Field::begin(*byte),
            Field::Index { then_value } if *byte < 0x80 => match then_value {
                true => Field::ValueLength { authority: false },
                false => Field::Start,
            },
            Field::NameLength => {
                let plain = *byte < 0x80;
                match *byte & 0x7f {
                    0x7f => Field::NameLengthRest { length: 0x7f, shift: 0, plain },
                    length => Field::name(u32::from(length), plain),
                }
            }
            Field::NameLengthRest { length, shift, plain } => match longer(length, shift, *byte) {
                Some((length, true)) => Field::name(length, plain),
                Some((length, false)) => Field::NameLengthRest { length, shift: shift + 7, plain },
                None => Field::Lost,
            },
            Field::Name { left, matched } => {
                let matched = matched.filter(|&at| AUTHORITY.get(at) == Some(byte)).map(|at| at + 1);
                match left {
                    1 => Field::ValueLength { authority: matched == Some(AUTHORITY.len()) },
                    _ => Field::Name { left: left - 1, matched },
                }
            }
            Field::ValueLength { authority } => {
                let replace = authority && *byte < 0x80;
                match *byte & 0x7f {
                    0x7f => Field::ValueLengthRest { length: 0x7f, shift: 0, replace },
                    length => Field::value(u32::from(length), replace),
                }
            }
            Field::ValueLengthRest { length, shift, replace } => match longer(length, shift, *byte) {
                Some((length, true)) => Field::value(length, replace),
                Some((length, false)) => Field::ValueLengthRest { length, shift: shift + 7, replace },
                None => Field::Lost,
            },
            Field::Value { left, replace } => {
                if replace && !(byte.is_ascii_alphanumeric() || matches!(*byte, b'-' | b'.')) {
                    *byte = b'-';
                }
                Field::value(left - 1, replace)
            }
            stays @ (Field::Index { .. } | Field::Lost) => stays,
        }
    }

    fn begin(byte: u8) -> Field {
        // From the most significant bit: indexed; literal to be indexed; size of the table; literal.
        let (prefix, literal) = match byte {
            0x80.. => (0x7f, false),
            0x40..=0x7f => (0x3f, true),
            0x20..=0x3f => (0x1f, false),
            0..=0x1f => (0x0f, true),
        };
        let index = byte & prefix;
        match (index == prefix, literal, index) {
            (true, then_value, _) => Field::Index { then_value },
            (false, false, _) => Field::Start,
            (false, true, 0) => Field::NameLength,
            (false, true, index) => Field::ValueLength { authority: index == AUTHORITY_INDEX },
        }
    }

    fn name(length: u32, plain: bool) -> Field {
        match length {
            0 => Field::ValueLength { authority: false },
            left => Field::Name { left, matched: plain.then_some(0) },
        }
    }

    fn value(left: u32, replace: bool) -> Field {
        if left == 0 { Field::Start } else { Field::Value { left, replace } }
    }
}

/// One more byte of a number (RFC 7541, section 5.1), and whether it was the last one. `None`: larger than any
/// header that is taken.
fn longer(number: u32, shift: u32, byte: u8) -> Option<(u32, bool)> {
    let digit = u32::from(byte & 0x7f).checked_shl(shift).filter(|_| shift <= 21)?;
    Some((number.checked_add(digit)?, byte < 0x80))
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
