// SPDX-License-Identifier: Apache-2.0
//! Messages on a stream: a header, the body, and the payload of tensors that have no other place.
//!
//! ```text
//!  0    u32  length   bytes of the body
//!  4    u16  kind
//!  6    u16  flags    bit 0, MORE: further parts of this answer follow
//!  8    u64  id       number of the request, chosen by the client; 0 where there is none
//! 16    u64  payload  bytes of payload behind the body
//! 24         body, then payload
//! ```
//!
//! A sender gives header and body in one buffer and the payload in slices beside it, to one vectored write.

use alloc::vec::Vec;

use crate::error::{DecodeError, EncodeError};
use crate::limits::Limits;
use crate::message::Message;

/// Bytes of a [`Header`].
pub const HEADER_BYTES: usize = 24;

const FLAG_MORE: u16 = 1;

/// Whether the answer to a request goes on after this message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// This is the end of it.
    #[default]
    Last,
    /// Further messages with the same id follow.
    More,
}

impl Part {
    /// Bits of the flags.
    pub(crate) fn bits(self) -> u16 {
        match self {
            Part::Last => 0,
            Part::More => FLAG_MORE,
        }
    }

    /// Reads flags of which this side also knows the bits `beside`.
    pub(crate) fn from_bits(what: &'static str, given: u16, beside: u16) -> Result<Part, DecodeError> {
        let known = FLAG_MORE | beside;
        if given & !known != 0 {
            return Err(DecodeError::UnknownFlags { what, given, known });
        }
        Ok(if given & FLAG_MORE == 0 { Part::Last } else { Part::More })
    }
}

/// What stands in front of a message on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the body.
    pub length: u32,
    /// Number of the kind, known to this side or not.
    pub kind: u16,
    /// Whether further parts follow.
    pub part: Part,
    /// Number of the request; 0 where there is none.
    pub id: u64,
    /// Bytes of payload behind the body.
    pub payload: u64,
}

impl Header {
    /// Reads a header. Behind one that is refused, nothing can be read any more.
    pub fn decode(bytes: &[u8; HEADER_BYTES], limits: &Limits) -> Result<Header, DecodeError> {
        let [l0, l1, l2, l3, k0, k1, f0, f1, numbers @ ..] = *bytes;
        let number = |at: usize| u64::from_le_bytes(core::array::from_fn(|index| numbers[at + index]));
        let header = Header {
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            kind: u16::from_le_bytes([k0, k1]),
            part: Part::from_bits("flags of the header", u16::from_le_bytes([f0, f1]), 0)?,
            id: number(0),
            payload: number(8),
        };
        let too_long = |what, max, given| Err(DecodeError::TooLong { what, max, given });
        if header.length > limits.message_bytes_max {
            return too_long("the body", limits.message_bytes_max.into(), header.length.into());
        }
        if header.payload > limits.payload_bytes_max {
            return too_long("the payload", limits.payload_bytes_max, header.payload);
        }
        Ok(header)
    }

    /// The bytes of this header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.kind.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.part.bits().to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..].copy_from_slice(&self.payload.to_le_bytes());
        bytes
    }

    /// The message whose body came behind this header. The payload need not have come yet.
    pub fn message(&self, body: &[u8]) -> Result<Message, DecodeError> {
        if u32::try_from(body.len()) != Ok(self.length) {
            return Err(DecodeError::BodyLength { expected: self.length, given: body.len() });
        }
        Message::decode(self.kind, body, self.payload)
    }
}

/// Header and body of a message, in one buffer. The payload of its tensors goes behind it.
pub fn encode_frame(id: u64, part: Part, message: &Message) -> Result<Vec<u8>, EncodeError> {
    // Room for a usual request: the header and 104 bytes.
    let mut out = Vec::with_capacity(128);
    append_frame(id, part, message, &mut out)?;
    Ok(out)
}

/// As [`encode_frame`], behind what is in `out`, so that a buffer can be used again. On an error `out` is as before.
pub fn append_frame(id: u64, part: Part, message: &Message, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    let payload =
        message.append_to(out).and_then(|()| message.stream_bytes().ok_or(EncodeError::PayloadOverflow));
    let payload = payload.inspect_err(|_| out.truncate(start))?;
    let (header, body) = out[start..].split_at_mut(HEADER_BYTES);
    let length = u32::try_from(body.len()).expect("the bounds of all fields add up to less than 4 GiB");
    header.copy_from_slice(&Header { length, kind: message.kind().number(), part, id, payload }.encode());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { length: 3, kind: 0x0022, part: Part::More, id: 5, payload: 7 };

    #[test]
    fn headers_round_trip() {
        let bytes = HEADER.encode();
        assert_eq!(bytes[..9], [3, 0, 0, 0, 0x22, 0, 1, 0, 5]);
        assert_eq!(Header::decode(&bytes, &Limits::default()), Ok(HEADER));
    }

    #[test]
    fn limits_hold() {
        let limits = Limits { message_bytes_max: 2, ..Limits::default() };
        assert_eq!(
            Header::decode(&HEADER.encode(), &limits),
            Err(DecodeError::TooLong { what: "the body", max: 2, given: 3 })
        );
        let limits = Limits { payload_bytes_max: 6, ..Limits::default() };
        assert_eq!(
            Header::decode(&HEADER.encode(), &limits),
            Err(DecodeError::TooLong { what: "the payload", max: 6, given: 7 })
        );
    }

    #[test]
    fn unknown_flags_are_refused() {
        let mut bytes = HEADER.encode();
        bytes[6] = 3;
        assert_eq!(
            Header::decode(&bytes, &Limits::default()),
            Err(DecodeError::UnknownFlags { what: "flags of the header", given: 3, known: 1 })
        );
    }

    #[test]
    fn a_body_of_another_length_is_refused() {
        assert_eq!(HEADER.message(&[0; 4]), Err(DecodeError::BodyLength { expected: 3, given: 4 }));
    }
}
