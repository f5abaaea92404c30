// SPDX-License-Identifier: Apache-2.0
//! Tests of reading JSON values: every type, every nesting, and every way to get them wrong.

use half::f16;

use super::*;

fn read(data_type: DataType, dims: &[u64], json: &str) -> Result<Vec<u8>, String> {
    payload_from_json("x", data_type, &Shape::new(dims).unwrap(), json)
        .map(|payload| payload.to_vec())
        .map_err(|status| status.message().to_owned())
}

#[test]
fn every_type_has_its_form() {
    let table: [(DataType, &str, Vec<u8>); 13] = [
        (DataType::Bool, "[true,false]", vec![1, 0]),
        (DataType::Uint8, "[0,255]", vec![0, 255]),
        (DataType::Uint16, "[1,65535]", vec![1, 0, 255, 255]),
        (DataType::Uint32, "[1,4294967295]", [1u32.to_le_bytes(), u32::MAX.to_le_bytes()].concat()),
        (DataType::Uint64, "[1,18446744073709551615]", [1u64.to_le_bytes(), u64::MAX.to_le_bytes()].concat()),
        (DataType::Int8, "[-128,127]", vec![128, 127]),
        (DataType::Int16, "[-32768,1]", vec![0, 128, 1, 0]),
        (DataType::Int32, "[-1,2147483647]", [(-1i32).to_le_bytes(), i32::MAX.to_le_bytes()].concat()),
        (
            DataType::Int64,
            "[-9223372036854775808,1.0]",
            [i64::MIN.to_le_bytes(), 1i64.to_le_bytes()].concat(),
        ),
        (DataType::Fp16, "[0.5,-65504]", [f16::from_f32(0.5).to_le_bytes(), f16::MIN.to_le_bytes()].concat()),
        (DataType::Fp32, "[0.1,-3e38]", [0.1f32.to_le_bytes(), (-3e38f32).to_le_bytes()].concat()),
        (DataType::Fp64, "[0.1,1e308]", [0.1f64.to_le_bytes(), 1e308f64.to_le_bytes()].concat()),
        (DataType::Bytes, r#"["aé\n",""]"#, vec![4, 0, 0, 0, b'a', 0xc3, 0xa9, b'\n', 0, 0, 0, 0]),
    ];
    for (data_type, json, payload) in table {
        assert_eq!(read(data_type, &[2], json), Ok(payload), "{data_type}");
    }
    assert!(read(DataType::Bf16, &[2], "[1,2]").unwrap_err().contains("BF16 has no JSON form"));
}

#[test]
fn wrong_values_name_tensor_element_value_and_range() {
    let table = [
        (
            DataType::Uint8,
            "[1,300]",
            "input `x`: element 1 is 300, and UINT8 takes whole numbers from 0 to 255",
        ),
        (
            DataType::Uint8,
            "[-1,0]",
            "input `x`: element 0 is -1, and UINT8 takes whole numbers from 0 to 255",
        ),
        (
            DataType::Int8,
            "[1,1.5]",
            "input `x`: element 1 is 1.5, and INT8 takes whole numbers from -128 to 127",
        ),
        (DataType::Int64, "[1,9223372036854775808]", "element 1 is 9223372036854775808, and INT64 takes"),
        (DataType::Uint64, "[1,18446744073709551616]", "element 1 is 18446744073709552000, and UINT64 takes"),
        (DataType::Fp16, "[1,65536]", "input `x`: element 1 is 65536, and FP16 takes numbers up to 65504"),
        (DataType::Fp32, "[1e39,1]", "element 0 is 1000000000000000000000000000000000000000, and FP32 takes"),
        (DataType::Fp32, "[1,null]", "element 1 is null, and FP32 takes"),
        (DataType::Fp32, "[true,1]", "element 0 is true, and FP32 takes"),
        (DataType::Fp32, r#"["1",1]"#, "element 0 is \"1\", and FP32 takes"),
        (DataType::Int32, r#"["NaN",1]"#, "element 0 is \"NaN\", and INT32 takes"),
        (DataType::Bool, "[1,0]", "input `x`: element 0 is 1, and BOOL takes true or false"),
        (DataType::Bytes, "[1,2]", "input `x`: element 0 is 1, and BYTES takes strings"),
        (DataType::Fp32, "[{},1]", "element 0 is an object, and FP32 takes"),
        (DataType::Fp64, "[1e400,1]", "number out of range"),
    ];
    for (data_type, json, expected) in table {
        let message = read(data_type, &[2], json).unwrap_err();
        assert!(message.contains(expected), "{data_type} {json}: {message}");
    }
}

#[test]
fn nan_and_infinity_are_strings() {
    for data_type in [DataType::Fp16, DataType::Fp32, DataType::Fp64] {
        let payload = read(data_type, &[3], r#"["NaN","Infinity","-Infinity"]"#).unwrap();
        let value = |index: usize| match data_type {
            DataType::Fp16 => f64::from(f16::from_le_bytes(payload[index * 2..][..2].try_into().unwrap())),
            DataType::Fp32 => f32::from_le_bytes(payload[index * 4..][..4].try_into().unwrap()).into(),
            _ => f64::from_le_bytes(payload[index * 8..][..8].try_into().unwrap()),
        };
        assert!(
            value(0).is_nan() && value(1) == f64::INFINITY && value(2) == f64::NEG_INFINITY,
            "{data_type}"
        );
    }
}

#[test]
fn flat_or_nested_as_the_shape_says() {
    let six = Ok(vec![1, 2, 3, 4, 5, 6]);
    assert_eq!(read(DataType::Uint8, &[2, 3], "[1,2,3,4,5,6]"), six);
    assert_eq!(read(DataType::Uint8, &[2, 3], "[[1,2,3],[4,5,6]]"), six);
    assert_eq!(read(DataType::Uint8, &[1, 2, 3], "[[[1,2,3],[4,5,6]]]"), six);
    assert_eq!(read(DataType::Uint8, &[], "7"), Ok(vec![7]));
    assert_eq!(read(DataType::Uint8, &[], "[7]"), Ok(vec![7]));
    assert_eq!(read(DataType::Uint8, &[1], "[7]"), Ok(vec![7]));
    for (dims, json) in [(&[0][..], "[]"), (&[2, 0], "[[],[]]"), (&[2, 0], "[]"), (&[0, 2], "[]")] {
        assert_eq!(read(DataType::Fp32, dims, json), Ok(vec![]), "{dims:?} {json}");
    }
}

#[test]
fn other_nestings_and_counts_are_refused() {
    let nesting = [
        (&[2, 3][..], "[[1,2],[3,4],[5,6]]"),
        (&[2, 3], "[[1,2,3],[4,5]]"),
        (&[2, 3], "[[1,2,3]]"),
        (&[2, 3], "[1,[2,3],4,5,6]"),
        (&[2, 3], "[[1,2,3],4,5,6]"),
        (&[2, 3], "[[[1],[2],[3]],[[4],[5],[6]]]"),
        (&[2, 2, 2], "[[1,2,3,4],[5,6,7,8]]"),
        (&[2], "1"),
        (&[2], "[[1,2]]"),
        (&[], "[[7]]"),
    ];
    for (dims, json) in nesting {
        let message = read(DataType::Uint8, dims, json).unwrap_err();
        assert!(message.contains("nesting") && message.contains("`x`"), "{dims:?} {json}: {message}");
    }
    assert_eq!(
        read(DataType::Uint8, &[2, 2], "[1,2,3]").unwrap_err(),
        "input `x` has 3 elements and its shape [2,2] takes 4"
    );
    assert_eq!(
        read(DataType::Uint8, &[2], "[1,2,3,4,5]").unwrap_err(),
        "input `x` has more than 2 elements and its shape [2] takes 2"
    );
    assert!(read(DataType::Uint8, &[2, 3], "[[1,2,3],[4,5,6],[7,8,9]]").unwrap_err().contains("more than 6"));
    assert!(read(DataType::Uint8, &[2, 0], "[[],[],[]]").unwrap_err().contains("nesting"));
    assert!(read(DataType::Uint8, &[u64::MAX, 2], "[1]").unwrap_err().contains("overflows"));
    assert!(read(DataType::Uint8, &[u64::MAX], "[1]").unwrap_err().contains("takes 18446744073709551615"));
}

#[test]
fn reading_stops_at_the_first_value_too_many() {
    // What follows is not even JSON, so an answer about the count proves that nobody got there.
    let message = read(DataType::Uint8, &[2], "[1,2,3,@@@").unwrap_err();
    assert!(message.contains("more than 2"), "{message}");
    let deep = "[".repeat(100_000);
    assert!(read(DataType::Uint8, &[1; RANK_MAX], &deep).unwrap_err().contains("nesting"));
}

#[test]
fn room_is_made_for_the_text_and_not_for_the_claim() {
    assert_eq!(capacity(DataType::Fp64, u64::MAX, 10), 48);
    assert_eq!(capacity(DataType::Uint8, 3, 1000), 3);
}
