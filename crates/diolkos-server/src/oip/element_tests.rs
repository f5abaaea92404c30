// SPDX-License-Identifier: Apache-2.0
//! Tests of the typed conversions: a table per type, and typed lists against the bytes they must become.

use proptest::prelude::*;

use super::*;

type List<'a> = Contents<'a, Vec<u8>>;

fn shape(dims: &[u64]) -> Shape {
    Shape::new(dims).unwrap()
}

#[test]
fn each_integer_type_takes_exactly_its_range() {
    let table: [(DataType, i128, i128); 8] = [
        (DataType::Uint8, 0, 255),
        (DataType::Uint16, 0, 65_535),
        (DataType::Uint32, 0, 4_294_967_295),
        (DataType::Uint64, 0, u64::MAX.into()),
        (DataType::Int8, -128, 127),
        (DataType::Int16, -32_768, 32_767),
        (DataType::Int32, i32::MIN.into(), i32::MAX.into()),
        (DataType::Int64, i64::MIN.into(), i64::MAX.into()),
    ];
    for (data_type, least, most) in table {
        let width = data_type.element_bytes().unwrap();
        for value in [least, most, 0, 1] {
            let mut payload = Vec::new();
            push_integer(&mut payload, data_type, value).unwrap();
            assert_eq!(payload, value.to_le_bytes()[..width], "{data_type} {value}");
        }
        for value in [least - 1, most + 1] {
            assert_eq!(
                push_integer(&mut Vec::new(), data_type, value),
                Err(OutOfRange),
                "{data_type} {value}"
            );
        }
        assert!(range_of(data_type).ends_with(&most.to_string()), "{data_type}");
        assert_eq!(push_float(&mut Vec::new(), data_type, 1.5), Err(OutOfRange));
        assert_eq!(push_float(&mut Vec::new(), data_type, f64::NAN), Err(OutOfRange));
        assert_eq!(push_float(&mut Vec::new(), data_type, f64::INFINITY), Err(OutOfRange));
        let mut payload = Vec::new();
        push_float(&mut payload, data_type, 7.0).unwrap();
        assert_eq!(payload[0], 7);
    }
}

#[test]
fn floats_round_and_never_become_infinite() {
    let table: [(DataType, f64, f64); 3] = [
        (DataType::Fp16, 65_504.0, 65_536.0),
        (DataType::Fp32, f64::from(f32::MAX), 3.5e38),
        (DataType::Fp64, f64::MAX, f64::NAN),
    ];
    for (data_type, most, beyond) in table {
        assert!(is_float(data_type));
        push_float(&mut Vec::new(), data_type, most).unwrap();
        push_float(&mut Vec::new(), data_type, -most).unwrap();
        push_float(&mut Vec::new(), data_type, f64::NEG_INFINITY).unwrap();
        if beyond.is_finite() {
            assert_eq!(push_float(&mut Vec::new(), data_type, beyond), Err(OutOfRange), "{data_type}");
        }
    }
    let mut payload = Vec::new();
    push_float(&mut payload, DataType::Fp16, 0.1).unwrap();
    assert_eq!(payload, f16::from_f32(0.1).to_le_bytes());
}

#[test]
fn lists_become_bytes_and_errors_name_everything() {
    let encode = |list: List<'_>, data_type, dims: &[u64]| list.encode("x", data_type, &shape(dims));
    assert_eq!(encode(Contents::Bool(&[true, false]), DataType::Bool, &[2]).unwrap()[..], [1, 0]);
    assert_eq!(encode(Contents::Int(&[-1, 2]), DataType::Int16, &[2]).unwrap()[..], [255, 255, 2, 0]);
    let strings = [b"a".to_vec(), Vec::new()];
    assert_eq!(
        encode(Contents::Bytes(&strings), DataType::Bytes, &[2]).unwrap()[..],
        [1, 0, 0, 0, b'a', 0, 0, 0, 0]
    );
    let message = |list: List<'_>, data_type, dims: &[u64]| {
        encode(list, data_type, dims).unwrap_err().message().to_owned()
    };
    assert_eq!(
        message(Contents::Uint(&[1, 300]), DataType::Uint8, &[2]),
        "input `x`: element 1 is 300, and UINT8 takes whole numbers from 0 to 255"
    );
    assert_eq!(
        message(Contents::Int(&[1]), DataType::Int32, &[2, 2]),
        "input `x` has 1 elements and its shape [2,2] takes 4"
    );
    assert!(message(Contents::Fp32(&[1.0]), DataType::Int32, &[1]).contains("`contents.int_contents`"));
    assert!(message(Contents::Fp32(&[1.0]), DataType::Fp16, &[1]).contains("`raw_input_contents`"));
    assert!(message(Contents::Fp32(&[1.0]), DataType::Fp32, &[u64::MAX, 3]).contains("overflows"));
}

proptest! {
    #[test]
    fn typed_lists_are_their_little_endian_bytes(ints in proptest::collection::vec(any::<i64>(), 0..20), floats in proptest::collection::vec(any::<f64>(), 0..20)) {
        let expected: Vec<u8> = ints.iter().flat_map(|value| value.to_le_bytes()).collect();
        let list: List<'_> = Contents::Int64(&ints);
        prop_assert_eq!(&list.encode("x", DataType::Int64, &shape(&[ints.len() as u64])).unwrap()[..], expected);
        let expected: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
        let list: List<'_> = Contents::Fp64(&floats);
        prop_assert_eq!(&list.encode("x", DataType::Fp64, &shape(&[floats.len() as u64])).unwrap()[..], expected);
    }
}

#[test]
fn a_float_that_reading_may_have_rounded_is_no_integer() {
    let exact = (1u64 << 53) as f64;
    for data_type in [DataType::Int64, DataType::Uint64] {
        let mut payload = Vec::new();
        push_float(&mut payload, data_type, exact).unwrap();
        assert_eq!(payload, (1u64 << 53).to_le_bytes());
        assert!(push_float(&mut payload, data_type, exact + 2.0).is_err());
    }
    assert!(push_float(&mut Vec::new(), DataType::Int64, -exact - 2.0).is_err());
}
