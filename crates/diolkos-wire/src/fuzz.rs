// SPDX-License-Identifier: Apache-2.0
//! Entries for fuzz targets, as plain functions: that decoding never panics, and what must be true of what
//! it gives. `cargo-fuzz` drives them for long, the tests of this crate for a moment.

use crate::error::DecodeError;
use crate::frame::{HEADER_BYTES, Header, encode_frame};
use crate::layout::SlotsPlace;
use crate::limits::Limits;
use crate::message::Message;
use crate::ring_entry::{ENTRY_BYTES, EntryBody, RingEntry};

/// A message on a stream: a header, then the body. A body of another length than the header says is tried
/// too, since most of what a fuzzer makes is one.
pub fn fuzz_message(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return };
    let Ok(mut header) = Header::decode(head, &Limits::default()) else { return };
    assert_eq!(header.encode(), *head, "a header has one encoding");
    if let Some(whole) = body.get(..header.length as usize) {
        fuzz_body(&header, whole);
    }
    if let Ok(length) = u32::try_from(body.len()) {
        header.length = length;
        fuzz_body(&header, body);
    }
}

fn fuzz_body(header: &Header, body: &[u8]) {
    let mut header = *header;
    let mut decoded = header.message(body);
    if let Err(DecodeError::Payload { expected, .. }) = decoded {
        // Few guess the sum of the tensors. With the right one the message is good.
        header.payload = expected;
        decoded = header.message(body);
        assert!(decoded.is_ok(), "payload was all that was wrong: {decoded:?}");
    }
    let Ok(message) = decoded else { return };
    let frame = encode_frame(header.id, header.part, &message).expect("what decodes can be encoded");
    let (head, again) = frame.split_first_chunk::<HEADER_BYTES>().expect("a frame begins with its header");
    if !matches!(message, Message::Failed(_)) {
        assert_eq!((head, again), (&header.encode(), body), "a message has one encoding");
    }
    check_again(header.kind, again, header.payload, &message);
}

/// A second decoding gives an equal message, and its encoding is the same.
fn check_again(kind: u16, body: &[u8], payload: u64, message: &Message) {
    let again = Message::decode(kind, body, payload).expect("what was encoded decodes");
    // A parameter that is no number equals nothing, not even itself.
    if *message == message.clone() {
        assert_eq!(again, *message);
    }
    assert_eq!(again.encode().as_deref(), Ok(body), "encoding is stable");
}

/// An entry of a ring: 64 bytes, then a byte that says how many slots there are and one that says how large
/// they are, then what the slots hold.
pub fn fuzz_entry(bytes: &[u8]) {
    let Some((bytes, rest)) = bytes.split_first_chunk::<ENTRY_BYTES>() else { return };
    let Some((&[count, lines], in_slot)) = rest.split_first_chunk::<2>() else { return };
    let slots = SlotsPlace { offset: 0, count: count.into(), bytes: u32::from(lines) * 64 };
    let Ok(entry) = RingEntry::decode(bytes, &slots) else { return };
    assert_eq!(entry.encode(), *bytes, "an entry has one encoding");
    let body = match &entry.body {
        EntryBody::Inline(inline) => inline.as_bytes(),
        EntryBody::Slot { slot, length } => {
            assert!(*slot < slots.count && *length <= slots.bytes, "a slot outside the given ones");
            let Some(body) = in_slot.get(..*length as usize) else { return };
            body
        }
    };
    if let Ok(message) = entry.message(body) {
        let again = message.encode().expect("what decodes can be encoded");
        check_again(entry.kind, &again, 0, &message);
    }
}
