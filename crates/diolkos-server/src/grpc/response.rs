// SPDX-License-Identifier: Apache-2.0
//! An [`InferReply`] as a `ModelInferResponse`. Outputs are always raw, and their payloads are
//! moved: as the pieces that they lie in, or where a message must be whole, in one.

use std::collections::HashMap;

use diolkos_backend::Buffer;
use diolkos_types::{Shape, Status};

use super::pb::infer_parameter::ParameterChoice;
use super::pb::model_infer_response::InferOutputTensor;
use super::pb::{InferParameter, ModelInferResponse, ModelStreamInferResponse};
use crate::oip::{InferReply, ReplyTensor, places};
use crate::system_memory::Place;

/// Says on a stream that no further answer to the same request follows.
const FINAL_RESPONSE: &str = "triton_final_response";

/// What a request was called, for the answer that says why there is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) version: String,
}

/// The answer of one inference without its payloads, and the payloads, each in the pieces that it lies in.
pub(crate) fn to_parts(reply: InferReply) -> (ModelInferResponse, Vec<Buffer>) {
    let InferReply { model, version, id, outputs, .. } = reply;
    let mut tensors = Vec::with_capacity(outputs.len());
    let mut payloads = Vec::with_capacity(outputs.len());
    for ReplyTensor { name, data_type, shape, data, place } in outputs {
        tensors.push(InferOutputTensor {
            name: name.into(),
            datatype: data_type.name().to_owned(),
            shape: signed(&shape),
            parameters: place.map(parameters).unwrap_or_default(),
            contents: None,
        });
        // Empty if it is in a region: clients count entries to find a payload.
        payloads.push(data);
    }
    let response = ModelInferResponse {
        model_name: model,
        model_version: version.to_string(),
        id,
        parameters: HashMap::new(),
        outputs: tensors,
        raw_output_contents: Vec::new(),
    };
    (response, payloads)
}

/// Where an output is.
fn parameters(place: Place) -> HashMap<String, InferParameter> {
    let named = |name: &str, choice| (name.to_owned(), InferParameter { parameter_choice: Some(choice) });
    let whole = |number| ParameterChoice::Int64Param(i64::try_from(number).unwrap_or(i64::MAX));
    let mut parameters = HashMap::from([
        named(places::REGION, ParameterChoice::StringParam(place.region.into())),
        named(places::BYTES, whole(place.bytes)),
    ]);
    if place.offset > 0 {
        parameters.extend([named(places::OFFSET, whole(place.offset))]);
    }
    parameters
}

/// The answer of one inference.
pub(crate) fn to_response(reply: InferReply) -> ModelInferResponse {
    let (mut response, payloads) = to_parts(reply);
    response.raw_output_contents = payloads.iter().map(Buffer::to_private).collect();
    response
}

/// The same on a stream.
pub(crate) fn to_stream_response(
    asked: Asked,
    result: Result<InferReply, Status>,
) -> ModelStreamInferResponse {
    let (mut response, error_message) = match result {
        Ok(reply) => (to_response(reply), String::new()),
        Err(status) => {
            let Asked { id, model, version } = asked;
            let response = ModelInferResponse {
                id,
                model_name: model,
                model_version: version,
                ..ModelInferResponse::default()
            };
            (response, status.message().to_owned())
        }
    };
    let last = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    response.parameters.insert(FINAL_RESPONSE.to_owned(), last);
    ModelStreamInferResponse { error_message, infer_response: Some(response) }
}

fn signed(shape: &Shape) -> Vec<i64> {
    shape.dims().iter().map(|&length| i64::try_from(length).unwrap_or(i64::MAX)).collect()
}
