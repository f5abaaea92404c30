// SPDX-License-Identifier: Apache-2.0
//! The raw form: `Inference-Header-Content-Length: 0`, and the body is the one input.
//!
//! Nothing in the request says type or shape, so the model must leave no choice: one required input, one data
//! type, and at most one open dimension beside the batch, which counts as one row. A `BYTES` input must be a
//! single element, and the body is its text without a length.

use diolkos_backend::{Buffer, Tensor};
use diolkos_engine::NamedTensor;
use diolkos_types::{DataType, Dim, Params, Shape, Signature, Status, TensorSpec};

use super::{Decoded, OutputForm};
use crate::oip::InferCall;
use crate::rest::rope::Rope;

/// Decodes a raw body for a model with this signature; `batched` if the first dimension is the batch.
pub(crate) fn decode(
    body: Rope,
    signature: &Signature,
    batched: bool,
    model: String,
    version: Option<u64>,
) -> Result<Decoded, Status> {
    let spec = only_input(signature)?;
    let shape = deduce_shape(spec, batched, body.len())?;
    let data = if spec.data_type == DataType::Bytes { as_element(spec, body)? } else { body.into_buffer() };
    let input =
        NamedTensor { name: spec.name.clone(), tensor: Tensor { data_type: spec.data_type, shape, data } };
    let call = InferCall {
        model,
        version,
        id: String::new(),
        params: Params::new(),
        priority: 0,
        timeout_us: None,
        inputs: vec![input],
        in_regions: Vec::new(),
        outputs: None,
    };
    Ok(Decoded { call, form: OutputForm { binary: true, by_name: Vec::new() } })
}

const INSTEAD: &str = "send JSON with `binary_data_size` instead";

fn only_input(signature: &Signature) -> Result<&TensorSpec, Status> {
    let mut required = signature.inputs.iter().filter(|spec| !spec.optional);
    match (required.next(), required.next(), &*signature.inputs) {
        (Some(spec), None, _) => Ok(spec),
        (None, None, [spec]) => Ok(spec),
        _ => Err(Status::invalid(format!(
            "a raw body (`Inference-Header-Content-Length: 0`) needs a model with one input and this one has {}; {INSTEAD}",
            signature.inputs.len()
        ))),
    }
}

fn deduce_shape(spec: &TensorSpec, batched: bool, body_bytes: usize) -> Result<Shape, Status> {
    let refuse = |why: String| {
        Status::invalid(format!("the raw body can't be input `{}`: {why}; {INSTEAD}", spec.name))
    };
    if spec.any_type {
        return Err(refuse("it takes several data types".into()));
    }
    let Some(dims) = spec.dims.as_deref() else {
        return Err(refuse("it takes any shape".into()));
    };
    let mut shape = Shape::SCALAR;
    let mut open = None;
    for (index, dim) in dims.iter().enumerate() {
        let length = match *dim {
            _ if batched && index == 0 => 1,
            Dim::Fixed(length) => length,
            Dim::Variable { .. } if open.is_none() => {
                open = Some(index);
                1
            }
            Dim::Variable { .. } => {
                return Err(refuse(format!("its shape {spec} leaves more than one dimension open")));
            }
        };
        shape.push(length).map_err(|error| refuse(format!("its shape {spec} {error}")))?;
    }
    let row = shape.elements().ok_or_else(|| refuse(format!("its shape {spec} overflows")))?;
    let Some(width) = spec.data_type.element_bytes() else {
        // The text says nothing of how many elements it is, so there must be one.
        return if open.is_none() && row == 1 {
            Ok(shape)
        } else {
            Err(refuse(format!("BYTES of shape {spec} is more than one element")))
        };
    };
    let Some(open) = open else { return Ok(shape) };
    let row_bytes = row.checked_mul(width as u64).filter(|&bytes| bytes > 0);
    let row_bytes = row_bytes.ok_or_else(|| refuse(format!("its shape {spec} has no size")))?;
    if !(body_bytes as u64).is_multiple_of(row_bytes) {
        return Err(refuse(format!(
            "{body_bytes} bytes are no whole number of {} {spec} at {row_bytes} bytes for each of the open dimension",
            spec.data_type
        )));
    }
    let mut lengths = shape.dims().to_vec();
    lengths[open] = body_bytes as u64 / row_bytes;
    Shape::new(&lengths).map_err(|error| refuse(error.to_string()))
}

/// One `BYTES` element: the length that the payload needs, and the body behind it, uncopied.
fn as_element(spec: &TensorSpec, body: Rope) -> Result<Buffer, Status> {
    let length = u32::try_from(body.len()).map_err(|_| {
        Status::invalid(format!("input `{}`: one BYTES element may have {} bytes", spec.name, u32::MAX))
    })?;
    let parts = [Buffer::from(length.to_le_bytes().to_vec()), body.into_buffer()];
    Ok(Buffer::concat(&parts).expect("four bytes and a body fit into an address space"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const OPEN: Dim = Dim::Variable { max: 1000 };

    fn raw(
        data_type: DataType,
        dims: &[Dim],
        batched: bool,
        body: &'static [u8],
    ) -> Result<(String, Vec<u8>), String> {
        let signature =
            Signature { inputs: [TensorSpec::new("x", data_type, dims)].into(), outputs: [].into() };
        let rope = Rope::from(Bytes::from_static(body));
        let decoded =
            decode(rope, &signature, batched, "m".into(), None).map_err(|e| e.message().to_owned())?;
        assert!(decoded.form.is_binary("anything"));
        let tensor = &decoded.call.inputs[0].tensor;
        Ok((tensor.shape.to_string(), tensor.data.to_private().to_vec()))
    }

    #[test]
    fn the_open_dimension_follows_from_the_size() {
        assert_eq!(raw(DataType::Uint16, &[OPEN, Dim::Fixed(2)], false, b"abcdefgh").unwrap().0, "[2,2]");
        assert_eq!(raw(DataType::Uint16, &[Dim::Fixed(2), OPEN], false, b"abcd").unwrap().0, "[2,1]");
        assert_eq!(raw(DataType::Uint8, &[OPEN], false, b"").unwrap().0, "[0]");
        assert_eq!(
            raw(DataType::Uint8, &[Dim::Fixed(3)], false, b"abc").unwrap(),
            ("[3]".into(), b"abc".to_vec())
        );
        let error = raw(DataType::Uint16, &[OPEN, Dim::Fixed(2)], false, b"abcde").unwrap_err();
        assert!(error.contains("5 bytes are no whole number"), "{error}");
    }

    #[test]
    fn the_batch_is_one_row() {
        assert_eq!(raw(DataType::Uint8, &[OPEN, OPEN], true, b"abc").unwrap().0, "[1,3]");
        assert!(
            raw(DataType::Uint8, &[OPEN, OPEN], false, b"abc")
                .unwrap_err()
                .contains("more than one dimension open")
        );
    }

    #[test]
    fn text_is_one_element() {
        let (shape, data) = raw(DataType::Bytes, &[Dim::Fixed(1)], false, b"hi").unwrap();
        assert_eq!((shape.as_str(), &data[..]), ("[1]", &[2, 0, 0, 0, b'h', b'i'][..]));
        assert_eq!(raw(DataType::Bytes, &[OPEN, Dim::Fixed(1)], true, b"").unwrap().1, [0; 4]);
        assert!(raw(DataType::Bytes, &[OPEN], false, b"hi").unwrap_err().contains("more than one element"));
    }

    #[test]
    fn a_choice_is_refused() {
        assert!(raw(DataType::Uint8, &[OPEN, Dim::Fixed(0)], false, b"").unwrap_err().contains("no size"));
        let two = Signature {
            inputs: [TensorSpec::new("a", DataType::Uint8, &[]), TensorSpec::new("b", DataType::Uint8, &[])]
                .into(),
            outputs: [].into(),
        };
        let error = decode(Rope::default(), &two, false, "m".into(), None).unwrap_err();
        assert!(error.message().contains("this one has 2"));
        let any =
            Signature { inputs: [TensorSpec::any_shape("a", DataType::Uint8)].into(), outputs: [].into() };
        let error = decode(Rope::default(), &any, false, "m".into(), None).unwrap_err();
        assert!(error.message().contains("any shape"));
    }
}
