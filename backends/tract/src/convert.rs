// SPDX-License-Identifier: Apache-2.0
//! Between the protocol's payloads and tract's tensors.
//!
//! In: one copy, straight into the tensor. Out: none for fixed-size elements, since the reply's bytes
//! keep the tensor alive.

use std::sync::Arc;

use bytes::Bytes;
use diolkos_backend::{Buffer, Tensor};
use diolkos_types::{BytesElements, DataType, Shape, push_bytes_element};
use tract_onnx::prelude::tract_ndarray::{ArrayD, IxDyn};
use tract_onnx::prelude::{DatumType, Tensor as TractTensor, TractResult};

/// tract's name of a data type; `None` where it has none.
pub(crate) fn to_datum_type(data_type: DataType) -> Option<DatumType> {
    Some(match data_type {
        DataType::Bool => DatumType::Bool,
        DataType::Uint8 => DatumType::U8,
        DataType::Uint16 => DatumType::U16,
        DataType::Uint32 => DatumType::U32,
        DataType::Uint64 => DatumType::U64,
        DataType::Int8 => DatumType::I8,
        DataType::Int16 => DatumType::I16,
        DataType::Int32 => DatumType::I32,
        DataType::Int64 => DatumType::I64,
        DataType::Fp16 => DatumType::F16,
        DataType::Fp32 => DatumType::F32,
        DataType::Fp64 => DatumType::F64,
        DataType::Bytes => DatumType::String,
        DataType::Bf16 => return None,
    })
}

/// The data type in which a tensor of this type is given out; `None` for types with no counterpart.
pub(crate) fn to_data_type(datum_type: DatumType) -> Option<DataType> {
    // tract types shapes and whatever is computed from them as symbolic dimensions; a run settles them.
    if datum_type == DatumType::TDim {
        return Some(DataType::Int64);
    }
    DataType::ALL.into_iter().find(|&d| to_datum_type(d) == Some(datum_type))
}

/// The lengths as tract takes them; `None` where one does not fit.
pub(crate) fn to_dims(shape: &Shape) -> Option<Vec<usize>> {
    shape.dims().iter().map(|&length| usize::try_from(length).ok()).collect()
}

/// An input as tract takes it. The error is the end of a sentence that begins with the input.
pub(crate) fn to_tract(tensor: &Tensor) -> Result<TractTensor, String> {
    let dims = to_dims(&tensor.shape).ok_or("is too large")?;
    // tract multiplies dimensions without looking for overflow, so this comes first.
    let elements = tensor.shape.elements().ok_or("is too large")?;
    if tensor.data_type != DataType::Bytes
        && tensor.data_type.payload_bytes(elements) != Some(tensor.data.len())
    {
        return Err(format!("has {} bytes for {elements} elements", tensor.data.len()));
    }
    let made = match tensor.data_type {
        DataType::Bytes => return strings_to_tract(&tensor.data, &dims),
        DataType::Bool => bools_to_tract(&tensor.data, &dims),
        DataType::Fp32 => copied::<f32>(&tensor.data, &dims, DatumType::F32),
        DataType::Uint8 => copied::<u8>(&tensor.data, &dims, DatumType::U8),
        DataType::Int64 => copied::<i64>(&tensor.data, &dims, DatumType::I64),
        other => {
            let datum_type = to_datum_type(other).ok_or_else(|| format!("has type {other}"))?;
            filled(&tensor.data, &dims, datum_type)
        }
    };
    made.map_err(|error| format!("can't become a tensor: {error:#}"))
}

/// Copies once where the payload is a slice that is aligned for the element.
fn copied<T>(data: &Buffer, dims: &[usize], datum_type: DatumType) -> TractResult<TractTensor>
where
    T: bytemuck::AnyBitPattern + tract_onnx::prelude::Datum + Copy,
{
    match data.as_slice().map(bytemuck::try_cast_slice::<u8, T>) {
        Some(Ok(elements)) => TractTensor::from_shape(dims, elements),
        Some(Err(_)) | None => filled(data, dims, datum_type),
    }
}

/// For memory that is no slice, or not aligned: safe Rust has no uninitialised tensor, so it is zeroed first.
fn filled(data: &Buffer, dims: &[usize], datum_type: DatumType) -> TractResult<TractTensor> {
    let mut tensor = TractTensor::zero_dt(datum_type, dims)?;
    data.copy_to(tensor.as_bytes_mut());
    Ok(tensor)
}

/// A `bool` that is neither 0 nor 1 must never exist, and the payload is the client's.
fn bools_to_tract(data: &Buffer, dims: &[usize]) -> TractResult<TractTensor> {
    let private = data.to_private();
    let bools: Vec<bool> = private.iter().map(|&byte| byte != 0).collect();
    TractTensor::from_shape(dims, &bools)
}

fn strings_to_tract(data: &Buffer, dims: &[usize]) -> Result<TractTensor, String> {
    let private = data.to_private();
    let mut strings = Vec::new();
    for (index, element) in BytesElements::new(&private).enumerate() {
        let element = element.map_err(|error| format!("is damaged: {error}"))?;
        let text = std::str::from_utf8(element).map_err(|_| {
            format!("has an element ({index}) that is no UTF-8 text, and ONNX strings are text")
        })?;
        strings.push(text.to_owned());
    }
    let array = ArrayD::from_shape_vec(IxDyn(dims), strings);
    Ok(array.map_err(|error| format!("has another number of elements than its shape: {error}"))?.into())
}

/// An output as the protocol carries it.
pub(crate) struct Given {
    pub(crate) data_type: DataType,
    pub(crate) shape: Shape,
    pub(crate) data: Bytes,
}

/// Memory of a tensor that outlives the run.
struct Held(Arc<TractTensor>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Takes an output over. The error is a whole sentence's end, about the output.
pub(crate) fn from_tract(tensor: Arc<TractTensor>) -> Result<Given, String> {
    let datum_type = tensor.datum_type();
    let data_type =
        to_data_type(datum_type.unquantized()).ok_or_else(|| format!("has type {datum_type:?}"))?;
    let lengths: Vec<u64> = tensor.shape().iter().map(|&length| length as u64).collect();
    let shape = Shape::new(&lengths).map_err(|error| error.to_string())?;
    let elements = shape.elements().ok_or("has too many elements")?;
    let data = if data_type == DataType::Bytes {
        strings_from_tract(&tensor)?
    } else {
        if !tensor.is_plain_ram() {
            return Err("is in a layout private to tract".into());
        }
        let held = Held(tensor);
        let bytes = data_type.payload_bytes(elements);
        if bytes != Some(held.as_ref().len()) {
            return Err(format!("has {} bytes for {elements} elements", held.as_ref().len()));
        }
        Bytes::from_owner(held)
    };
    Ok(Given { data_type, shape, data })
}

fn strings_from_tract(tensor: &TractTensor) -> Result<Bytes, String> {
    let view = tensor.to_plain_array_view::<String>().map_err(|error| error.to_string())?;
    let mut payload = Vec::new();
    for text in view.iter() {
        push_bytes_element(&mut payload, text.as_bytes()).map_err(|error| error.to_string())?;
    }
    Ok(payload.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(data_type: DataType, dims: &[u64], data: impl Into<Buffer>) -> Tensor {
        Tensor { data_type, shape: Shape::new(dims).unwrap(), data: data.into() }
    }

    #[test]
    fn every_type_round_trips_at_any_alignment() {
        for data_type in DataType::ALL {
            let Some(size) = data_type.element_bytes() else { continue };
            let bytes: Vec<u8> = (0..6 * size).map(|i| if size == 1 { i % 2 } else { i } as u8).collect();
            for shift in 0..size {
                let padded = Bytes::from([vec![9; shift], bytes.clone()].concat());
                let given = tensor(data_type, &[2, 3], padded.slice(shift..));
                let Ok(made) = to_tract(&given) else {
                    assert_eq!(data_type, DataType::Bf16);
                    continue;
                };
                let back = from_tract(Arc::new(made)).unwrap();
                assert_eq!((back.data_type, back.shape), (data_type, given.shape));
                assert_eq!(back.data, bytes);
            }
        }
    }

    #[test]
    fn extents_are_gathered() {
        let parts = [Buffer::from(vec![0, 0, 128]), Buffer::from(vec![63, 0, 0, 0, 64])];
        let made = to_tract(&tensor(DataType::Fp32, &[2], Buffer::concat(&parts).unwrap())).unwrap();
        assert_eq!(made, TractTensor::from_shape(&[2], &[1f32, 2.0]).unwrap());
    }

    #[test]
    fn any_byte_is_a_bool() {
        let made = to_tract(&tensor(DataType::Bool, &[3], vec![0, 1, 255])).unwrap();
        assert_eq!(from_tract(Arc::new(made)).unwrap().data[..], [0, 1, 1]);
    }

    #[test]
    fn strings_must_be_text() {
        let mut payload = Vec::new();
        push_bytes_element(&mut payload, "naïve".as_bytes()).unwrap();
        let made = to_tract(&tensor(DataType::Bytes, &[1], payload.clone())).unwrap();
        assert_eq!(from_tract(Arc::new(made)).unwrap().data, payload);
        push_bytes_element(&mut payload, &[0xff]).unwrap();
        assert!(to_tract(&tensor(DataType::Bytes, &[2], payload.clone())).unwrap_err().contains("UTF-8"));
        assert!(to_tract(&tensor(DataType::Bytes, &[9], payload[..9].to_vec())).is_err());
    }

    #[test]
    fn lengths_that_do_not_fit_are_errors() {
        assert!(to_tract(&tensor(DataType::Fp32, &[2], vec![0; 7])).is_err());
        assert!(to_tract(&tensor(DataType::Uint16, &[2], vec![0; 7])).is_err());
        assert!(to_tract(&tensor(DataType::Bool, &[2], vec![0; 7])).is_err());
        assert!(to_tract(&tensor(DataType::Fp64, &[u64::MAX, 3], vec![0; 7])).is_err());
        assert!(to_tract(&tensor(DataType::Bytes, &[2], vec![0; 4])).is_err());
    }
}
