// SPDX-License-Identifier: Apache-2.0
//! What C holds. Each handle keeps alive what it needs, so they may be freed in any order.

use std::time::Duration;

use ::diolkos_client::types::{DataType, Shape};
use ::diolkos_client::{AnyTensor, Client, Model, Pending, Reply};

use crate::errors::Failure;
use crate::views::{
    self, Views, diolkos_model_info, diolkos_model_stats, diolkos_output, diolkos_tensor_spec, diolkos_timing,
};

/// A connection to a daemon, connected again if it is lost. Any number of threads may use one at once.
pub struct diolkos_client(pub(crate) Client);

/// A model or a built-in operation, opened. Any number of threads may use one at once.
pub struct diolkos_model {
    pub(crate) model: Model,
    pub(crate) inputs: Views<diolkos_tensor_spec>,
    pub(crate) outputs: Views<diolkos_tensor_spec>,
}

impl diolkos_model {
    pub(crate) fn new(model: Model) -> diolkos_model {
        let (inputs, outputs) = (views::specs(&model.inputs()), views::specs(&model.outputs()));
        diolkos_model { model, inputs, outputs }
    }
}

/// A tensor to be filled and sent. One thread at a time may use it.
pub struct diolkos_tensor {
    /// None only while a request tries to take it.
    value: Option<AnyTensor>,
}

impl diolkos_tensor {
    pub(crate) fn new(
        client: &Client,
        data_type: DataType,
        dims: &[u64],
        bytes: usize,
    ) -> Result<diolkos_tensor, Failure> {
        let bytes = if bytes > 0 { bytes } else { bytes_of(data_type, dims)? };
        Ok(client.tensor_of(data_type, dims, bytes)?.into())
    }

    pub(crate) fn bytes_mut(&mut self) -> Result<&mut [u8], Failure> {
        self.value.as_mut().map(AnyTensor::bytes_mut).ok_or_else(lost_tensor)
    }

    pub(crate) fn has_value(&self) -> bool {
        self.value.is_some()
    }

    pub(crate) fn take(&mut self) -> Option<AnyTensor> {
        self.value.take()
    }

    pub(crate) fn put_back(&mut self, value: AnyTensor) {
        self.value = Some(value);
    }
}

impl From<AnyTensor> for diolkos_tensor {
    fn from(value: AnyTensor) -> diolkos_tensor {
        diolkos_tensor { value: Some(value) }
    }
}

/// A tensor loses its value only if a panic came between.
pub(crate) fn lost_tensor() -> Failure {
    Failure::argument("the tensor was lost in a call that failed with DIOLKOS_ERROR_DEFECT; free it")
}

/// What all elements take, where that follows from type and shape.
fn bytes_of(data_type: DataType, dims: &[u64]) -> Result<usize, Failure> {
    let shape = Shape::new(dims).map_err(|error| Failure::argument(format!("`dims` {error}")))?;
    match (shape.elements(), data_type) {
        (Some(0), _) => Ok(0),
        (Some(_), DataType::Bytes) => {
            Err(Failure::argument("elements of BYTES have no size of their own: say how many bytes all have"))
        }
        (elements, _) => elements
            .and_then(|elements| data_type.payload_bytes(elements))
            .ok_or_else(|| Failure::argument(format!("a tensor of shape {shape} is too large"))),
    }
}

/// A request that was sent. One thread at a time may use it.
pub struct diolkos_pending {
    pending: Pending,
    inputs: Inputs,
}

impl diolkos_pending {
    pub(crate) fn new(pending: Pending) -> diolkos_pending {
        diolkos_pending { pending, inputs: Inputs(Vec::new()) }
    }

    /// Waits for so many milliseconds; negative: for ever.
    pub(crate) fn wait(&mut self, timeout_ms: i64) -> Result<diolkos_reply, Failure> {
        let time = u64::try_from(timeout_ms).map_or(Duration::MAX, Duration::from_millis);
        match self.pending.try_wait(time) {
            Ok(Some(reply)) => Ok(reply.into()),
            Ok(None) => Err(Failure::not_yet()),
            Err(unanswered) => {
                if !unanswered.inputs.is_empty() {
                    self.inputs = unanswered.inputs.into();
                }
                Err(unanswered.error.into())
            }
        }
    }

    pub(crate) fn take_input(&mut self, index: usize) -> Result<diolkos_tensor, Failure> {
        let none = || Failure::argument("the request has not failed, so its inputs are not here");
        if self.inputs.0.is_empty() { Err(none()) } else { self.inputs.take(index) }
    }
}

/// What came of a request. One thread at a time may use it; functions that take a const one, at once.
pub struct diolkos_reply {
    pub(crate) version: u64,
    pub(crate) timing: diolkos_timing,
    pub(crate) outputs: Views<diolkos_output>,
    pub(crate) inputs: Inputs,
}

impl From<Reply> for diolkos_reply {
    fn from(reply: Reply) -> diolkos_reply {
        let (version, timing) = (reply.version, reply.timing.into());
        let outputs = views::outputs(reply.outputs().to_vec());
        diolkos_reply { version, timing, outputs, inputs: reply.into_inputs().into() }
    }
}

/// Tensors that a request gives back, in the order in which they were given.
pub(crate) struct Inputs(Vec<Option<AnyTensor>>);

impl Inputs {
    pub(crate) fn take(&mut self, index: usize) -> Result<diolkos_tensor, Failure> {
        let count = self.0.len();
        let place = self.0.get_mut(index).ok_or_else(|| beyond("input", index, count))?;
        let taken =
            place.take().ok_or_else(|| Failure::argument(format!("input {index} was taken already")))?;
        Ok(taken.into())
    }
}

impl From<Vec<AnyTensor>> for Inputs {
    fn from(inputs: Vec<AnyTensor>) -> Inputs {
        Inputs(inputs.into_iter().map(Some).collect())
    }
}

/// The models that a daemon has. It does not change.
pub struct diolkos_model_list(pub(crate) Views<diolkos_model_info>);

/// What models did. It does not change.
pub struct diolkos_stats_list(pub(crate) Views<diolkos_model_stats>);

/// One of many, or why there is none.
pub(crate) fn at<'a, V>(views: &'a Views<V>, index: usize, what: &str) -> Result<&'a V, Failure> {
    let views = views.as_slice();
    views.get(index).ok_or_else(|| beyond(what, index, views.len()))
}

fn beyond(what: &str, index: usize, count: usize) -> Failure {
    Failure::argument(format!("there is no {what} {index}: there are {count}, counted from 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_follow_from_type_and_shape() {
        assert_eq!(bytes_of(DataType::Fp32, &[2, 3]).unwrap(), 24);
        assert_eq!(bytes_of(DataType::Int64, &[]).unwrap(), 8);
        assert_eq!(bytes_of(DataType::Bytes, &[u64::MAX, 0]).unwrap(), 0);
        assert_eq!(bytes_of(DataType::Int8, &[u64::MAX, u64::MAX, 0]).unwrap(), 0);
        assert!(bytes_of(DataType::Bytes, &[2]).is_err());
        assert!(bytes_of(DataType::Fp64, &[u64::MAX, 2]).is_err());
        assert!(bytes_of(DataType::Uint8, &[u64::MAX, u64::MAX]).is_err());
    }
}
