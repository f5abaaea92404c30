// SPDX-License-Identifier: Apache-2.0
//! Signatures and parameters, whose types the vocabulary has.
//!
//! ```text
//! Signature  inputs: list of Spec, outputs: list of Spec
//! Spec       name: text, data_type: u8, flags: u8 (bit 0 optional, bit 1 any type),
//!            shape: u8 (0 = any, 1 = rank: u8 and that many Dim)
//! Dim        u8 0 and the length: u64, or u8 1 and the longest length: u64
//! Params     list of name: text, u8 and the value:
//!            1 bool: u8 │ 2 i64 │ 3 u64 │ 4 f64 │ 5 text
//! ```

use alloc::boxed::Box;
use alloc::vec::Vec;

use diolkos_types::{DataType, Dim, Param, Params, RANK_MAX, Signature, TensorSpec};

use crate::cursor::{Item, Reader, Wire, Writer};
use crate::error::{DecodeError, EncodeError};
use crate::limits::{
    PARAM_NAME_BYTES_MAX, PARAM_TEXT_BYTES_MAX, PARAMS_MAX, TENSOR_NAME_BYTES_MAX, TENSORS_MAX,
};
use crate::tensor::rank;

impl Wire for Signature {
    fn write(&self, to: &mut Writer<'_>) {
        to.list("inputs", TENSORS_MAX, &self.inputs);
        to.list("outputs", TENSORS_MAX, &self.outputs);
    }

    fn read(from: &mut Reader<'_>) -> Result<Signature, DecodeError> {
        Ok(Signature {
            inputs: from.list("inputs", TENSORS_MAX)?.into(),
            outputs: from.list("outputs", TENSORS_MAX)?.into(),
        })
    }
}

const OPTIONAL: u8 = 1;
const ANY_TYPE: u8 = 2;

impl Wire for TensorSpec {
    fn write(&self, to: &mut Writer<'_>) {
        to.text("tensor name", TENSOR_NAME_BYTES_MAX, &self.name);
        self.data_type.write(to);
        let optional = if self.optional { OPTIONAL } else { 0 };
        let any_type = if self.any_type { ANY_TYPE } else { 0 };
        to.u8(optional | any_type);
        to.bool(self.dims.is_some());
        let Some(dims) = &self.dims else { return };
        match u8::try_from(dims.len()) {
            Ok(rank) if dims.len() <= RANK_MAX => {
                to.u8(rank);
                dims.iter().for_each(|dim| dim.write(to));
            }
            _ => to.refuse(EncodeError::TooMany { what: "shape", max: RANK_MAX, given: dims.len() }),
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<TensorSpec, DecodeError> {
        let name = from.text("tensor name", TENSOR_NAME_BYTES_MAX)?.into();
        let data_type = DataType::read(from)?;
        let flags = from.u8("flags of the tensor")?;
        let known = OPTIONAL | ANY_TYPE;
        if flags & !known != 0 {
            let what = "flags of the tensor";
            return Err(DecodeError::UnknownFlags { what, given: flags.into(), known: known.into() });
        }
        let dims = if from.bool("shape")? { Some(dims(from)?) } else { None };
        let (optional, any_type) = (flags & OPTIONAL != 0, flags & ANY_TYPE != 0);
        Ok(TensorSpec { name, data_type, dims, optional, any_type })
    }
}

fn dims(from: &mut Reader<'_>) -> Result<Box<[Dim]>, DecodeError> {
    let rank = rank(from)?;
    let mut dims = Vec::with_capacity(rank);
    for _ in 0..rank {
        dims.push(Dim::read(from)?);
    }
    Ok(dims.into())
}

impl Item for TensorSpec {
    // A nameless tensor of any shape: length of the name, type, flags, shape.
    const BYTES_MIN: usize = 2 + 1 + 1 + 1;
}

const FIXED: u8 = 0;
const VARIABLE: u8 = 1;

impl Wire for Dim {
    fn write(&self, to: &mut Writer<'_>) {
        let (tag, length) = match *self {
            Dim::Fixed(length) => (FIXED, length),
            Dim::Variable { max } => (VARIABLE, max),
        };
        to.u8(tag);
        to.u64(length);
    }

    fn read(from: &mut Reader<'_>) -> Result<Dim, DecodeError> {
        match from.u8("dimension")? {
            FIXED => Ok(Dim::Fixed(from.u64("dimension")?)),
            VARIABLE => Ok(Dim::Variable { max: from.u64("dimension")? }),
            given => {
                Err(DecodeError::UnknownNumber { what: "dimension", given, first: FIXED, last: VARIABLE })
            }
        }
    }
}

const BOOL: u8 = 1;
const INT: u8 = 2;
const UINT: u8 = 3;
const DOUBLE: u8 = 4;
const TEXT: u8 = 5;

/// A nameless flag: length of the name, type, value.
const PARAM_BYTES_MIN: usize = 2 + 1 + 1;

impl Wire for Params {
    fn write(&self, to: &mut Writer<'_>) {
        if !to.count("params", PARAMS_MAX, self.iter().count()) {
            return;
        }
        for (name, value) in self.iter() {
            to.text("parameter name", PARAM_NAME_BYTES_MAX, name);
            value.write(to);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Params, DecodeError> {
        let mut params = Params::new();
        for index in 0..from.count("params", PARAMS_MAX, PARAM_BYTES_MIN)? {
            let name = from.text("parameter name", PARAM_NAME_BYTES_MAX)?;
            // A search in a list: PARAMS_MAX keeps it short.
            if params.get(name).is_some() {
                return Err(DecodeError::DuplicateParam { index });
            }
            params.set(name, Param::read(from)?);
        }
        Ok(params)
    }
}

impl Wire for Param {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Param::Bool(value) => {
                to.u8(BOOL);
                to.bool(*value);
            }
            Param::Int(value) => {
                to.u8(INT);
                to.i64(*value);
            }
            Param::Uint(value) => {
                to.u8(UINT);
                to.u64(*value);
            }
            Param::Double(value) => {
                to.u8(DOUBLE);
                to.f64(*value);
            }
            Param::Text(value) => {
                to.u8(TEXT);
                to.text("parameter value", PARAM_TEXT_BYTES_MAX, value);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Param, DecodeError> {
        const WHAT: &str = "parameter value";
        match from.u8("type of the parameter")? {
            BOOL => from.bool(WHAT).map(Param::Bool),
            INT => from.i64(WHAT).map(Param::Int),
            UINT => from.u64(WHAT).map(Param::Uint),
            DOUBLE => from.f64(WHAT).map(Param::Double),
            TEXT => from.text(WHAT, PARAM_TEXT_BYTES_MAX).map(|text| Param::Text(text.into())),
            given => {
                let what = "type of the parameter";
                Err(DecodeError::UnknownNumber { what, given, first: BOOL, last: TEXT })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(value: &impl Wire) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        let mut to = Writer::new(&mut out);
        value.write(&mut to);
        to.finish().map(|()| out)
    }

    #[test]
    fn a_name_comes_once() {
        let twice = [2, 0, 1, 0, b'a', 1, 1, 1, 0, b'a', 1, 0];
        let refused = Params::read(&mut Reader::new(&twice));
        assert_eq!(refused, Err(DecodeError::DuplicateParam { index: 1 }));
    }

    #[test]
    fn what_goes_beyond_a_bound_is_not_written() {
        let spec = TensorSpec::new("x", DataType::Fp32, &[Dim::Fixed(1); RANK_MAX + 1]);
        let error = EncodeError::TooMany { what: "shape", max: RANK_MAX, given: RANK_MAX + 1 };
        assert_eq!(encoded(&spec), Err(error));
        let mut params = Params::new();
        for index in 0..=PARAMS_MAX {
            params.set(&alloc::format!("{index}"), Param::Bool(true));
        }
        let error = EncodeError::TooMany { what: "params", max: PARAMS_MAX, given: PARAMS_MAX + 1 };
        assert_eq!(encoded(&params), Err(error));
    }

    #[test]
    fn the_smallest_entries_are_as_small_as_said() {
        let spec = TensorSpec::any_shape("", DataType::Bool);
        assert_eq!(encoded(&spec).unwrap().len(), TensorSpec::BYTES_MIN);
        let mut params = Params::new();
        params.set("", Param::Bool(false));
        assert_eq!(encoded(&params).unwrap().len(), 2 + PARAM_BYTES_MIN);
    }
}
