// SPDX-License-Identifier: Apache-2.0
//! Typed values → little-endian payload, with the checks of each type.
//!
//! Both typed forms of the protocol come through here: JSON numbers, one at a time, and the typed lists of
//! protobuf. A value that the type can't hold is an error that names tensor, element, value and range; nothing
//! is ever wrapped or cut.

use ::bytes::Bytes;
use diolkos_types::{DataType, Shape, Status};
use half::f16;

use super::bytes;

/// A value that an element type can't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfRange;

/// The whole numbers or magnitudes that a type holds, for messages.
pub(crate) fn range_of(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Bool => "true or false",
        DataType::Uint8 => "whole numbers from 0 to 255",
        DataType::Uint16 => "whole numbers from 0 to 65535",
        DataType::Uint32 => "whole numbers from 0 to 4294967295",
        DataType::Uint64 => "whole numbers from 0 to 18446744073709551615",
        DataType::Int8 => "whole numbers from -128 to 127",
        DataType::Int16 => "whole numbers from -32768 to 32767",
        DataType::Int32 => "whole numbers from -2147483648 to 2147483647",
        DataType::Int64 => "whole numbers from -9223372036854775808 to 9223372036854775807",
        DataType::Fp16 => "numbers up to 65504",
        DataType::Fp32 => "numbers up to about 3.4e38",
        DataType::Fp64 => "numbers up to about 1.8e308",
        DataType::Bf16 => "raw bytes only",
        DataType::Bytes => "strings",
    }
}

/// Whether JSON or typed numbers of this type are floating-point.
pub(crate) fn is_float(data_type: DataType) -> bool {
    matches!(data_type, DataType::Fp16 | DataType::Fp32 | DataType::Fp64)
}

/// Appends a whole number to a payload of an integer or floating-point type.
pub(crate) fn push_integer(
    payload: &mut Vec<u8>,
    data_type: DataType,
    value: i128,
) -> Result<(), OutOfRange> {
    macro_rules! push {
        ($type:ty) => {
            payload.extend_from_slice(&<$type>::try_from(value).map_err(|_| OutOfRange)?.to_le_bytes())
        };
    }
    match data_type {
        DataType::Uint8 => push!(u8),
        DataType::Uint16 => push!(u16),
        DataType::Uint32 => push!(u32),
        DataType::Uint64 => push!(u64),
        DataType::Int8 => push!(i8),
        DataType::Int16 => push!(i16),
        DataType::Int32 => push!(i32),
        DataType::Int64 => push!(i64),
        DataType::Fp16 | DataType::Fp32 | DataType::Fp64 => {
            return push_float(payload, data_type, value as f64);
        }
        DataType::Bool | DataType::Bf16 | DataType::Bytes => return Err(OutOfRange),
    }
    Ok(())
}

/// Up to here every whole number has an f64 of its own (IEEE 754: 53 bits of significand).
const FLOAT_EXACT_MAX: f64 = (1u64 << 53) as f64;

/// Appends a number to a payload of a floating-point type, rounded to nearest. A finite number that would
/// become infinite is out of range; one with a fraction is so for integer types.
pub(crate) fn push_float(payload: &mut Vec<u8>, data_type: DataType, value: f64) -> Result<(), OutOfRange> {
    let fits = |rounded_is_finite: bool| {
        if rounded_is_finite || !value.is_finite() { Ok(()) } else { Err(OutOfRange) }
    };
    match data_type {
        DataType::Fp64 => payload.extend_from_slice(&value.to_le_bytes()),
        DataType::Fp32 => {
            let rounded = value as f32;
            fits(rounded.is_finite())?;
            payload.extend_from_slice(&rounded.to_le_bytes());
        }
        DataType::Fp16 => {
            let rounded = f16::from_f64(value);
            fits(rounded.is_finite())?;
            payload.extend_from_slice(&rounded.to_le_bytes());
        }
        // JSON has one kind of number, and some writers put `.0` behind all of them. Past 2^53 reading such
        // text as f64 has already rounded it, so that a neighbour of what was meant would be stored.
        _ if value.fract() == 0.0 && value.abs() <= FLOAT_EXACT_MAX => {
            return push_integer(payload, data_type, value as i128);
        }
        _ => return Err(OutOfRange),
    }
    Ok(())
}

/// "input `x`: element 3 is 300, and UINT8 takes whole numbers from 0 to 255".
pub(crate) fn wrong_element(
    name: &str,
    index: u64,
    given: impl std::fmt::Display,
    data_type: DataType,
) -> Status {
    Status::invalid(format!(
        "input `{name}`: element {index} is {given}, and {data_type} takes {}",
        range_of(data_type)
    ))
}

/// "input `x` has 3 elements and its shape [2,2] takes 4".
pub(crate) fn wrong_count(name: &str, given: impl std::fmt::Display, shape: &Shape, expected: u64) -> Status {
    Status::invalid(format!("input `{name}` has {given} elements and its shape {shape} takes {expected}"))
}

/// Number of elements of an input, refused when it does not fit 64 bits.
pub(crate) fn elements_of(name: &str, shape: &Shape) -> Result<u64, Status> {
    shape.elements().ok_or_else(|| {
        Status::invalid(format!(
            "input `{name}` has shape {shape}, whose number of elements overflows 64 bits"
        ))
    })
}

/// One of the typed lists of protobuf's `InferTensorContents`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Contents<'a, B> {
    /// `bool_contents`
    Bool(&'a [bool]),
    /// `int_contents`, for `INT8`, `INT16` and `INT32`
    Int(&'a [i32]),
    /// `int64_contents`
    Int64(&'a [i64]),
    /// `uint_contents`, for `UINT8`, `UINT16` and `UINT32`
    Uint(&'a [u32]),
    /// `uint64_contents`
    Uint64(&'a [u64]),
    /// `fp32_contents`
    Fp32(&'a [f32]),
    /// `fp64_contents`
    Fp64(&'a [f64]),
    /// `bytes_contents`
    Bytes(&'a [B]),
}

/// The list that carries elements of a type; `None` for types that only have the raw form.
pub(crate) fn contents_field(data_type: DataType) -> Option<&'static str> {
    Some(match data_type {
        DataType::Bool => "bool_contents",
        DataType::Int8 | DataType::Int16 | DataType::Int32 => "int_contents",
        DataType::Int64 => "int64_contents",
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => "uint_contents",
        DataType::Uint64 => "uint64_contents",
        DataType::Fp32 => "fp32_contents",
        DataType::Fp64 => "fp64_contents",
        DataType::Bytes => "bytes_contents",
        DataType::Fp16 | DataType::Bf16 => return None,
    })
}

impl<B: AsRef<[u8]>> Contents<'_, B> {
    /// The protobuf field's name.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Contents::Bool(_) => "bool_contents",
            Contents::Int(_) => "int_contents",
            Contents::Int64(_) => "int64_contents",
            Contents::Uint(_) => "uint_contents",
            Contents::Uint64(_) => "uint64_contents",
            Contents::Fp32(_) => "fp32_contents",
            Contents::Fp64(_) => "fp64_contents",
            Contents::Bytes(_) => "bytes_contents",
        }
    }

    fn len(&self) -> usize {
        match self {
            Contents::Bool(values) => values.len(),
            Contents::Int(values) => values.len(),
            Contents::Int64(values) => values.len(),
            Contents::Uint(values) => values.len(),
            Contents::Uint64(values) => values.len(),
            Contents::Fp32(values) => values.len(),
            Contents::Fp64(values) => values.len(),
            Contents::Bytes(values) => values.len(),
        }
    }

    /// The payload of the input `name`, checked against its declared type and shape.
    pub(crate) fn encode(&self, name: &str, data_type: DataType, shape: &Shape) -> Result<Bytes, Status> {
        let Some(field) = contents_field(data_type) else {
            return Err(Status::invalid(format!(
                "input `{name}`: {data_type} has no typed contents; send it in `raw_input_contents`"
            )));
        };
        if field != self.field() {
            let given = self.field();
            return Err(Status::invalid(format!(
                "input `{name}`: {data_type} goes into `contents.{field}`, and `contents.{given}` is filled"
            )));
        }
        let expected = elements_of(name, shape)?;
        if self.len() as u64 != expected {
            return Err(wrong_count(name, self.len(), shape, expected));
        }
        self.payload(name, data_type).map(Bytes::from)
    }

    fn payload(&self, name: &str, data_type: DataType) -> Result<Vec<u8>, Status> {
        let mut payload = Vec::with_capacity(self.len() * data_type.element_bytes().unwrap_or(8));
        match self {
            Contents::Bool(values) => payload.extend(values.iter().map(|&value| u8::from(value))),
            Contents::Int(values) => push_integers(&mut payload, name, data_type, values)?,
            Contents::Int64(values) => push_integers(&mut payload, name, data_type, values)?,
            Contents::Uint(values) => push_integers(&mut payload, name, data_type, values)?,
            Contents::Uint64(values) => push_integers(&mut payload, name, data_type, values)?,
            Contents::Fp32(values) => payload.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Contents::Fp64(values) => payload.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Contents::Bytes(values) => {
                for (index, element) in values.iter().enumerate() {
                    bytes::push(&mut payload, name, index as u64, element.as_ref())?;
                }
            }
        }
        Ok(payload)
    }
}

fn push_integers<T: Copy + Into<i128>>(
    payload: &mut Vec<u8>,
    name: &str,
    data_type: DataType,
    values: &[T],
) -> Result<(), Status> {
    for (index, &value) in values.iter().enumerate() {
        let value: i128 = value.into();
        push_integer(payload, data_type, value)
            .map_err(|OutOfRange| wrong_element(name, index as u64, value, data_type))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "element_tests.rs"]
mod tests;
