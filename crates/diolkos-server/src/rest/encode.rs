// SPDX-License-Identifier: Apache-2.0
//! [`InferReply`] → response body: JSON, with the tensors that are wanted so in binary form behind it.
//!
//! Binary tensors are handed on as they are, in the pieces that they lie in; only JSON is written.

use bytes::Bytes;
use diolkos_types::{BytesElements, DataType, Status};
use half::f16;
use serde_json::ser::Serializer;

use super::decode::OutputForm;
use crate::oip::{InferReply, ReplyTensor};
use crate::system_memory::Place;

/// A response body.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// Size of the JSON, if binary tensors follow it.
    pub(crate) json_bytes: Option<usize>,
    /// JSON, then tensors.
    pub(crate) chunks: Vec<Bytes>,
}

/// Size of the tensors that [`encode`] has to write as text, which takes about four times as many bytes.
pub(crate) fn json_payload_bytes(reply: &InferReply, form: &OutputForm) -> usize {
    let in_json = reply.outputs.iter().filter(|output| !form.is_binary(&output.name));
    in_json.map(|output| output.data.len()).sum()
}

/// Writes a reply.
pub(crate) fn encode(reply: InferReply, form: &OutputForm) -> Result<Encoded, Status> {
    let mut json = Vec::with_capacity(512);
    json.extend_from_slice(b"{\"model_name\":");
    push_string(&mut json, &reply.model);
    json.extend_from_slice(b",\"model_version\":");
    push_string(&mut json, &reply.version.to_string());
    if !reply.id.is_empty() {
        json.extend_from_slice(b",\"id\":");
        push_string(&mut json, &reply.id);
    }
    json.extend_from_slice(b",\"outputs\":[");
    let mut binary = Vec::new();
    for (index, output) in reply.outputs.into_iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        push_tensor(&mut json, output, form, &mut binary)?;
    }
    json.extend_from_slice(b"]}");
    let json_bytes = (!binary.is_empty()).then_some(json.len());
    let mut chunks = vec![Bytes::from(json)];
    chunks.append(&mut binary);
    Ok(Encoded { json_bytes, chunks })
}

fn push_tensor(
    json: &mut Vec<u8>,
    output: ReplyTensor,
    form: &OutputForm,
    binary: &mut Vec<Bytes>,
) -> Result<(), Status> {
    json.extend_from_slice(b"{\"name\":");
    push_string(json, &output.name);
    json.extend_from_slice(b",\"datatype\":\"");
    json.extend_from_slice(output.data_type.name().as_bytes());
    json.extend_from_slice(b"\",\"shape\":");
    // A shape prints as the JSON list it is.
    json.extend_from_slice(output.shape.to_string().as_bytes());
    if let Some(place) = &output.place {
        push_place(json, place);
        return Ok(());
    }
    if form.is_binary(&output.name) {
        json.extend_from_slice(
            format!(",\"parameters\":{{\"binary_data_size\":{}}}}}", output.data.len()).as_bytes(),
        );
        binary.extend(output.data.to_private_pieces());
        return Ok(());
    }
    json.extend_from_slice(b",\"data\":");
    push_values(json, &output.name, output.data_type, &output.data.to_private())?;
    json.push(b'}');
    Ok(())
}

/// Where the payload is, if it is in a region. Triton's C++ client takes no output with parameters and without
/// `binary_data_size`, and there is nothing of it behind the JSON.
fn push_place(json: &mut Vec<u8>, place: &Place) {
    json.extend_from_slice(b",\"parameters\":{\"binary_data_size\":0,\"shared_memory_region\":");
    push_string(json, &place.region);
    if place.offset > 0 {
        json.extend_from_slice(format!(",\"shared_memory_offset\":{}", place.offset).as_bytes());
    }
    json.extend_from_slice(format!(",\"shared_memory_byte_size\":{}}}}}", place.bytes).as_bytes());
}

/// A JSON string with quotes and escapes.
pub(crate) fn push_string(json: &mut Vec<u8>, text: &str) {
    push_number(json, &text);
}

fn push_number(json: &mut Vec<u8>, value: &impl serde::Serialize) {
    value.serialize(&mut Serializer::new(json)).expect("plain values always serialize into memory");
}

/// The values of a payload as one flat list.
pub(crate) fn push_values(
    json: &mut Vec<u8>,
    name: &str,
    data_type: DataType,
    data: &[u8],
) -> Result<(), Status> {
    macro_rules! push_all {
        ($type:ty, $push:expr) => {
            push_list(json, data.chunks_exact(size_of::<$type>()), |json, bytes| {
                let value =
                    <$type>::from_le_bytes(bytes.try_into().expect("chunks have the width of the type"));
                $push(json, value)
            })
        };
    }
    match data_type {
        DataType::Bool => push_list(json, data.iter(), |json, &value| push_number(json, &(value != 0))),
        DataType::Uint8 => push_all!(u8, |json, value| push_number(json, &value)),
        DataType::Uint16 => push_all!(u16, |json, value| push_number(json, &value)),
        DataType::Uint32 => push_all!(u32, |json, value| push_number(json, &value)),
        DataType::Uint64 => push_all!(u64, |json, value| push_number(json, &value)),
        DataType::Int8 => push_all!(i8, |json, value| push_number(json, &value)),
        DataType::Int16 => push_all!(i16, |json, value| push_number(json, &value)),
        DataType::Int32 => push_all!(i32, |json, value| push_number(json, &value)),
        DataType::Int64 => push_all!(i64, |json, value| push_number(json, &value)),
        DataType::Fp16 => push_all!(f16, |json, value| push_single(json, f16::to_f32(value))),
        DataType::Fp32 => push_all!(f32, push_single),
        DataType::Fp64 => push_all!(f64, push_double),
        DataType::Bytes => push_strings(json, name, data)?,
        DataType::Bf16 => {
            return Err(Status::invalid(format!(
                "output `{name}` is BF16, which has no JSON form; ask for it with `parameters.binary_data: true`"
            )));
        }
    }
    Ok(())
}

fn push_list<T>(json: &mut Vec<u8>, values: impl Iterator<Item = T>, push: impl Fn(&mut Vec<u8>, T)) {
    json.push(b'[');
    for (index, value) in values.enumerate() {
        if index > 0 {
            json.push(b',');
        }
        push(json, value);
    }
    json.push(b']');
}

fn push_single(json: &mut Vec<u8>, value: f32) {
    if value.is_finite() {
        push_number(json, &value);
    } else {
        push_special(json, value.into());
    }
}

fn push_double(json: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        push_number(json, &value);
    } else {
        push_special(json, value);
    }
}

/// What JSON has no word for goes as a string that numpy, Python and JavaScript turn back into the number.
fn push_special(json: &mut Vec<u8>, value: f64) {
    let text: &[u8] = if value.is_nan() {
        b"\"NaN\""
    } else if value > 0.0 {
        b"\"Infinity\""
    } else {
        b"\"-Infinity\""
    };
    json.extend_from_slice(text);
}

fn push_strings(json: &mut Vec<u8>, name: &str, data: &[u8]) -> Result<(), Status> {
    json.push(b'[');
    for (index, element) in BytesElements::new(data).enumerate() {
        if index > 0 {
            json.push(b',');
        }
        let element = element.map_err(|error| {
            Status::new(diolkos_types::Code::Internal, format!("output `{name}` is damaged: {error}"))
        })?;
        let text = std::str::from_utf8(element).map_err(|_| {
            Status::invalid(format!(
                "output `{name}`: element {index} is no UTF-8 and so has no JSON form; ask for it with \
                 `parameters.binary_data: true`"
            ))
        })?;
        push_string(json, text);
    }
    json.push(b']');
    Ok(())
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
