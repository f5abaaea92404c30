// SPDX-License-Identifier: Apache-2.0
//! Entries for fuzz targets: decoders of tenants' bytes as plain functions. `cargo-fuzz` drives them for long,
//! proptests of this crate for a moment. They hold that decoding never panics, and what must be true of its result.

use bytes::Bytes;
use diolkos_types::DataType;

use crate::rest::decode::{self, Decoded};
use crate::rest::rope::Rope;

/// A JSON inference request, and the JSON of a registration of shared memory.
pub fn fuzz_rest_json(bytes: &[u8]) {
    crate::rest::fuzz_registration(bytes);
    let body = Rope::from(Bytes::copy_from_slice(bytes));
    if let Ok(decoded) = decode::decode(body, None, "m".to_owned(), None) {
        check(&decoded, bytes.len());
        // What came as JSON was counted against its shape.
        for (index, input) in decoded.call.inputs.iter().enumerate() {
            if decoded.call.in_regions.iter().any(|(in_region, _)| *in_region == index) {
                assert!(input.tensor.data.is_empty(), "a payload in the request and in a region");
                continue;
            }
            let elements = input.tensor.shape.elements().expect("JSON data has a countable shape");
            if let Some(expected) = input.tensor.data_type.payload_bytes(elements) {
                assert_eq!(input.tensor.data.len(), expected, "a payload of another size than its shape");
            }
        }
    }
}

/// A JSON request with binary tensors behind it. The first two bytes say how much of the rest is JSON.
pub fn fuzz_binary(bytes: &[u8]) {
    let Some((length, body)) = bytes.split_first_chunk::<2>() else { return };
    let json_bytes = usize::from(u16::from_le_bytes(*length));
    // Cut into two frames, so that tensors lie across frames too.
    let mut rope = crate::rest::rope::RopeBuilder::default();
    let (head, tail) = body.split_at(body.len() / 2);
    rope.push(Bytes::copy_from_slice(head));
    rope.push(Bytes::copy_from_slice(tail));
    if let Ok(decoded) = decode::decode(rope.finish(), Some(json_bytes), "m".to_owned(), Some(1)) {
        check(&decoded, bytes.len());
    }
}

/// A gRPC inference request, as its message comes.
pub fn fuzz_grpc_infer(bytes: &[u8]) {
    crate::grpc::fuzz_infer(bytes);
}

/// The bytes of an HTTP/2 connection on a unix socket. The first byte says where they are cut in two.
pub fn fuzz_authority(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    crate::listen::fuzz_authority(bytes, usize::from(*cut).min(bytes.len()));
}

/// What holds for every decoded request: its payload is no larger than what came can be.
fn check(decoded: &Decoded, body_bytes: usize) {
    let payload: usize = decoded.call.inputs.iter().map(|input| input.tensor.data.len()).sum();
    let widest = DataType::Fp64.element_bytes().unwrap_or(8);
    assert!(payload <= body_bytes * widest, "{payload} bytes of payload from {body_bytes}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text that is nearly a request: real pieces in any order.
    fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(r#"{"inputs":["#.to_owned()),
            Just(r#"{"name":"x","shape":[2,2],"datatype":"FP32","data":"#.to_owned()),
            Just(
                r#"{"name":"y","shape":[3],"datatype":"UINT8","parameters":{"binary_data_size":3}}"#
                    .to_owned()
            ),
            Just(r#","outputs":[{"name":"o","parameters":{"binary_data":true}}]"#.to_owned()),
            Just(r#""id":"\u0000","parameters":{"timeout":1}"#.to_owned()),
            Just(r#"{"name":"z","shape":[3],"datatype":"UINT8","parameters":{"shared_memory_region":"r","shared_memory_byte_size":3}}"#.to_owned()),
            Just(r#"{"key":"/k","offset":1,"byte_size":2}"#.to_owned()),
            Just("[[1,2],[3,4]]".to_owned()),
            Just("[1e5,-0.5,null,true]".to_owned()),
            "[\\[\\]{}:,0-9eE.\"-]{0,6}",
            Just("]}".to_owned()),
            Just("}".to_owned()),
        ];
        proptest::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn json_requests_never_panic(noise in proptest::collection::vec(any::<u8>(), 0..100), text in nearly_json()) {
            fuzz_rest_json(&noise);
            fuzz_rest_json(&text);
        }

        #[test]
        fn binary_requests_never_panic(length in any::<u16>(), text in nearly_json(), binary in proptest::collection::vec(any::<u8>(), 0..20)) {
            for length in [length, text.len() as u16] {
                fuzz_binary(&[&length.to_le_bytes()[..], &text, &binary].concat());
            }
        }
    }

    #[test]
    fn well_formed_requests_pass_the_checks() {
        fuzz_rest_json(br#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP64","data":[[1,2],[3,4]]}]}"#);
        let json = br#"{"inputs":[{"name":"y","shape":[3],"datatype":"UINT8","parameters":{"binary_data_size":3}}]}"#;
        fuzz_binary(&[&(json.len() as u16).to_le_bytes()[..], json, b"abc"].concat());
    }
}
