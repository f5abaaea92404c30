// SPDX-License-Identifier: Apache-2.0
//! A tensor with its name, and its elements as numbers or text.
//!
//! Invariant: `data` has as many bytes as `data_type` and `shape` say; whoever makes a [`Value`] sees to it.

use bytes::Bytes;
use diolkos_types::{BytesElements, DataType, Shape};
use half::{bf16, f16};
use serde_json::Number;

/// A named tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Name in the model's signature.
    pub name: String,
    /// Element type.
    pub data_type: DataType,
    /// Dimensions.
    pub shape: Shape,
    /// Row-major, little-endian elements; for `BYTES`, each behind its `u32` length.
    pub data: Bytes,
}

/// One element.
#[derive(Clone, Debug, PartialEq)]
pub enum Element<'a> {
    /// `BOOL`.
    Bool(bool),
    /// Any integer type that fits.
    Int(i64),
    /// `UINT64`.
    Uint(u64),
    /// `FP32`, and the shorter ones, which it holds exactly.
    Single(f32),
    /// `FP64`.
    Double(f64),
    /// `BYTES`.
    Bytes(&'a [u8]),
}

impl Value {
    /// The elements in row-major order.
    pub fn elements(&self) -> Box<dyn Iterator<Item = Element<'_>> + '_> {
        let Some(size) = self.data_type.element_bytes() else {
            // A payload that is cut off shows what it has.
            return Box::new(BytesElements::new(&self.data).map_while(Result::ok).map(Element::Bytes));
        };
        Box::new(self.data.chunks_exact(size).map(|bytes| fixed(self.data_type, bytes)))
    }

    /// The elements as numbers; `None` for `BYTES`.
    #[must_use]
    pub fn numbers(&self) -> Option<Vec<f64>> {
        self.elements().map(|element| element.number()).collect()
    }

    /// The elements as JSON, flat.
    #[must_use]
    pub fn json(&self) -> Vec<serde_json::Value> {
        self.elements().map(|element| element.json()).collect()
    }
}

fn fixed(data_type: DataType, bytes: &[u8]) -> Element<'static> {
    fn le<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.try_into().expect("the caller cuts pieces of the type's size")
    }
    match data_type {
        DataType::Bool => Element::Bool(bytes[0] != 0),
        DataType::Uint8 => Element::Int(bytes[0].into()),
        DataType::Uint16 => Element::Int(u16::from_le_bytes(le(bytes)).into()),
        DataType::Uint32 => Element::Int(u32::from_le_bytes(le(bytes)).into()),
        DataType::Uint64 => Element::Uint(u64::from_le_bytes(le(bytes))),
        DataType::Int8 => Element::Int(i8::from_le_bytes(le(bytes)).into()),
        DataType::Int16 => Element::Int(i16::from_le_bytes(le(bytes)).into()),
        DataType::Int32 => Element::Int(i32::from_le_bytes(le(bytes)).into()),
        DataType::Int64 => Element::Int(i64::from_le_bytes(le(bytes))),
        DataType::Fp16 => Element::Single(f16::from_le_bytes(le(bytes)).to_f32()),
        DataType::Bf16 => Element::Single(bf16::from_le_bytes(le(bytes)).to_f32()),
        DataType::Fp32 => Element::Single(f32::from_le_bytes(le(bytes))),
        DataType::Fp64 => Element::Double(f64::from_le_bytes(le(bytes))),
        DataType::Bytes => unreachable!("BYTES elements have no fixed size and do not come here"),
    }
}

impl Element<'_> {
    /// As a number; `None` for `BYTES`.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match *self {
            Element::Bool(value) => Some(f64::from(u8::from(value))),
            Element::Int(value) => Some(value as f64),
            Element::Uint(value) => Some(value as f64),
            Element::Single(value) => Some(value.into()),
            Element::Double(value) => Some(value),
            Element::Bytes(_) => None,
        }
    }

    /// As JSON. Infinities and NaN, which JSON lacks, become their names as text; so do bytes that are not
    /// UTF-8, with replacement characters.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        match *self {
            Element::Bool(value) => value.into(),
            Element::Int(value) => value.into(),
            Element::Uint(value) => value.into(),
            // The shortest text that reads back as the same FP32 value, rather than its 17 digits as FP64.
            Element::Single(value) => {
                match value.to_string().parse::<f64>().ok().and_then(Number::from_f64) {
                    Some(number) => number.into(),
                    None => value.to_string().into(),
                }
            }
            Element::Double(value) => match Number::from_f64(value) {
                Some(number) => number.into(),
                None => value.to_string().into(),
            },
            Element::Bytes(value) => String::from_utf8_lossy(value).into_owned().into(),
        }
    }

    /// For people: six significant digits at most.
    #[must_use]
    pub fn show(&self) -> String {
        match *self {
            Element::Bool(value) => value.to_string(),
            Element::Int(value) => value.to_string(),
            Element::Uint(value) => value.to_string(),
            Element::Single(value) => significant(value.into()),
            Element::Double(value) => significant(value),
            Element::Bytes(value) => format!("\"{}\"", String::from_utf8_lossy(value).escape_debug()),
        }
    }
}

/// A number with six significant digits at most.
#[must_use]
pub fn significant(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    if !(1e-4..1e9).contains(&size) {
        return format!("{value:.3e}");
    }
    let whole = size.log10().floor() as i32 + 1;
    let decimals = usize::try_from((6 - whole).clamp(0, 8)).expect("clamped to 0..=8");
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(data_type: DataType, data: &[u8], count: u64) -> Value {
        let shape = Shape::new(&[count]).unwrap();
        Value { name: "x".into(), data_type, shape, data: Bytes::copy_from_slice(data) }
    }

    struct Shown(Value);

    impl Shown {
        fn show(&self) -> String {
            self.0.elements().next().unwrap().show()
        }
    }

    #[test]
    fn every_type_is_read() {
        let one = |data_type: DataType, data: &[u8]| Shown(value(data_type, data, 1));
        assert_eq!(one(DataType::Bool, &[1]).show(), "true");
        assert_eq!(one(DataType::Uint8, &[255]).show(), "255");
        assert_eq!(one(DataType::Uint16, &[255, 255]).show(), "65535");
        assert_eq!(one(DataType::Uint32, &[255; 4]).show(), "4294967295");
        assert_eq!(one(DataType::Uint64, &[255; 8]).show(), "18446744073709551615");
        assert_eq!(one(DataType::Int8, &[255]).show(), "-1");
        assert_eq!(one(DataType::Int16, &[255; 2]).show(), "-1");
        assert_eq!(one(DataType::Int32, &[255; 4]).show(), "-1");
        assert_eq!(one(DataType::Int64, &[255; 8]).show(), "-1");
        assert_eq!(one(DataType::Fp16, &[0, 0x3e]).show(), "1.5");
        assert_eq!(one(DataType::Bf16, &[0xc0, 0x3f]).show(), "1.5");
        assert_eq!(one(DataType::Fp32, &0.1f32.to_le_bytes()).show(), "0.1");
        assert_eq!(one(DataType::Fp64, &0.25f64.to_le_bytes()).show(), "0.25");
        let text = value(DataType::Bytes, &[2, 0, 0, 0, b'o', b'k', 0, 0, 0, 0], 2);
        assert_eq!(text.json(), ["ok", ""]);
        assert_eq!(text.numbers(), None);
    }

    #[test]
    fn json_has_the_shortest_digits_and_names_for_what_it_lacks() {
        let data: Vec<u8> =
            [0.1f32, f32::NAN, f32::NEG_INFINITY].iter().flat_map(|x| x.to_le_bytes()).collect();
        let json = serde_json::to_string(&value(DataType::Fp32, &data, 3).json()).unwrap();
        assert_eq!(json, r#"[0.1,"NaN","-inf"]"#);
    }

    #[test]
    fn six_digits() {
        let shown = [0.0, 0.999_993_1, 1234567.0, 12.34567, -0.000_01, 1e12, 0.5].map(significant);
        assert_eq!(shown, ["0", "0.999993", "1234567", "12.3457", "-1.000e-5", "1.000e12", "0.5"]);
    }
}
