// SPDX-License-Identifier: Apache-2.0
//! What clients send, what they might send, and what nobody should.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 1]);
    frame.extend(payload);
    frame
}

/// A number behind `pattern`, in a prefix of `bits` bits.
fn number(pattern: u8, bits: u32, mut value: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if value < most {
        return vec![pattern | value as u8];
    }
    let mut encoded = vec![pattern | most as u8];
    value -= most;
    while value >= 128 {
        encoded.push(value as u8 | 0x80);
        value >>= 7;
    }
    encoded.push(value as u8);
    encoded
}

fn text(text: &[u8]) -> Vec<u8> {
    [&number(0, 7, text.len())[..], text].concat()
}

/// A field with its name spelled out.
fn spelled(name: &[u8], value: &[u8]) -> Vec<u8> {
    [vec![0x40], text(name), text(value)].concat()
}

fn passed(stream: &[u8]) -> Vec<u8> {
    let mut stream = stream.to_vec();
    AuthorityFilter::new().pass(&mut stream);
    stream
}

/// After the preface and a SETTINGS frame, as every client begins.
fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [&PREFACE[..], &frame(4, 0, &[0, 3, 0, 0, 0, 100]), &frames.concat()].concat()
}

#[test]
fn what_grpc_core_sends() {
    let block = [
        spelled(b":path", b"/inference.GRPCInferenceService/ServerLive"),
        spelled(b":authority", b"tmp%2Fdiolkos%2Fd.sock"),
        vec![0x83, 0x86],
        spelled(b"x", b"100%25"),
    ];
    let mut stream =
        connection(&[frame(HEADERS, 4, &block.concat()), frame(0, 1, b"%2F"), frame(HEADERS, 5, &[0xbe])]);
    AuthorityFilter::new().pass(&mut stream);
    let expected = [
        spelled(b":path", b"/inference.GRPCInferenceService/ServerLive"),
        spelled(b":authority", b"tmp-2Fdiolkos-2Fd.sock"),
        vec![0x83, 0x86],
        spelled(b"x", b"100%25"),
    ];
    let expected =
        connection(&[frame(HEADERS, 4, &expected.concat()), frame(0, 1, b"%2F"), frame(HEADERS, 5, &[0xbe])]);
    assert_eq!(stream, expected);
}

#[test]
fn what_others_send() {
    // By index, as it is, padded and with a priority; and a long one in two frames.
    let long = [b'/'; 300];
    let by_index = [vec![0x41], text(b"/run/d.sock")].concat();
    let padded = [vec![3], vec![0; 5], by_index, vec![b'%'; 3]].concat();
    let never_indexed = [vec![0x11], text(&long)].concat();
    let (begin, rest) = never_indexed.split_at(100);
    let mut stream = connection(&[
        frame(HEADERS, 4 | PADDED | PRIORITY, &padded),
        frame(HEADERS, 0, begin),
        frame(CONTINUATION, 4, rest),
    ]);
    let before = stream.clone();
    AuthorityFilter::new().pass(&mut stream);
    let changed: Vec<(u8, u8)> =
        before.iter().zip(&stream).filter(|(a, b)| a != b).map(|(a, b)| (*a, *b)).collect();
    assert_eq!(changed, vec![(b'/', b'-'); 2 + 300]);
    assert!(stream.windows(11).any(|window| window == b"-run-d.sock"));
    assert!(stream.windows(3).any(|window| window == b"%%%"), "padding is not touched");
}

#[test]
fn what_is_fine_or_in_huffman_code_passes() {
    let huffman = [vec![0x41, 0x80 | 3], vec![b'%'; 3]].concat();
    for block in [spelled(b":authority", b"localhost"), huffman, vec![0x3f, 0xe1, 0x1f, 0x82]] {
        let stream = connection(&[frame(HEADERS, 4, &block)]);
        assert_eq!(passed(&stream), stream);
    }
}

#[test]
fn impossible_lengths_lose_nothing_but_the_replacing() {
    for block in [
        [&[0x41, 0x7f][..], &[0xff; 9], b"%%%"].concat(),
        [&[0x40, 0x7f][..], &[0xff; 9], b"%%%"].concat(),
        [&[0x7f][..], &[0xff; 9], b"%%%"].concat(),
    ] {
        let stream = connection(&[frame(HEADERS, 4, &block)]);
        assert_eq!(passed(&stream), stream);
        // The next request is seen with fresh eyes.
        let next =
            connection(&[frame(HEADERS, 4, &block), frame(HEADERS, 4, &[&[0x41][..], &text(b"%")].concat())]);
        assert_eq!(passed(&next).last(), Some(&b'-'));
    }
}

fn fields() -> impl Strategy<Value = Vec<(bool, Vec<u8>, Vec<u8>)>> {
    let name = prop_oneof![Just(b":authority".to_vec()), vec(any::<u8>(), 0..200)];
    vec((any::<bool>(), name, vec(any::<u8>(), 0..200)), 0..6)
}

fn block(fields: &[(bool, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let encode = |(indexed, name, value): &(bool, Vec<u8>, Vec<u8>)| match indexed {
        // An index from the dynamic table, which says nothing here.
        true => [number(0x80, 7, 62 + value.len()), number(0x40, 6, 62 + name.len()), text(value)].concat(),
        false => spelled(name, value),
    };
    fields.iter().flat_map(encode).collect()
}

proptest! {
    /// Exactly the authorities change, however the bytes are cut into frames and reads.
    #[test]
    fn only_authorities_change(
        fields in fields(),
        frames in vec(0usize..400, 0..4),
        reads in vec(1usize..50, 1..20),
        data in vec(any::<u8>(), 0..100),
    ) {
        let tidy = |value: &[u8]| -> Vec<u8> {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
            value.iter().map(|&byte| if allowed(byte) { byte } else { b'-' }).collect()
        };
        let expected: Vec<_> = fields
            .iter()
            .cloned()
            .map(|(indexed, name, value)| {
                let value = if !indexed && name == AUTHORITY { tidy(&value) } else { value };
                (indexed, name, value)
            })
            .collect();
        let cut = |block: Vec<u8>| {
            let mut parts = Vec::new();
            let mut rest = &block[..];
            for &length in &frames {
                let (part, behind) = rest.split_at(length.min(rest.len()));
                parts.push(part);
                rest = behind;
            }
            parts.push(rest);
            let kind = |index| if index == 0 { HEADERS } else { CONTINUATION };
            let mut frames: Vec<_> = parts.iter().enumerate().map(|(i, part)| frame(kind(i), 0, part)).collect();
            frames.push(frame(0, 1, &data));
            frames
        };
        // Twice, because the second request must not depend on how the first one ended.
        let mut stream = connection(&[cut(block(&fields)), cut(block(&fields))].concat());
        let mut filter = AuthorityFilter::new();
        let mut rest = &mut stream[..];
        for length in reads.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, behind) = rest.split_at_mut((*length).min(rest.len()));
            filter.pass(now);
            rest = behind;
        }
        prop_assert_eq!(stream, connection(&[cut(block(&expected)), cut(block(&expected))].concat()));
    }

    #[test]
    fn never_panics_and_only_writes_dashes(bytes in vec(any::<u8>(), 0..500), head in any::<bool>()) {
        let stream = if head { [&PREFACE[..], &bytes].concat() } else { bytes };
        let after = passed(&stream);
        prop_assert_eq!(after.len(), stream.len());
        for (before, after) in stream.iter().zip(after) {
            prop_assert!(*before == after || after == b'-');
        }
    }
}
