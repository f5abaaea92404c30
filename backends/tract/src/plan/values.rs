// SPDX-License-Identifier: Apache-2.0
//! Looks at values that tract uses without looking.
//!
//! * `Range` allocates whatever its bounds say.
//! * `Gather` checks an index against the whole tensor and not against its axis, so that one beyond the end
//!   of a row reads the next row. `GatherND` cuts indices to 32 bits.
//!
//! Graphs inside `Scan` and `If` run inside tract and are not seen here.

use std::fmt;

use tract_onnx::prelude::{TValue, TractError, TractResult, TypedFact};
use tract_onnx::tract_core::model::Node;
use tract_onnx::tract_core::ops::TypedOp;
use tract_onnx::tract_core::ops::array::{Gather, GatherNd, Range};

use crate::limits::MADE_ELEMENTS_MAX;

/// Carries a [`Stop`] of our own through tract's error type.
#[derive(Debug)]
pub(super) enum Halt {
    /// The cancel flag was seen.
    Cancelled,
    /// A tensor would have become too large.
    TooMuch(String),
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Halt::Cancelled => f.write_str("cancelled"),
            Halt::TooMuch(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Halt {}

/// Refuses values that would give a wrong answer or too large a tensor.
pub(super) fn check(node: &Node<TypedFact, Box<dyn TypedOp>>, inputs: &[TValue]) -> TractResult<()> {
    if node.op_is::<Range>() {
        check_range(inputs)
    } else if let Some(gather) = node.op_as::<Gather>() {
        let [data, indices] = inputs else { return Ok(()) };
        let length = data.shape().get(gather.axis).map_or(0, |&length| length as i64);
        check_indices(indices, |_| -length..length)
    } else if let Some(gather) = node.op_as::<GatherNd>() {
        let [data, indices] = inputs else { return Ok(()) };
        let depth = indices.shape().last().map_or(1, |&depth| depth.max(1));
        let shape = data.shape();
        // tract does not count negative indices from the end.
        let length = |at: usize| shape.get(gather.batch_dims + at % depth).map_or(0, |&length| length as i64);
        check_indices(indices, |at| 0..length(at))
    } else {
        Ok(())
    }
}

fn check_indices(indices: &TValue, allowed: impl Fn(usize) -> std::ops::Range<i64>) -> TractResult<()> {
    let indices = indices.cast_to::<i64>()?;
    let view = indices.to_plain_array_view::<i64>()?;
    match view.iter().enumerate().find(|&(at, index)| !allowed(at).contains(index)) {
        None => Ok(()),
        Some((at, index)) => {
            let allowed = allowed(at);
            let (first, end) = (allowed.start, allowed.end);
            Err(TractError::msg(format!("index {index} is out of range, {first} to {end} excluded")))
        }
    }
}

fn check_range(inputs: &[TValue]) -> TractResult<()> {
    let number = |index: usize| -> Option<f64> { inputs.get(index)?.cast_to_scalar::<f64>().ok() };
    let (Some(start), Some(end), Some(step)) = (number(0), number(1), number(2)) else { return Ok(()) };
    let elements = ((end - start) / step).abs();
    // Written so that NaN, from a step of zero, is refused too.
    if elements <= MADE_ELEMENTS_MAX as f64 {
        return Ok(());
    }
    let what = format!("Range from {start} to {end} by {step} has more than {MADE_ELEMENTS_MAX} elements");
    Err(Halt::TooMuch(what).into())
}
