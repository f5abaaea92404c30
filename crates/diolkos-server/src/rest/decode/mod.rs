// SPDX-License-Identifier: Apache-2.0
//! Request body → [`InferCall`]: JSON, JSON with binary tensors behind it, or one raw tensor.
//!
//! ```text
//! body ─┬─ no header ──────────────────────────> all JSON
//!       ├─ Inference-Header-Content-Length: n ─> n bytes of JSON, then tensors in the order of the inputs
//!       └─ Inference-Header-Content-Length: 0 ─> the body is the one input (`raw`)
//! ```
//!
//! The JSON is read in two passes: [`envelope`] takes everything but the tensors' `data`, of which it only
//! remembers where it stands; [`data`] then turns each into the payload of its declared type and shape, and
//! stops at the first value too many. No tree of values is ever built.

pub(crate) mod data;
pub(crate) mod envelope;
pub(crate) mod raw;

use std::borrow::Cow;

use diolkos_backend::{Buffer, Tensor};
use diolkos_engine::NamedTensor;
use diolkos_types::{DataType, Param, Params, RANK_MAX, Shape, Status};
use serde_json::value::RawValue;

use self::envelope::{Envelope, Input, Output, WireParam, WireParams};
use super::rope::Rope;
use crate::oip::params::{self, PARAMS_MAX, RequestParams};
use crate::oip::places::place_of;
use crate::oip::{InferCall, OutputWish};
use crate::system_memory::Place;

/// A decoded request, and how its outputs go back.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// What to run.
    pub(crate) call: InferCall,
    /// How the outputs go back.
    pub(crate) form: OutputForm,
}

/// Which outputs go back in binary form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutputForm {
    /// What holds for outputs that say nothing.
    pub(crate) binary: bool,
    /// Outputs that say something.
    pub(crate) by_name: Vec<(Box<str>, bool)>,
}

impl OutputForm {
    /// Whether this output goes back in binary form.
    pub(crate) fn is_binary(&self, name: &str) -> bool {
        self.by_name.iter().find(|(known, _)| &**known == name).map_or(self.binary, |(_, binary)| *binary)
    }
}

/// Decodes a body. `json_bytes` is the value of `Inference-Header-Content-Length`, which is not 0 here.
pub(crate) fn decode(
    mut body: Rope,
    json_bytes: Option<usize>,
    model: String,
    version: Option<u64>,
) -> Result<Decoded, Status> {
    let total = body.len();
    let json = match json_bytes {
        None => std::mem::take(&mut body),
        Some(length) => body.take(length).ok_or_else(|| {
            Status::invalid(format!(
                "`Inference-Header-Content-Length` says {length} bytes of JSON and the whole body has {total}"
            ))
        })?,
    };
    let json = json.into_bytes();
    let quoted;
    let envelope = match Envelope::parse(&json) {
        Ok(envelope) => envelope,
        // Only what failed is looked at again, so that nobody else pays for it.
        Err(error) => {
            quoted = envelope::quote_bare_floats(&json).ok_or(error)?;
            Envelope::parse(&quoted)?
        }
    };
    let sorted = RequestParams::sort(to_params("the request", envelope.parameters)?)?;
    let mut binary = json_bytes.is_some().then_some(body);
    let inputs = bounded("inputs", envelope.inputs)?;
    let mut in_regions = Vec::new();
    let mut decoded = Vec::with_capacity(inputs.len());
    for input in inputs {
        let (tensor, place) = decode_input(input, binary.as_mut())?;
        in_regions.extend(place.map(|place| (decoded.len(), place)));
        decoded.push(tensor);
    }
    if let Some(left) = binary.filter(|rest| rest.len() > 0) {
        return Err(Status::invalid(format!(
            "{} bytes are left behind the last binary input; the sum of all `binary_data_size` must be the body \
             without its {} bytes of JSON",
            left.len(),
            json.len()
        )));
    }
    let outputs = envelope.outputs.map(|outputs| bounded("outputs", outputs)).transpose()?;
    let (wishes, by_name) = decode_outputs(outputs.unwrap_or_default())?;
    let call = InferCall {
        model,
        version,
        id: envelope.id.map(Cow::into_owned).unwrap_or_default(),
        params: sorted.for_model,
        priority: sorted.priority,
        timeout_us: sorted.timeout_us,
        inputs: decoded,
        in_regions,
        outputs: (!wishes.is_empty()).then_some(wishes),
    };
    Ok(Decoded { call, form: OutputForm { binary: sorted.binary_data_output, by_name } })
}

fn bounded<T>(what: &str, list: envelope::Capped<T>) -> Result<Vec<T>, Status> {
    if list.total > list.items.len() {
        return Err(Status::invalid(format!(
            "the request has {} {what} and at most {} are allowed",
            list.total,
            list.items.len()
        )));
    }
    Ok(list.items)
}

/// An input, and where its payload lies if it is in a region.
fn decode_input(input: Input<'_>, binary: Option<&mut Rope>) -> Result<(NamedTensor, Option<Place>), Status> {
    let name: Box<str> = shown(&input.name)?.into();
    let data_type = decode_type(&name, &input.datatype)?;
    let shape = decode_shape(&name, &input.shape)?;
    let params = to_params(&format!("input `{name}`"), input.parameters)?;
    let place = place_of("input", &name, &params)?;
    let size = match params.get("binary_data_size") {
        Some(size) => Some(
            params::whole("binary_data_size", size)
                .map_err(|error| Status::invalid(format!("input `{name}`: {}", error.message())))?,
        ),
        None => None,
    };
    let data = match (input.data, size) {
        (None, None) if place.is_some() => Buffer::empty(),
        _ if place.is_some() => {
            return Err(Status::invalid(format!(
                "input `{name}` lies in a region (`shared_memory_region`) and has data in the request as well; send one of them"
            )));
        }
        (Some(json), None) => data::payload_from_json(&name, data_type, &shape, json.get())?.into(),
        (None, Some(size)) => take_binary(&name, size, binary)?,
        (Some(_), Some(_)) => {
            return Err(Status::invalid(format!(
                "input `{name}` has both `data` and `binary_data_size`; send one of them"
            )));
        }
        (None, None) => {
            return Err(Status::invalid(format!(
                "input `{name}` has no data; send `data`, or `parameters.binary_data_size` and the bytes behind the JSON"
            )));
        }
    };
    Ok((NamedTensor { name, tensor: Tensor { data_type, shape, data } }, place))
}

/// Names go into messages and logs, so they are bounded before anything else.
fn shown(name: &str) -> Result<&str, Status> {
    const NAME_BYTES_MAX: usize = 1024;
    if name.len() <= NAME_BYTES_MAX {
        return Ok(name);
    }
    Err(Status::invalid(format!("a tensor's name has {} bytes and {NAME_BYTES_MAX} are allowed", name.len())))
}

fn decode_type(name: &str, text: &str) -> Result<DataType, Status> {
    text.parse().map_err(|unknown| {
        let given: String = text.chars().take(40).collect();
        Status::invalid(format!("input `{name}` has datatype `{}`: {unknown}", given.escape_debug()))
    })
}

fn decode_shape(name: &str, lengths: &envelope::Capped<i64>) -> Result<Shape, Status> {
    if lengths.total > RANK_MAX {
        return Err(Status::invalid(format!(
            "input `{name}`: shape has {} dimensions, and the limit is {RANK_MAX}",
            lengths.total
        )));
    }
    Shape::from_signed(&lengths.items)
        .map_err(|error| Status::invalid(format!("input `{name}`: shape {error}")))
}

fn take_binary(name: &str, size: u64, binary: Option<&mut Rope>) -> Result<Buffer, Status> {
    let Some(rest) = binary else {
        return Err(Status::invalid(format!(
            "input `{name}` has `binary_data_size` and the request has no `Inference-Header-Content-Length` header, \
             which says where the JSON ends"
        )));
    };
    let left = rest.len();
    let taken = usize::try_from(size).ok().and_then(|size| rest.take(size));
    taken.map(Rope::into_buffer).ok_or_else(|| {
        Status::invalid(format!(
            "input `{name}` says {size} bytes (`binary_data_size`) and {left} are left in the body"
        ))
    })
}

type Wishes = (Vec<OutputWish>, Vec<(Box<str>, bool)>);

fn decode_outputs(outputs: Vec<Output<'_>>) -> Result<Wishes, Status> {
    let mut wishes = Vec::with_capacity(outputs.len());
    let mut forms = Vec::new();
    for output in outputs {
        let name: Box<str> = shown(&output.name)?.into();
        let params = to_params(&format!("output `{name}`"), output.parameters)?;
        let place = place_of("output", &name, &params)?;
        let of_output = |error: Status| Status::invalid(format!("output `{name}`: {}", error.message()));
        if let Some(binary) = params.get("binary_data") {
            forms.push((name.clone(), params::truth("binary_data", binary).map_err(of_output)?));
        }
        let classification = match params.get("classification") {
            // Zero classes is how clients say that they want none of it.
            Some(count) => {
                Some(params::whole("classification", count).map_err(of_output)?).filter(|&count| count > 0)
            }
            None => None,
        };
        let classification = classification.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        wishes.push(OutputWish { name, classification, place });
    }
    Ok((wishes, forms))
}

/// Parameters of `what`, which messages name.
pub(crate) fn to_params(what: &str, wire: Option<WireParams<'_>>) -> Result<Params, Status> {
    let mut params = Params::new();
    let Some(WireParams(wire)) = wire else { return Ok(params) };
    if wire.total > wire.items.len() {
        return Err(Status::invalid(format!(
            "{what} has {} parameters and {PARAMS_MAX} are allowed",
            wire.total
        )));
    }
    for (name, value) in wire.items {
        let value = match value {
            WireParam::Bool(value) => Param::Bool(value),
            WireParam::Int(value) => Param::Int(value),
            WireParam::Uint(value) => Param::Uint(value),
            WireParam::Double(value) => Param::Double(value),
            WireParam::Text(value) => Param::Text(value.into()),
            WireParam::Other(kind) => {
                let name: String = name.chars().take(100).collect();
                return Err(Status::invalid(format!(
                    "{what}: parameter `{}` is {kind}, and parameters are strings, numbers or booleans",
                    name.escape_debug()
                )));
            }
        };
        params.set(&name, value);
    }
    Ok(params)
}

/// Where a tensor's `data` stands in the JSON.
pub(crate) type Data<'a> = &'a RawValue;

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
