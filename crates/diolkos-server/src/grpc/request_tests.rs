// SPDX-License-Identifier: Apache-2.0
//! Every way in which a request can be right or wrong before a model sees it.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use prost::Message as _;

use super::*;

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.into(),
        ..InferInputTensor::default()
    }
}

fn typed(datatype: &str, shape: &[i64], contents: InferTensorContents) -> ModelInferRequest {
    let input = InferInputTensor { contents: Some(contents), ..input("x", datatype, shape) };
    ModelInferRequest { model_name: "m".into(), inputs: vec![input], ..ModelInferRequest::default() }
}

fn raw(inputs: Vec<InferInputTensor>, payloads: &[&'static [u8]]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".into(),
        inputs,
        raw_input_contents: payloads.iter().map(|payload| Bytes::from_static(payload)).collect(),
        ..ModelInferRequest::default()
    }
}

fn error(request: ModelInferRequest) -> String {
    to_call(request, None).unwrap_err().message().to_owned()
}

fn payload(request: ModelInferRequest) -> Bytes {
    to_call(request, None).unwrap().inputs[0].tensor.data.to_private()
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

#[test]
fn raw_payloads_are_moved() {
    let data = Bytes::from(vec![7; 8]);
    let request = ModelInferRequest {
        raw_input_contents: vec![data.clone()],
        ..raw(vec![input("x", "FP32", &[2])], &[])
    };
    assert_eq!(payload(request).as_ptr(), data.as_ptr());
}

#[test]
fn typed_contents_become_payload() {
    let contents = InferTensorContents { int_contents: vec![-1, 2], ..InferTensorContents::default() };
    assert_eq!(payload(typed("INT16", &[2], contents))[..], [255, 255, 2, 0]);
    let contents = InferTensorContents { fp32_contents: vec![1.0], ..InferTensorContents::default() };
    assert_eq!(payload(typed("FP32", &[1, 1], contents))[..], [0, 0, 0x80, 0x3f]);
    let contents =
        InferTensorContents { bytes_contents: vec!["ab".into()], ..InferTensorContents::default() };
    assert_eq!(payload(typed("BYTES", &[1], contents))[..], [2, 0, 0, 0, b'a', b'b']);
    assert_eq!(payload(typed("UINT64", &[0, 3], InferTensorContents::default())).len(), 0);
}

#[test]
fn wrong_payloads_name_the_tensor() {
    let two = || vec![input("x", "FP32", &[1]), input("y", "FP32", &[1])];
    assert_eq!(
        error(raw(two(), &[b"1234"])),
        "`raw_input_contents` has 1 payloads for 2 inputs (x, y); send one for each input, in their order"
    );
    let contents = InferTensorContents { fp32_contents: vec![1.0], ..InferTensorContents::default() };
    let mixed =
        ModelInferRequest { raw_input_contents: vec![Bytes::new()], ..typed("FP32", &[1], contents.clone()) };
    assert!(error(mixed).contains("input `x` has typed `contents` in a request with `raw_input_contents`"));
    assert!(
        error(typed("FP32", &[2], contents.clone())).contains("has 1 elements and its shape [2] takes 2")
    );
    assert!(error(typed("FP64", &[1], contents.clone())).contains("`contents.fp64_contents`"));
    assert!(error(typed("FP16", &[1], contents.clone())).contains("raw_input_contents"));
    let both = InferTensorContents { int_contents: vec![1], ..contents };
    assert!(
        error(typed("FP32", &[1], both)).contains("`contents.int_contents` and in `contents.fp32_contents`")
    );
    assert!(
        error(raw(vec![input("x", "FP32", &[3])], &[])).contains("has 0 elements and its shape [3] takes 3")
    );
    let small = InferTensorContents { uint_contents: vec![3, 256], ..InferTensorContents::default() };
    assert!(error(typed("UINT8", &[2], small)).contains("element 1 is 256"));
}

#[test]
fn wrong_heads_name_what_was_given() {
    let one = |input| error(raw(vec![input], &[b""]));
    assert!(one(input("x", "FLOAT", &[1])).contains("data type `FLOAT`"));
    assert!(one(input("x", "FP32", &[-1])).contains("dimension 0 is -1"));
    assert!(one(input("x", "FP32", &[1; 17])).contains("17 dimensions, and the limit is 16"));
    let long = one(input(&"n".repeat(5000), "FP32", &[1]));
    assert!(long.contains("5000 bytes") && long.len() < 300);
    let mut shared = input("x", "FP32", &[1]);
    shared
        .parameters
        .insert("shared_memory_region".into(), parameter(ParameterChoice::StringParam("r".into())));
    assert!(
        error(raw(vec![shared], &[])).contains("input `x` has a parameter `shared_memory_region` and no")
    );
    let wrong_version = ModelInferRequest { model_version: "one".into(), ..ModelInferRequest::default() };
    assert!(error(wrong_version).contains("`one`"));
}

#[test]
fn parameters_are_sorted_out() {
    let parameters = [
        ("priority".to_owned(), parameter(ParameterChoice::Uint64Param(1))),
        ("timeout".to_owned(), parameter(ParameterChoice::Int64Param(500))),
        ("alpha".to_owned(), parameter(ParameterChoice::DoubleParam(0.5))),
        (EMPTY_FINAL_RESPONSE.to_owned(), parameter(ParameterChoice::BoolParam(true))),
    ];
    let request = ModelInferRequest { parameters: parameters.into(), ..ModelInferRequest::default() };
    let call = to_call(request.clone(), None).unwrap();
    assert_eq!((call.priority, call.timeout_us, call.params.iter().count()), (1, Some(500), 1));
    let long = CallDeadline(Instant::now() + Duration::from_secs(3600));
    assert_eq!(to_call(request.clone(), Some(long)).unwrap().timeout_us, Some(500));
    let past = CallDeadline(Instant::now());
    assert_eq!(to_call(request, Some(past)).unwrap().timeout_us, Some(1));
    let none = ModelInferRequest {
        parameters: [("alpha".to_owned(), InferParameter::default())].into(),
        ..ModelInferRequest::default()
    };
    assert_eq!(error(none), "the request: parameter `alpha` has no value");
    let sequence = ModelInferRequest {
        parameters: [("sequence_id".to_owned(), parameter(ParameterChoice::Int64Param(3)))].into(),
        ..ModelInferRequest::default()
    };
    assert_eq!(to_call(sequence, None).unwrap_err().code(), diolkos_types::Code::Unsupported);
    let many =
        (0..=PARAMS_MAX).map(|i| (i.to_string(), parameter(ParameterChoice::BoolParam(true)))).collect();
    let many = ModelInferRequest { parameters: many, ..ModelInferRequest::default() };
    assert_eq!(error(many), "the request has 65 parameters and 64 are allowed");
}

/// With the parameters that say where it lies.
fn in_region(
    mut parameters: HashMap<String, InferParameter>,
    offset: Option<i64>,
) -> HashMap<String, InferParameter> {
    let mut set = |name: &str, choice| parameters.insert(name.into(), parameter(choice));
    set("shared_memory_region", ParameterChoice::StringParam("r".into()));
    set("shared_memory_byte_size", ParameterChoice::Int64Param(4));
    if let Some(offset) = offset {
        set("shared_memory_offset", ParameterChoice::Int64Param(offset));
    }
    parameters
}

#[test]
fn tensors_in_regions_have_no_payload() {
    let shared = |offset| {
        let input = input("x", "FP32", &[1]);
        InferInputTensor { parameters: in_region(HashMap::new(), offset), ..input }
    };
    let place = |offset| Place { region: "r".into(), offset, bytes: 4 };
    // Payloads of the others keep their order.
    let mixed = vec![input("a", "UINT8", &[1]), shared(Some(8)), input("b", "UINT8", &[1]), shared(None)];
    let request = raw(mixed, &[b"1", b"2"]);
    assert_eq!((payload_bytes(&request), region_bytes(&request)), (2, 8));
    let call = to_call(request, None).unwrap();
    assert_eq!(call.in_regions, [(1, place(8)), (3, place(0))]);
    let payloads: Vec<Bytes> = call.inputs.iter().map(|input| input.tensor.data.to_private()).collect();
    assert_eq!(payloads, ["1", "", "2", ""]);
    // No payloads at all, and typed contents beside.
    let contents = InferTensorContents { uint_contents: vec![7], ..InferTensorContents::default() };
    let mut request = typed("UINT8", &[1], contents.clone());
    request.inputs.push(shared(None));
    let call = to_call(request, None).unwrap();
    assert_eq!(call.in_regions, [(1, place(0))]);
    assert_eq!(call.inputs[0].tensor.data.to_private()[..], [7]);
    let both = InferInputTensor { contents: Some(contents), ..shared(None) };
    assert!(
        error(raw(vec![both], &[])).contains("lies in a region (`shared_memory_region`) and has `contents`")
    );
    let too_many = raw(vec![input("a", "UINT8", &[1]), shared(None)], &[b"1", b"2"]);
    assert!(error(too_many).contains("2 payloads for 1 inputs (a)"));
    let output =
        InferRequestedOutputTensor { name: "y".into(), parameters: in_region(HashMap::new(), Some(4)) };
    let request = ModelInferRequest { outputs: vec![output], ..ModelInferRequest::default() };
    assert_eq!(to_call(request, None).unwrap().outputs.unwrap()[0].place, Some(place(4)));
}

#[test]
fn outputs_may_be_classified() {
    let output = |count| InferRequestedOutputTensor {
        name: "y".into(),
        parameters: [("classification".to_owned(), parameter(ParameterChoice::Int64Param(count)))].into(),
    };
    let ask = |count| {
        let request = ModelInferRequest { outputs: vec![output(count)], ..ModelInferRequest::default() };
        to_call(request, None).map(|call| call.outputs.unwrap()[0].classification)
    };
    assert_eq!(ask(3), Ok(Some(3)));
    assert_eq!(ask(0), Ok(None));
    assert!(ask(-1).unwrap_err().message().starts_with("output `y`: parameter `classification` is -1"));
}

proptest! {
    /// What the fuzz target does too: decode, convert, and never panic.
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(request) = ModelInferRequest::decode(&bytes[..]) {
            let _ = payload_bytes(&request);
            let _ = to_call(request, None);
        }
    }

    #[test]
    fn typed_bytes_are_what_typed_contents_become(values in proptest::collection::vec(any::<i64>(), 1..20)) {
        let contents = InferTensorContents { int64_contents: values.clone(), ..InferTensorContents::default() };
        let request = typed("INT64", &[values.len() as i64], contents);
        prop_assert_eq!(typed_bytes(&request), payload(request).len());
    }
}
