// SPDX-License-Identifier: Apache-2.0
//! The scan against prost: what it lets through decodes to what it counted.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::grpc::limits::BOUNDS;
use crate::grpc::pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::grpc::pb::{InferParameter, InferTensorContents, ModelInferRequest, RepositoryModelLoadRequest};

/// Small enough that random messages meet them.
const SMALL: Bounds = Bounds { tensors: 3, params: 4, dims: 6, elements: 8, strings: 3, load_params: 2 };

fn params() -> impl Strategy<Value = HashMap<String, InferParameter>> {
    proptest::collection::hash_map("[a-c]{0,2}", Just(InferParameter::default()), 0..3)
}

fn contents() -> impl Strategy<Value = InferTensorContents> {
    (
        vec(any::<bool>(), 0..3),
        vec(any::<i32>(), 0..3),
        vec(any::<i64>(), 0..3),
        vec(any::<u64>(), 0..3),
        vec(any::<f32>(), 0..3),
        vec(any::<f64>(), 0..3),
        vec(vec(any::<u8>(), 0..3), 0..3),
    )
        .prop_map(|(bools, ints, longs, unsigned, floats, doubles, strings)| InferTensorContents {
            bool_contents: bools,
            int_contents: ints,
            int64_contents: longs,
            uint_contents: Vec::new(),
            uint64_contents: unsigned,
            fp32_contents: floats,
            fp64_contents: doubles,
            bytes_contents: strings.into_iter().map(Bytes::from).collect(),
        })
}

fn requests() -> impl Strategy<Value = ModelInferRequest> {
    let input = (vec(any::<i64>(), 0..4), params(), proptest::option::of(contents())).prop_map(
        |(shape, parameters, contents)| InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape,
            parameters,
            contents,
        },
    );
    let output = params().prop_map(|parameters| InferRequestedOutputTensor { name: "y".into(), parameters });
    (params(), vec(input, 0..5), vec(output, 0..5), vec(vec(any::<u8>(), 0..9), 0..5)).prop_map(
        |(parameters, inputs, outputs, raw)| ModelInferRequest {
            model_name: "m".into(),
            parameters,
            inputs,
            outputs,
            raw_input_contents: raw.into_iter().map(Bytes::from).collect(),
            ..ModelInferRequest::default()
        },
    )
}

/// How many of each the decoded message holds.
fn counts(request: &ModelInferRequest) -> [usize; 7] {
    let contents = || request.inputs.iter().filter_map(|input| input.contents.as_ref());
    let elements = |c: &InferTensorContents| {
        c.bool_contents.len()
            + c.int_contents.len()
            + c.int64_contents.len()
            + c.uint_contents.len()
            + c.uint64_contents.len()
            + c.fp32_contents.len()
            + c.fp64_contents.len()
    };
    [
        request.inputs.len(),
        request.outputs.len(),
        request.raw_input_contents.len(),
        request.parameters.len()
            + request.inputs.iter().map(|input| input.parameters.len()).sum::<usize>()
            + request.outputs.iter().map(|output| output.parameters.len()).sum::<usize>(),
        request.inputs.iter().map(|input| input.shape.len()).sum(),
        contents().map(elements).sum(),
        contents().map(|c| c.bytes_contents.len()).sum(),
    ]
}

fn fits(request: &ModelInferRequest, bounds: &Bounds) -> bool {
    let bounds = [
        bounds.tensors,
        bounds.tensors,
        bounds.tensors,
        bounds.params,
        bounds.dims,
        bounds.elements,
        bounds.strings,
    ];
    counts(request).iter().zip(bounds).all(|(count, bound)| *count <= bound)
}

proptest! {
    #[test]
    fn passes_exactly_what_fits(request in requests()) {
        let encoded = request.encode_to_vec();
        let scanned = infer_request(&encoded, &SMALL);
        prop_assert_eq!(scanned.is_ok(), fits(&request, &SMALL), "{:?}", scanned);
        if let Ok(found) = scanned {
            let [.., elements, strings] = counts(&request);
            prop_assert_eq!(found.typed_values, elements + strings);
        }
    }

    /// Damaged messages: whatever passes and decodes still fits.
    #[test]
    fn nothing_slips_past(
        request in requests(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        tail in vec(any::<u8>(), 0..20),
    ) {
        let mut encoded = request.encode_to_vec();
        encoded.extend(tail);
        for (at, byte) in damage {
            if !encoded.is_empty() {
                let at = at.index(encoded.len());
                encoded[at] = byte;
            }
        }
        if infer_request(&encoded, &SMALL).is_ok()
            && let Ok(decoded) = ModelInferRequest::decode(&encoded[..])
        {
            prop_assert!(fits(&decoded, &SMALL), "{:?}", decoded);
        }
    }

    #[test]
    fn never_panics(bytes in vec(any::<u8>(), 0..200)) {
        let _ = infer_request(&bytes, &SMALL);
        let _ = repository_request(&bytes, &SMALL);
    }
}

#[test]
fn two_byte_tensors_are_refused_before_they_grow() {
    // Field 5, length 0: an input without anything.
    let empties = [0x2a, 0].repeat(BOUNDS.tensors + 1);
    let refusal = infer_request(&empties, &BOUNDS).unwrap_err();
    assert_eq!(refusal.to_string(), "the request has more than 256 `inputs`, which is the limit");
    assert!(infer_request(&empties[2..], &BOUNDS).is_ok());
}

#[test]
fn fields_that_are_split_up_count_together() {
    let contents = InferTensorContents { int64_contents: vec![1; 5], ..InferTensorContents::default() };
    let input = InferInputTensor { contents: Some(contents), ..InferInputTensor::default() };
    // prost merges a message field that comes twice, so its lists add up.
    let twice = input.encode_to_vec().repeat(2);
    let mut message = vec![0x2a, u8::try_from(twice.len()).unwrap()];
    message.extend(twice);
    let refusal = infer_request(&message, &SMALL).unwrap_err();
    assert_eq!(refusal, Refusal::TooMany { what: Counted::Elements, max: 8 });
}

#[test]
fn repository_parameters_are_counted() {
    let parameters = ["a", "b", "c"].map(|name| (name.to_owned(), Default::default()));
    let request = RepositoryModelLoadRequest { parameters: parameters.into(), ..Default::default() };
    let refusal = repository_request(&request.encode_to_vec(), &SMALL).unwrap_err();
    assert_eq!(refusal, Refusal::TooMany { what: Counted::LoadParams, max: 2 });
    assert_eq!(repository_request(&request.encode_to_vec(), &BOUNDS), Ok(()));
}

#[test]
fn varints_end_where_they_should() {
    for wrong in [
        &[0xff; 11][..],
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        &[0x0a, 5, 1],
        &[0x0b],
    ] {
        assert_eq!(infer_request(wrong, &BOUNDS), Err(Refusal::Malformed), "{wrong:?}");
    }
}
