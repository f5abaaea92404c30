// SPDX-License-Identifier: Apache-2.0
//! Runs a model on zeros before anybody waits for it, and measures how long that takes.
//!
//! A failing run is no reason to refuse a model: zeros, or dimensions of one, may mean nothing to it. It is
//! noted. What warm-up must not survive (a crash, a hang, no memory) it meets in the rehearsal's child first.

use std::time::Instant;

use diolkos_backend::{CancelFlag, Operation, Tensor, Work};
use diolkos_types::{DataType, Dim, Params, Shape, TensorSpec};

use super::limits::{WARM_INPUT_BYTES_MAX, WARM_OUTPUT_BYTES_MAX, WARM_RUNS_MAX, WARM_TIME_MAX};

/// How the runs went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Warmth {
    /// How long the first run took.
    pub(super) first_ns: u64,
    /// The median of all runs after the first; that of the first if it was the only one.
    pub(super) median_ns: u64,
    /// Why there was no run, or why it failed.
    pub(super) note: Option<String>,
}

/// Runs the operation a few times.
#[must_use]
pub(super) fn warm(operation: &dyn Operation) -> Warmth {
    let specs = &operation.signature().inputs;
    let Some(inputs) = zeros(specs) else {
        let note = format!("not warmed: its inputs are larger than {WARM_INPUT_BYTES_MAX} bytes");
        return Warmth { note: Some(note), ..Warmth::default() };
    };
    let began = Instant::now();
    let mut times = Vec::with_capacity(WARM_RUNS_MAX);
    while times.len() < WARM_RUNS_MAX && (times.is_empty() || began.elapsed() < WARM_TIME_MAX) {
        let mut work =
            Work::new(inputs.clone(), None, Params::new(), WARM_OUTPUT_BYTES_MAX, CancelFlag::new());
        let run_began = Instant::now();
        if let Err(error) = operation.run(&mut work) {
            let note = format!("the warm-up on zeros failed: {error}");
            return Warmth { note: Some(note), ..Warmth::default() };
        }
        times.push(u64::try_from(run_began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    let first_ns = times.remove(0);
    times.sort_unstable();
    let median_ns = times.get(times.len() / 2).copied().unwrap_or(first_ns);
    Warmth { first_ns, median_ns, note: None }
}

/// Inputs of zeros, with every open dimension 1; `None` if they would be too large.
fn zeros(specs: &[TensorSpec]) -> Option<Vec<Option<Tensor>>> {
    let mut left = WARM_INPUT_BYTES_MAX;
    let mut inputs = Vec::with_capacity(specs.len());
    for spec in specs {
        if spec.optional {
            inputs.push(None);
            continue;
        }
        let length = |dim: &Dim| match *dim {
            Dim::Fixed(length) => length,
            Dim::Variable { max } => max.min(1),
        };
        let lengths: Vec<u64> =
            spec.dims.as_deref().map_or(vec![1], |dims| dims.iter().map(length).collect());
        let shape = Shape::new(&lengths).ok()?;
        let elements = shape.elements()?;
        // An empty string is its length alone.
        let bytes = match spec.data_type {
            DataType::Bytes => usize::try_from(elements.checked_mul(4)?).ok()?,
            fixed => fixed.payload_bytes(elements)?,
        };
        left = left.checked_sub(bytes)?;
        inputs.push(Some(Tensor { data_type: spec.data_type, shape, data: vec![0; bytes].into() }));
    }
    Some(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_zeros_that_fit_and_refuses_what_is_huge() {
        let specs = [
            TensorSpec::new("a", DataType::Fp32, &[Dim::Variable { max: 9 }, Dim::Fixed(3)]),
            TensorSpec::new("b", DataType::Bytes, &[Dim::Fixed(5)]),
            TensorSpec { optional: true, ..TensorSpec::new("c", DataType::Fp32, &[Dim::Fixed(u64::MAX)]) },
            TensorSpec::any_shape("d", DataType::Int8),
            TensorSpec::new("e", DataType::Int8, &[Dim::Variable { max: 0 }]),
        ];
        let made = zeros(&specs).unwrap();
        let sizes: Vec<_> = made.iter().map(|input| input.as_ref().map(|tensor| tensor.data.len())).collect();
        assert_eq!(sizes, [Some(12), Some(20), None, Some(1), Some(0)]);
        for dims in
            [&[Dim::Fixed(u64::MAX), Dim::Fixed(2)][..], &[Dim::Fixed(1 << 40)], &[Dim::Fixed(1 << 63)]]
        {
            for data_type in [DataType::Fp64, DataType::Bytes] {
                assert!(zeros(&[TensorSpec::new("x", data_type, dims)]).is_none());
            }
        }
    }
}
