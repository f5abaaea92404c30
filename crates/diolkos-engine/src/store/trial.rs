// SPDX-License-Identifier: Apache-2.0
//! Finds out whether runs of several requests together pay, and whether they may be: measured and compared, before
//! anybody depends on it.
//!
//! A first dimension that is open is nearly always a batch, but nothing says so, and a model that mixes its rows would
//! give one request the answer of another. So rows are run together and alone on random numbers and must answer the same;
//! and a run of many must take enough less than as many runs of one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use diolkos_backend::{CancelFlag, Operation, Seeded, Tensor, Work};
use diolkos_types::{DataType, Dim, Params, Shape, Signature, TensorSpec};

use super::limits::{
    TRIAL_GAIN_MIN, TRIAL_ROWS, TRIAL_RUNS, TRIAL_SAVED_MIN, TRIAL_TIME_MAX, WARM_OUTPUT_BYTES_MAX,
};

use crate::limits::{BATCH_BYTES_MAX, BATCH_TIME_MAX};

/// Largest difference between a row's answer alone and among others, as a part of the largest number in the answer. Kernels
/// add up in another order for another number of rows: about 1e-6 of it in single precision, and 1e-3 in half.
const TOLERANCE: f64 = 1e-4;
const TOLERANCE_HALF: f64 = 1e-2;

/// What runs of several rows gain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchGain {
    /// Rows of a run that gains the most for each of them.
    pub rows: u64,
    /// How long a run of one row takes.
    pub one_ns: u64,
    /// How long a run of so many rows takes.
    pub all_ns: u64,
}

impl BatchGain {
    /// How many runs of one row take as long as one for each row of this many.
    #[must_use]
    pub fn factor(&self) -> f64 {
        self.one_ns as f64 * self.rows as f64 / self.all_ns.max(1) as f64
    }
}

/// Whether the signature has a batch: all inputs and outputs have an open first dimension and nothing else open, and
/// elements of a fixed size. What depends on the length of text or of a sequence can't be told from a few runs.
#[must_use]
pub(crate) fn has_batch(signature: &Signature) -> bool {
    let rows = |spec: &TensorSpec| {
        !spec.optional
            && spec.data_type != DataType::Bytes
            && spec.dims.as_deref().and_then(<[Dim]>::split_first).is_some_and(|(first, rest)| {
                matches!(first, Dim::Variable { .. }) && rest.iter().all(|dim| matches!(dim, Dim::Fixed(_)))
            })
    };
    !signature.inputs.is_empty()
        && !signature.outputs.is_empty()
        && signature.inputs.iter().chain(&signature.outputs).all(rows)
}

/// Bytes that a row has in these tensors.
#[must_use]
pub(crate) fn row_bytes(specs: &[TensorSpec]) -> Option<u64> {
    let of = |spec: &TensorSpec| {
        let shape = shape(spec, 1)?;
        u64::try_from(spec.data_type.payload_bytes(shape.elements()?)?).ok()
    };
    specs.iter().map(of).try_fold(0u64, |sum, bytes| sum.checked_add(bytes?))
}

fn shape(spec: &TensorSpec, rows: u64) -> Option<Shape> {
    let rest = spec.dims.as_deref()?.get(1..)?;
    let rest = rest.iter().map(|dim| match *dim {
        Dim::Fixed(length) => length,
        Dim::Variable { .. } => 1,
    });
    Shape::new(&[rows].into_iter().chain(rest).collect::<Vec<u64>>()).ok()
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trial {
    /// The most rows that ran at once; 0 = nothing was tried.
    pub(super) rows: u64,
    /// What they gain; `None`: there is no batch, the rows are not independent, or it does not pay.
    pub(super) gain: Option<BatchGain>,
}

/// Runs rows together and alone, so many at most. `run_ns` is what a run took when the model was warmed; one that is long holds up
/// everybody as it is, and has no use for company. A trial that fails is no reason to refuse a model.
#[must_use]
pub(super) fn try_together(operation: &dyn Operation, run_ns: u64, rows_max: u64) -> Trial {
    let mut tried = 0;
    if run_ns == 0 || Duration::from_nanos(run_ns) > BATCH_TIME_MAX || rows_max == 0 {
        return Trial::default();
    }
    let attempt = AssertUnwindSafe(|| gain(operation, rows_max, &mut tried));
    let gain = catch_unwind(attempt).unwrap_or_default();
    Trial { rows: tried, gain }
}

fn gain(operation: &dyn Operation, rows_max: u64, tried: &mut u64) -> Option<BatchGain> {
    let signature = operation.signature();
    if !has_batch(signature) || !operation.takes_any_rows() {
        return None;
    }
    let most = signature.inputs.iter().filter_map(|spec| match spec.dims.as_deref()?.first()? {
        Dim::Variable { max } => Some(*max),
        Dim::Fixed(_) => None,
    });
    let most = most.min()?;
    let began = Instant::now();
    let mut random = Seeded::new(1);
    let (one, one_ns) = measure(operation, &inputs(signature, 1, &mut random)?, TRIAL_TIME_MAX)?;
    drop(one);
    let mut best = BatchGain { rows: 1, one_ns, all_ns: one_ns };
    *tried = 1;
    let both = row_bytes(&signature.inputs)?.checked_add(row_bytes(&signature.outputs)?)?;
    let most = most.min(rows_max).min(BATCH_BYTES_MAX / both.max(1));
    for rows in TRIAL_ROWS.into_iter().filter(|&rows| rows <= most) {
        let left = TRIAL_TIME_MAX.saturating_sub(began.elapsed());
        if Duration::from_nanos(best.all_ns.saturating_mul(rows / best.rows)) * 2 > left {
            break;
        }
        let given = inputs(signature, rows, &mut random)?;
        let shapes: Vec<Option<Shape>> =
            given.iter().map(|input| input.as_ref().map(|input| input.shape)).collect();
        // Where the memory of a run can't be told, or it is much, nothing is run together.
        if operation.peak_bytes(&shapes, both * rows)? > 4 * BATCH_BYTES_MAX {
            break;
        }
        let (outputs, all_ns) = measure(operation, &given, left)?;
        *tried = rows;
        if !same_alone(operation, &given, &outputs, rows)? {
            return None;
        }
        let gain = BatchGain { rows, one_ns, all_ns };
        if gain.factor() < best.factor() * 1.05 {
            break;
        }
        best = gain;
    }
    let saved = Duration::from_nanos(best.one_ns.saturating_sub(best.all_ns / best.rows));
    (best.factor() >= TRIAL_GAIN_MIN && saved >= TRIAL_SAVED_MIN).then_some(best)
}

/// Random numbers that mean something to most models: small ones, large ones and ones between by turns of rows, so that what is taken from all
/// rows (a largest number, a mean) shows; and for integers 0 and 1, which may be indices.
fn inputs(signature: &Signature, rows: u64, random: &mut Seeded) -> Option<Vec<Option<Tensor>>> {
    let one = |spec: &TensorSpec| {
        let shape = shape(spec, rows)?;
        let elements = shape.elements()?;
        let mut data = Vec::with_capacity(spec.data_type.payload_bytes(elements)?);
        let row = elements / rows.max(1);
        for element in 0..elements {
            let number = random.next();
            let part = (number >> 11) as f64 / (1u64 << 53) as f64;
            let third = (element / row.max(1) % 3) as usize;
            let scaled = part * [1.0, 30.0, 0.03][third];
            match spec.data_type {
                DataType::Fp64 => data.extend_from_slice(&scaled.to_le_bytes()),
                DataType::Fp32 => data.extend_from_slice(&(scaled as f32).to_le_bytes()),
                // Powers of two, about as large.
                DataType::Fp16 => data.extend_from_slice(
                    &[[0x3c00u16, 0x3800], [0x4f00, 0x4c00], [0x2800, 0x2400]][third][(number & 1) as usize]
                        .to_le_bytes(),
                ),
                DataType::Bf16 => data.extend_from_slice(
                    &[[0x3f80u16, 0x3f00], [0x41e0, 0x4180], [0x3d00, 0x3c80]][third][(number & 1) as usize]
                        .to_le_bytes(),
                ),
                DataType::Uint8 => data.push(number as u8),
                other => {
                    data.push((number & 1) as u8);
                    data.resize(data.len() + other.payload_bytes(1)? - 1, 0);
                }
            }
        }
        Some(Some(Tensor { data_type: spec.data_type, shape, data: data.into() }))
    };
    signature.inputs.iter().map(one).collect()
}

fn run(operation: &dyn Operation, inputs: &[Option<Tensor>]) -> Option<Vec<Tensor>> {
    let mut work = Work::new(inputs.to_vec(), None, Params::new(), WARM_OUTPUT_BYTES_MAX, CancelFlag::new());
    operation.run(&mut work).ok()?;
    work.into_outputs().into_iter().collect()
}

/// The answer, and the median time, as far as there is time.
fn measure(
    operation: &dyn Operation,
    inputs: &[Option<Tensor>],
    time: Duration,
) -> Option<(Vec<Tensor>, u64)> {
    let began = Instant::now();
    let outputs = run(operation, inputs)?;
    let mut times = Vec::new();
    while times.len() < TRIAL_RUNS && (times.is_empty() || began.elapsed() < time / 2) {
        let run_began = Instant::now();
        run(operation, inputs)?;
        times.push(u64::try_from(run_began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    times.sort_unstable();
    Some((outputs, times[times.len() / 2]))
}

/// Whether some rows answer alone what they answered among others. Answers that are no numbers, or all the same, tell nothing.
fn same_alone(
    operation: &dyn Operation,
    given: &[Option<Tensor>],
    together: &[Tensor],
    rows: u64,
) -> Option<bool> {
    let mut answers: Vec<Vec<Tensor>> = Vec::new();
    for row in [0, rows / 2, rows - 1] {
        let input = |tensor: &Option<Tensor>| tensor.as_ref().and_then(|tensor| one_row(tensor, row, rows));
        let alone = run(operation, &given.iter().map(input).collect::<Vec<_>>())?;
        for (alone, together) in alone.iter().zip(together) {
            let Some(among) = one_row(together, row, rows) else { return Some(false) };
            if alone.shape != among.shape || !is_finite(alone) || !alike(alone, &among) {
                return Some(false);
            }
        }
        answers.push(alone);
    }
    let differs = |other: &Vec<Tensor>| {
        other.iter().zip(&answers[0]).any(|(one, first)| one.data.to_private() != first.data.to_private())
    };
    Some(answers[1..].iter().any(differs))
}

fn is_finite(tensor: &Tensor) -> bool {
    let width = match tensor.data_type {
        DataType::Fp64 => 8,
        DataType::Fp32 => 4,
        DataType::Fp16 | DataType::Bf16 => 2,
        _ => return true,
    };
    let data = tensor.data.to_private();
    data.chunks_exact(width).all(|bytes| to_f64(tensor.data_type, bytes).is_finite())
}

/// One row of a tensor that has so many.
fn one_row(tensor: &Tensor, row: u64, rows: u64) -> Option<Tensor> {
    let (first, rest) = tensor.shape.dims().split_first()?;
    if *first != rows {
        return None;
    }
    let shape = Shape::new(&[1].into_iter().chain(rest.iter().copied()).collect::<Vec<u64>>()).ok()?;
    let data = tensor.data.to_private();
    let length = data.len() / usize::try_from(rows).ok()?;
    let start = length * usize::try_from(row).ok()?;
    Some(Tensor { data_type: tensor.data_type, shape, data: data.slice(start..start + length).into() })
}

fn alike(one: &Tensor, other: &Tensor) -> bool {
    let (a, b) = (one.data.to_private(), other.data.to_private());
    let (width, tolerance): (usize, f64) = match one.data_type {
        DataType::Fp64 => (8, TOLERANCE),
        DataType::Fp32 => (4, TOLERANCE),
        DataType::Fp16 | DataType::Bf16 => (2, TOLERANCE_HALF),
        _ => return a == b,
    };
    let numbers = |data: &[u8]| -> Vec<f64> {
        data.chunks_exact(width).map(|bytes| to_f64(one.data_type, bytes)).collect()
    };
    let (a, b) = (numbers(&a), numbers(&b));
    let largest = a.iter().map(|number| number.abs()).filter(|number| number.is_finite()).fold(0.0, f64::max);
    let near =
        |(a, b): (&f64, &f64)| (a - b).abs() <= tolerance * largest || a == b || (a.is_nan() && b.is_nan());
    a.len() == b.len() && a.iter().zip(&b).all(near)
}

fn to_f64(data_type: DataType, bytes: &[u8]) -> f64 {
    match (data_type, bytes) {
        (DataType::Fp64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        (DataType::Fp32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).into(),
        (DataType::Bf16, &[a, b]) => f32::from_le_bytes([0, 0, a, b]).into(),
        (DataType::Fp16, &[a, b]) => half(u16::from_le_bytes([a, b])),
        _ => f64::NAN,
    }
}

/// A number of IEEE 754 binary16.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    match exponent {
        0 => sign * fraction * 2f64.powi(-24),
        0x1f if fraction == 0.0 => sign * f64::INFINITY,
        0x1f => f64::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use diolkos_backend::RunError;

    use super::*;

    /// Adds up each row; `mixes` adds all rows to the first.
    struct Sums {
        signature: Signature,
        mixes: bool,
        fixed: Duration,
        per_row: Duration,
    }

    impl Sums {
        fn new(mixes: bool, fixed: u64, per_row: u64) -> Sums {
            let dims = |length| [Dim::Variable { max: 1000 }, Dim::Fixed(length)];
            let spec = |name, length| TensorSpec::new(name, DataType::Fp32, &dims(length));
            let signature = Signature { inputs: [spec("in", 3)].into(), outputs: [spec("out", 1)].into() };
            let (fixed, per_row) = (Duration::from_micros(fixed), Duration::from_micros(per_row));
            Sums { signature, mixes, fixed, per_row }
        }
    }

    impl Operation for Sums {
        fn signature(&self) -> &Signature {
            &self.signature
        }

        fn resident_bytes(&self) -> u64 {
            0
        }

        fn peak_bytes(&self, _: &[Option<Shape>], input_bytes: u64) -> Option<u64> {
            Some(input_bytes)
        }

        fn run(&self, work: &mut Work) -> Result<(), RunError> {
            let input = work.input(0).expect("checked").data.to_private();
            let number = |bytes: &[u8]| to_f64(DataType::Fp32, bytes) as f32;
            let mut sums: Vec<f32> = input.chunks(12).map(|row| row.chunks(4).map(number).sum()).collect();
            if self.mixes {
                sums[0] = sums.iter().sum();
            }
            let rows = sums.len() as u32;
            std::thread::sleep(self.fixed + self.per_row * rows);
            let bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            let shape = Shape::new(&[rows.into(), 1]).expect("it is small");
            work.output(&self.signature, 0, DataType::Fp32, shape, bytes.len())?.give(bytes);
            Ok(())
        }
    }

    #[test]
    fn only_what_pays_and_keeps_rows_apart_runs_together() {
        let tried = |sums: Sums, rows_max| try_together(&sums, 2_000_000, rows_max);
        let trial = tried(Sums::new(false, 2000, 1), u64::MAX);
        let gain = trial.gain.expect("it pays");
        assert!(gain.rows >= 16 && gain.factor() > 5.0 && trial.rows >= gain.rows, "{trial:?}");
        assert_eq!(tried(Sums::new(true, 2000, 1), u64::MAX).gain, None, "rows are mixed");
        assert_eq!(tried(Sums::new(false, 0, 2000), u64::MAX).gain, None, "it gains nothing");
        // What a child did not run, the daemon does not either.
        let trial = tried(Sums::new(false, 2000, 1), 4);
        assert_eq!((trial.rows, trial.gain.map(|gain| gain.rows)), (4, Some(4)));
        assert_eq!(tried(Sums::new(false, 2000, 1), 0), Trial::default());
        let slow = try_together(&Sums::new(false, 2000, 1), 1_000_000_000, u64::MAX);
        assert_eq!(slow, Trial::default(), "who runs long as it is has no use for company");
    }

    #[test]
    fn a_batch_is_an_open_first_dimension_and_nothing_else_open() {
        let open = Dim::Variable { max: 9 };
        let with = |dims: &[Dim], data_type| {
            let spec = TensorSpec::new("x", data_type, dims);
            has_batch(&Signature { inputs: [spec.clone()].into(), outputs: [spec].into() })
        };
        assert!(with(&[open, Dim::Fixed(3)], DataType::Fp32) && with(&[open], DataType::Int8));
        assert!(
            !with(&[open, open], DataType::Fp32) && !with(&[Dim::Fixed(1), Dim::Fixed(3)], DataType::Fp32)
        );
        assert!(!with(&[open], DataType::Bytes) && !with(&[], DataType::Fp32));
        assert!(!has_batch(&Signature { inputs: [].into(), outputs: [].into() }));
    }

    #[test]
    fn halves_are_read() {
        let read = |bits| half(bits);
        assert_eq!(
            (read(0x3c00), read(0xc000), read(0x0001), read(0x7c00)),
            (1.0, -2.0, 2f64.powi(-24), f64::INFINITY)
        );
        assert!(read(0x7e00).is_nan());
    }
}
