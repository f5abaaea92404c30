// SPDX-License-Identifier: Apache-2.0
//! A `ModelInferRequest` as the protocol-neutral [`InferCall`].
//!
//! Raw payloads are moved, never copied. Typed contents become payloads here, with the checks of each
//! type; whether tensors fit the model is admission's business.

use std::collections::HashMap;

use bytes::Bytes;
use diolkos_backend::{Buffer, Tensor};
use diolkos_engine::NamedTensor;
use diolkos_types::{DataType, Param, Params, Shape, Status};

use super::deadline::CallDeadline;
use super::pb::infer_parameter::ParameterChoice;
use super::pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::pb::{InferParameter, InferTensorContents, ModelInferRequest};
use crate::oip::element::{Contents, elements_of, wrong_count};
use crate::oip::params::{PARAMS_MAX, RequestParams, whole};
use crate::oip::places::{self, place_of};
use crate::oip::{InferCall, OutputWish, parse_version};
use crate::system_memory::Place;

/// Longest name of a tensor, in bytes. Names come back in error messages, and those travel in headers.
const NAME_BYTES_MAX: usize = 1024;

/// Asks for a last, empty answer from models that give many; here every answer is the last.
const EMPTY_FINAL_RESPONSE: &str = "triton_enable_empty_final_response";

/// Bytes of payload that a request carries, about.
pub(crate) fn payload_bytes(request: &ModelInferRequest) -> usize {
    let raw: usize = request.raw_input_contents.iter().map(Bytes::len).sum();
    raw.saturating_add(typed_bytes(request))
}

/// Bytes that a request wants to have copied from regions, as it says.
pub(crate) fn region_bytes(request: &ModelInferRequest) -> usize {
    let sizes = request.inputs.iter().filter_map(|input| {
        input.parameters.get(places::REGION)?;
        match input.parameters.get(places::BYTES)?.parameter_choice.as_ref()? {
            ParameterChoice::Int64Param(bytes) => usize::try_from(*bytes).ok(),
            ParameterChoice::Uint64Param(bytes) => usize::try_from(*bytes).ok(),
            _ => None,
        }
    });
    sizes.fold(0, usize::saturating_add)
}

/// Bytes that typed contents become, about: what converting them costs.
pub(crate) fn typed_bytes(request: &ModelInferRequest) -> usize {
    let contents = request.inputs.iter().filter_map(|input| input.contents.as_ref());
    contents.fold(0, |sum, contents| sum.saturating_add(bytes_of(contents)))
}

fn bytes_of(contents: &InferTensorContents) -> usize {
    let strings: usize = contents.bytes_contents.iter().map(|element| element.len() + 4).sum();
    contents.bool_contents.len()
        + 4 * (contents.int_contents.len() + contents.uint_contents.len() + contents.fp32_contents.len())
        + 8 * (contents.int64_contents.len() + contents.uint64_contents.len() + contents.fp64_contents.len())
        + strings
}

/// What the request asks for. `deadline` is that of the whole call.
pub(crate) fn to_call(
    request: ModelInferRequest,
    deadline: Option<CallDeadline>,
) -> Result<InferCall, Status> {
    let ModelInferRequest {
        model_name,
        model_version,
        id,
        mut parameters,
        inputs,
        outputs,
        raw_input_contents,
    } = request;
    let version = parse_version(&model_version)?;
    parameters.remove(EMPTY_FINAL_RESPONSE);
    let RequestParams { priority, timeout_us, for_model, .. } =
        RequestParams::sort(to_params("the request", parameters)?)?;
    let left_us = deadline.map(CallDeadline::left_us);
    let inputs = if raw_input_contents.is_empty() {
        typed_inputs(inputs)
    } else {
        raw_inputs(inputs, raw_input_contents)
    };
    let Inputs { tensors, in_regions } = inputs?;
    Ok(InferCall {
        model: model_name,
        version,
        id,
        params: for_model,
        priority,
        timeout_us: match (timeout_us, left_us) {
            (Some(timeout), Some(left)) => Some(timeout.min(left)),
            (one, other) => one.or(other),
        },
        inputs: tensors,
        in_regions,
        outputs: to_wishes(outputs)?,
    })
}

/// Inputs, and which of them, empty until they are fetched, lie in regions.
#[derive(Default)]
struct Inputs {
    tensors: Vec<NamedTensor>,
    in_regions: Vec<(usize, Place)>,
}

impl Inputs {
    fn push(&mut self, input: Head, payload: Buffer) {
        let Head { name, data_type, shape, place, .. } = input;
        self.in_regions.extend(place.map(|place| (self.tensors.len(), place)));
        self.tensors.push(NamedTensor { name, tensor: Tensor { data_type, shape, data: payload } });
    }
}

/// Inputs in regions have no entry among the payloads, and need no other form.
fn raw_inputs(inputs: Vec<InferInputTensor>, payloads: Vec<Bytes>) -> Result<Inputs, Status> {
    let sent: Vec<&InferInputTensor> =
        inputs.iter().filter(|input| !names_region(&input.parameters)).collect();
    if sent.len() != payloads.len() {
        let named: Vec<&str> = sent.iter().take(8).map(|input| clip(&input.name)).collect();
        return Err(Status::invalid(format!(
            "`raw_input_contents` has {} payloads for {} inputs ({}{}); send one for each input, in their order",
            payloads.len(),
            sent.len(),
            named.join(", "),
            if sent.len() > named.len() { ", ..." } else { "" },
        )));
    }
    let mut found = Inputs::default();
    let mut payloads = payloads.into_iter();
    for input in inputs {
        let head = head(input)?;
        let payload = if head.place.is_some() {
            Buffer::empty()
        } else if head.contents.is_some() {
            return Err(Status::invalid(format!(
                "input `{}` has typed `contents` in a request with `raw_input_contents`; use one form for all",
                head.name
            )));
        } else {
            payloads.next().expect("there is one for each input that is in no region").into()
        };
        found.push(head, payload);
    }
    Ok(found)
}

fn typed_inputs(inputs: Vec<InferInputTensor>) -> Result<Inputs, Status> {
    let mut found = Inputs::default();
    for input in inputs {
        let mut head = head(input)?;
        let payload = if head.place.is_some() {
            Buffer::empty()
        } else {
            let contents = head.contents.take().unwrap_or_default();
            typed_payload(&head.name, head.data_type, &head.shape, &contents)?.into()
        };
        found.push(head, payload);
    }
    Ok(found)
}

fn typed_payload(
    name: &str,
    data_type: DataType,
    shape: &Shape,
    contents: &InferTensorContents,
) -> Result<Bytes, Status> {
    let mut filled = lists(contents).into_iter().flatten();
    match (filled.next(), filled.next()) {
        (Some(list), None) => list.encode(name, data_type, shape),
        (Some(one), Some(other)) => Err(Status::invalid(format!(
            "input `{name}` has values in `contents.{}` and in `contents.{}`; {data_type} goes into one list",
            one.field(),
            other.field()
        ))),
        (None, _) => match elements_of(name, shape)? {
            0 => Ok(Bytes::new()),
            expected => Err(wrong_count(name, 0, shape, expected)),
        },
    }
}

/// The lists that have values.
fn lists(contents: &InferTensorContents) -> [Option<Contents<'_, Bytes>>; 8] {
    fn some<'a, T>(list: &'a [T], kind: fn(&'a [T]) -> Contents<'a, Bytes>) -> Option<Contents<'a, Bytes>> {
        (!list.is_empty()).then(|| kind(list))
    }
    [
        some(&contents.bool_contents, Contents::Bool),
        some(&contents.int_contents, Contents::Int),
        some(&contents.int64_contents, Contents::Int64),
        some(&contents.uint_contents, Contents::Uint),
        some(&contents.uint64_contents, Contents::Uint64),
        some(&contents.fp32_contents, Contents::Fp32),
        some(&contents.fp64_contents, Contents::Fp64),
        some(&contents.bytes_contents, Contents::Bytes),
    ]
}

/// An input without its payload.
struct Head {
    name: Box<str>,
    data_type: DataType,
    shape: Shape,
    contents: Option<InferTensorContents>,
    /// Where its payload lies if it is in a region; there are no contents then.
    place: Option<Place>,
}

fn names_region(parameters: &HashMap<String, InferParameter>) -> bool {
    parameters.contains_key(places::REGION)
}

/// Other parameters of tensors mean nothing, so they are looked at only where a region is named.
fn place_in(
    what: &str,
    name: &str,
    parameters: HashMap<String, InferParameter>,
) -> Result<Option<Place>, Status> {
    if !names_region(&parameters) {
        return Ok(None);
    }
    place_of(what, name, &to_params(&format!("{what} `{name}`"), parameters)?)
}

fn head(input: InferInputTensor) -> Result<Head, Status> {
    let InferInputTensor { name, datatype, shape, parameters, contents } = input;
    let name = tensor_name("input", name)?;
    let place = place_in("input", &name, parameters)?;
    if place.is_some() && contents.is_some() {
        return Err(Status::invalid(format!(
            "input `{name}` lies in a region (`shared_memory_region`) and has `contents` as well; send one of them"
        )));
    }
    let data_type = datatype.parse().map_err(|error| {
        Status::invalid(format!("input `{name}` has data type `{}`: {error}", clip(&datatype).escape_debug()))
    })?;
    let shape =
        Shape::from_signed(&shape).map_err(|error| Status::invalid(format!("input `{name}` {error}")))?;
    Ok(Head { name, data_type, shape, contents, place })
}

fn to_wishes(outputs: Vec<InferRequestedOutputTensor>) -> Result<Option<Vec<OutputWish>>, Status> {
    if outputs.is_empty() {
        return Ok(None);
    }
    outputs.into_iter().map(to_wish).collect::<Result<Vec<_>, _>>().map(Some)
}

fn to_wish(output: InferRequestedOutputTensor) -> Result<OutputWish, Status> {
    let InferRequestedOutputTensor { name, parameters } = output;
    let name = tensor_name("output", name)?;
    let params = to_params(&format!("output `{name}`"), parameters)?;
    let place = place_of("output", &name, &params)?;
    let classification = match params.get("classification") {
        // Zero classes is how clients say that they want none of it.
        Some(count) => whole("classification", count)
            .map(|count| Some(usize::try_from(count).unwrap_or(usize::MAX)).filter(|&count| count > 0))
            .map_err(|error| Status::invalid(format!("output `{name}`: {}", error.message())))?,
        None => None,
    };
    Ok(OutputWish { name, classification, place })
}

fn tensor_name(what: &str, name: String) -> Result<Box<str>, Status> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Status::invalid(format!(
            "{what} `{}...` has a name of {} bytes, and the limit is {NAME_BYTES_MAX}",
            clip(&name),
            name.len()
        )));
    }
    Ok(name.into())
}

fn to_params(what: &str, wire: HashMap<String, InferParameter>) -> Result<Params, Status> {
    let mut params = Params::new();
    if wire.len() > PARAMS_MAX {
        return Err(Status::invalid(format!(
            "{what} has {} parameters and {PARAMS_MAX} are allowed",
            wire.len()
        )));
    }
    for (name, InferParameter { parameter_choice }) in wire {
        let value = match parameter_choice {
            Some(ParameterChoice::BoolParam(value)) => Param::Bool(value),
            Some(ParameterChoice::Int64Param(value)) => Param::Int(value),
            Some(ParameterChoice::Uint64Param(value)) => Param::Uint(value),
            Some(ParameterChoice::DoubleParam(value)) => Param::Double(value),
            Some(ParameterChoice::StringParam(value)) => Param::Text(value.into()),
            None => {
                return Err(Status::invalid(format!(
                    "{what}: parameter `{}` has no value",
                    clip(&name).escape_debug()
                )));
            }
        };
        params.set(&name, value);
    }
    Ok(params)
}

/// The beginning of a text, for messages.
fn clip(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
