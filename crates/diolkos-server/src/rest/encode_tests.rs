// SPDX-License-Identifier: Apache-2.0
//! Tests of writing replies: a table per type, and what was written read back for every type, in both forms.

use diolkos_engine::Timing;
use diolkos_types::{DataType, JobId, Shape, push_bytes_element};
use half::bf16;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::rest::decode::data::payload_from_json;

fn reply(data_type: DataType, dims: &[u64], data: Vec<u8>) -> InferReply {
    let tensor = ReplyTensor {
        name: "y\"".into(),
        data_type,
        shape: Shape::new(dims).unwrap(),
        data: data.into(),
        place: None,
    };
    InferReply {
        model: "m".into(),
        version: 3,
        id: "i\u{7}d".into(),
        outputs: vec![tensor],
        timing: Timing::default(),
        told: (JobId(1), diolkos_engine::Scheduled::default()),
    }
}

fn json_of(data_type: DataType, count: u64, data: Vec<u8>) -> Result<String, Status> {
    let mut json = Vec::new();
    push_values(&mut json, "y", data_type, &data)?;
    let json = String::from_utf8(json).unwrap();
    let values: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(values.len() as u64, count);
    Ok(json)
}

#[test]
fn every_type_has_its_form() {
    let table: [(DataType, Vec<u8>, &str); 12] = [
        (DataType::Bool, vec![0, 1], "[false,true]"),
        (DataType::Uint8, vec![0, 255], "[0,255]"),
        (DataType::Uint16, vec![1, 0, 255, 255], "[1,65535]"),
        (DataType::Uint32, [1, u32::MAX].map(u32::to_le_bytes).concat(), "[1,4294967295]"),
        (DataType::Uint64, [1, u64::MAX].map(u64::to_le_bytes).concat(), "[1,18446744073709551615]"),
        (DataType::Int8, vec![128, 1], "[-128,1]"),
        (DataType::Int16, vec![0, 128, 1, 0], "[-32768,1]"),
        (DataType::Int32, [i32::MIN, 1].map(i32::to_le_bytes).concat(), "[-2147483648,1]"),
        (DataType::Int64, [i64::MIN, 1].map(i64::to_le_bytes).concat(), "[-9223372036854775808,1]"),
        (DataType::Fp16, [f16::from_f32(0.5), f16::NAN].map(f16::to_le_bytes).concat(), "[0.5,\"NaN\"]"),
        (DataType::Fp32, [0.1, f32::INFINITY].map(f32::to_le_bytes).concat(), "[0.1,\"Infinity\"]"),
        (DataType::Fp64, [0.1, f64::NEG_INFINITY].map(f64::to_le_bytes).concat(), "[0.1,\"-Infinity\"]"),
    ];
    for (data_type, data, expected) in table {
        assert_eq!(json_of(data_type, 2, data).unwrap(), expected, "{data_type}");
    }
    let mut strings = Vec::new();
    push_bytes_element(&mut strings, "é\n\"".as_bytes()).unwrap();
    assert_eq!(json_of(DataType::Bytes, 1, strings).unwrap(), r#"["é\n\""]"#);
}

#[test]
fn what_went_into_a_region_is_named_and_not_sent() {
    for binary in [false, true] {
        let mut reply = reply(DataType::Uint8, &[5], Vec::new());
        reply.outputs[0].place = Some(Place { region: "r\"".into(), offset: 0, bytes: 5 });
        let form = OutputForm { binary, by_name: Vec::new() };
        assert_eq!(json_payload_bytes(&reply, &form), 0);
        let encoded = encode(reply, &form).unwrap();
        assert_eq!((encoded.json_bytes, encoded.chunks.len()), (None, 1));
        let json: Value = serde_json::from_slice(&encoded.chunks[0]).unwrap();
        let expected = serde_json::json!({"name": "y\"", "datatype": "UINT8", "shape": [5],
            "parameters": {"binary_data_size": 0, "shared_memory_region": "r\"", "shared_memory_byte_size": 5}});
        assert_eq!(json["outputs"][0], expected);
    }
    let mut reply = reply(DataType::Uint8, &[5], Vec::new());
    reply.outputs[0].place = Some(Place { region: "r".into(), offset: 64, bytes: 5 });
    let encoded = encode(reply, &OutputForm::default()).unwrap();
    let json: Value = serde_json::from_slice(&encoded.chunks[0]).unwrap();
    assert_eq!(json["outputs"][0]["parameters"]["shared_memory_offset"], 64);
}

#[test]
fn what_json_cannot_say_is_an_error_that_says_so() {
    let bf16 = bf16::from_f32(1.0).to_le_bytes().to_vec();
    assert!(json_of(DataType::Bf16, 1, bf16).unwrap_err().message().contains("output `y` is BF16"));
    let error = json_of(DataType::Bytes, 1, vec![1, 0, 0, 0, 0xff]).unwrap_err();
    assert!(error.message().contains("element 0 is no UTF-8"), "{error}");
}

#[test]
fn names_and_ids_are_escaped_and_binary_follows() {
    let form = OutputForm { binary: true, by_name: Vec::new() };
    let encoded = encode(reply(DataType::Uint8, &[1, 3], vec![1, 2, 3]), &form).unwrap();
    assert_eq!(encoded.json_bytes, Some(encoded.chunks[0].len()));
    assert_eq!(encoded.chunks[1][..], [1, 2, 3]);
    let json: Value = serde_json::from_slice(&encoded.chunks[0]).unwrap();
    assert_eq!(json["model_name"], "m");
    assert_eq!(json["model_version"], "3");
    assert_eq!(json["id"], "i\u{7}d");
    assert_eq!(json["outputs"][0]["name"], "y\"");
    assert_eq!(json["outputs"][0]["shape"], serde_json::json!([1, 3]));
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 3);
    assert!(json["outputs"][0].get("data").is_none());
}

#[test]
fn what_an_output_says_counts_more_than_what_the_request_says() {
    let form = OutputForm { binary: true, by_name: vec![("y\"".into(), false)] };
    let encoded = encode(reply(DataType::Uint8, &[1], vec![1]), &form).unwrap();
    assert_eq!((encoded.json_bytes, encoded.chunks.len()), (None, 1));
}

/// A payload of `count` elements of a type, from arbitrary bytes.
fn payload(data_type: DataType, count: usize, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.iter().copied().cycle();
    match data_type {
        DataType::Bool => bytes.take(count).map(|byte| byte & 1).collect(),
        DataType::Bytes => {
            let mut payload = Vec::new();
            for _ in 0..count {
                let length = usize::from(bytes.next().unwrap() % 5);
                let text: String = bytes.by_ref().take(length).map(char::from).collect();
                push_bytes_element(&mut payload, text.as_bytes()).unwrap();
            }
            payload
        }
        fixed => bytes.take(count * fixed.element_bytes().unwrap()).collect(),
    }
}

/// Equal, where any NaN equals any other: JSON has one NaN, IEEE 754 has many.
fn same_values(data_type: DataType, a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    let nan = |bytes: &[u8]| match data_type {
        DataType::Fp16 => f16::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        DataType::Fp32 => f32::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        DataType::Fp64 => f64::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        _ => false,
    };
    let width = data_type.element_bytes().unwrap_or(1);
    a.len() == b.len()
        && a.chunks_exact(width).zip(b.chunks_exact(width)).all(|(a, b)| a == b || (nan(a) && nan(b)))
}

proptest! {
    #[test]
    fn every_value_survives_json(count in 0usize..20, seed in proptest::collection::vec(any::<u8>(), 8..64)) {
        for data_type in DataType::ALL.into_iter().filter(|t| *t != DataType::Bf16) {
            let data = payload(data_type, count, &seed);
            let json = json_of(data_type, count as u64, data.clone()).unwrap();
            let back = payload_from_json("y", data_type, &Shape::new(&[count as u64]).unwrap(), &json);
            prop_assert!(same_values(data_type, &data, &back.unwrap()), "{} {}", data_type, json);
        }
    }

    #[test]
    fn every_single_float_survives_json(bits in any::<u32>()) {
        let data = bits.to_le_bytes().to_vec();
        let json = json_of(DataType::Fp32, 1, data.clone()).unwrap();
        let back = payload_from_json("y", DataType::Fp32, &Shape::new(&[1]).unwrap(), &json).unwrap();
        prop_assert!(same_values(DataType::Fp32, &data, &back), "{}", json);
    }
}
