// SPDX-License-Identifier: Apache-2.0
//! `blas.sgemm`: `result = alpha * op(A) * op(B) + beta * C` in single precision, row-major.
//!
//! * `op(A)` is m×k and `op(B)` k×n, where `op` transposes if `transpose_a` or `transpose_b` says so; `C` and
//!   `result` are m×n.
//! * `alpha` is 1 and `beta` 0 unless given. As BLAS has it, `C` is not read if `beta` is 0, and neither are
//!   `A` and `B` if `alpha` is 0: NaN in them does not spread then.
//! * Any dimension may be 0. Without terms (k = 0), the product is all zeros.
//! * The sum of each element is formed in an order that depends on the shape alone, so the same inputs give
//!   the same bits on the same machine.

use bytes::Bytes;
use diolkos_backend::{Buffer, Operation, RunError, Tensor, Work};
use diolkos_types::{DataType, Dim, Param, Params, Shape, Signature, TensorSpec};

use crate::ffi::{self, Matrix};

/// Longest dimension. A square of it is beyond any memory, so this bounds nothing but nonsense; what a
/// request really may use is decided by its bytes.
pub const DIM_MAX: u64 = 1 << 20;

/// Multiplications between two looks at the cancel flag: a few milliseconds on one core.
const STEP_MULTIPLICATIONS: usize = 1 << 28;

/// Fewest rows that one step computes. Below it, packing `B` again for every step would show.
const STEP_ROWS_MIN: usize = 64;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// See the module.
#[derive(Clone, Debug)]
pub struct Sgemm {
    signature: Signature,
}

impl Sgemm {
    /// The operation.
    #[must_use]
    pub fn new() -> Sgemm {
        let matrix = |name| TensorSpec::new(name, DataType::Fp32, &[Dim::Variable { max: DIM_MAX }; 2]);
        let c = TensorSpec { optional: true, ..matrix("C") };
        let signature =
            Signature { inputs: [matrix("A"), matrix("B"), c].into(), outputs: [matrix("result")].into() };
        Sgemm { signature }
    }
}

impl Default for Sgemm {
    fn default() -> Sgemm {
        Sgemm::new()
    }
}

impl Operation for Sgemm {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    /// Private copies of the inputs, and the largest result of those transposes under which they fit.
    fn peak_bytes(&self, shapes: &[Option<Shape>], _input_bytes: u64) -> Option<u64> {
        let inputs = shapes.iter().flatten().try_fold(0u64, |sum, s| sum.checked_add(s.elements()?))?;
        let matrix = |index: usize| <[u64; 2]>::try_from(shapes.get(index)?.as_ref()?.dims()).ok();
        let ([a_rows, a_columns], [b_rows, b_columns]) = (matrix(A)?, matrix(B)?);
        let mut result = 0;
        for (rows, inner_a) in [(a_rows, a_columns), (a_columns, a_rows)] {
            for (inner_b, columns) in [(b_rows, b_columns), (b_columns, b_rows)] {
                if inner_a == inner_b {
                    result = result.max(rows.checked_mul(columns)?);
                }
            }
        }
        result.checked_add(inputs)?.checked_mul(size_of::<f32>() as u64)
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        work.check_cancelled()?;
        let scalars = Scalars::read(work.params())?;
        let plan = Plan::new(work, &scalars)?;
        if !work.wants(0) {
            work.compute_begins();
            work.compute_ends();
            return Ok(());
        }
        let bytes = plan.result_bytes()?;
        // Before anything is allocated: the result may be far larger than all inputs.
        work.check_room(&self.signature, 0, bytes)?;
        let (a, b) = (numbers(work.take_input(A)), numbers(work.take_input(B)));
        let mut result = vec![0.0; plan.m * plan.n];
        // Where `C` counts, it is copied to where the result comes to be.
        if let Some(c) = work.take_input(C).filter(|_| scalars.beta != 0.0) {
            fill(&mut result, &c.data);
        }
        work.compute_begins();
        multiply(work, &plan, &scalars, a.view(), b.view(), &mut result)?;
        work.compute_ends();
        to_little_endian(&mut result);
        let slot = work.output(&self.signature, 0, DataType::Fp32, plan.shape, bytes)?;
        slot.give(Bytes::from_owner(Owned(result)));
        Ok(())
    }
}

/// The parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scalars {
    alpha: f32,
    beta: f32,
    transpose: [bool; 2],
}

impl Scalars {
    fn read(params: &Params) -> Result<Scalars, RunError> {
        Ok(Scalars {
            alpha: number(params, "alpha", 1.0)?,
            beta: number(params, "beta", 0.0)?,
            transpose: [flag(params, "transpose_a")?, flag(params, "transpose_b")?],
        })
    }
}

fn number(params: &Params, name: &str, default: f32) -> Result<f32, RunError> {
    match params.get(name) {
        None => Ok(default),
        Some(Param::Double(value)) => Ok(*value as f32),
        Some(Param::Int(value)) => Ok(*value as f32),
        Some(Param::Uint(value)) => Ok(*value as f32),
        Some(other @ (Param::Bool(_) | Param::Text(_))) => Err(wrong_param(name, other, "a number")),
    }
}

fn flag(params: &Params, name: &str) -> Result<bool, RunError> {
    match params.get(name) {
        None => Ok(false),
        Some(Param::Bool(value)) => Ok(*value),
        Some(other) => Err(wrong_param(name, other, "true or false")),
    }
}

fn wrong_param(name: &str, given: &Param, expected: &str) -> RunError {
    let given = match given {
        Param::Bool(value) => value.to_string(),
        Param::Int(value) => value.to_string(),
        Param::Uint(value) => value.to_string(),
        Param::Double(value) => value.to_string(),
        Param::Text(_) => "text".into(),
    };
    RunError::InvalidParam { name: name.into(), reason: format!("is {given}; give {expected}") }
}

/// Dimensions that fit one another.
#[derive(Clone, Copy, Debug)]
struct Plan {
    m: usize,
    k: usize,
    n: usize,
    /// Rows of the result between two looks at the cancel flag.
    step_rows: usize,
    shape: Shape,
}

impl Plan {
    fn new(work: &Work, scalars: &Scalars) -> Result<Plan, RunError> {
        let (a, b) = (matrix(work.input(A), "A")?, matrix(work.input(B), "B")?);
        let [m, k] = if scalars.transpose[0] { [a[1], a[0]] } else { a };
        let [depth, n] = if scalars.transpose[1] { [b[1], b[0]] } else { b };
        if depth != k {
            let after = |yes| if yes { " after transposing" } else { "" };
            let [a_after, b_after] = scalars.transpose.map(after);
            let reason =
                format!("has {depth} rows{b_after} and A has {k} columns{a_after}; both must be equal");
            return Err(invalid("B", reason));
        }
        let overflow = |_| invalid("A", "is longer than this machine's memory".into());
        let shape = Shape::new(&[m, n]).map_err(|error| invalid("A", error.to_string()))?;
        match work.input(C) {
            Some(c) if c.shape != shape => {
                return Err(invalid("C", format!("has the shape {} and the product has {shape}", c.shape)));
            }
            None if scalars.beta != 0.0 => {
                let reason = format!(
                    "is {}, and there is no input `C` to scale; send C or leave beta out",
                    scalars.beta
                );
                return Err(RunError::InvalidParam { name: "beta".into(), reason });
            }
            Some(_) | None => {}
        }
        let index = |length: u64| usize::try_from(length).map_err(overflow);
        let (m, k, n) = (index(m)?, index(k)?, index(n)?);
        let step_rows = (STEP_MULTIPLICATIONS / k.saturating_mul(n).max(1)).max(STEP_ROWS_MIN);
        Ok(Plan { m, k, n, step_rows, shape })
    }

    fn result_bytes(&self) -> Result<usize, RunError> {
        let bytes = self.shape.elements().and_then(|elements| DataType::Fp32.payload_bytes(elements));
        bytes.ok_or_else(|| RunError::Unsupported {
            backend: crate::NAME,
            what: format!("a result of the shape {}, which is larger than memory can be", self.shape),
        })
    }
}

fn invalid(tensor: &str, reason: String) -> RunError {
    RunError::InvalidInput { tensor: tensor.into(), reason }
}

fn matrix(tensor: Option<&Tensor>, name: &str) -> Result<[u64; 2], RunError> {
    let tensor = tensor.ok_or_else(|| invalid(name, "is missing; send it".into()))?;
    tensor
        .shape
        .dims()
        .try_into()
        .map_err(|_| invalid(name, format!("has the shape {}; send a matrix", tensor.shape)))
}

/// `result` comes filled with `C`, or with zeros.
fn multiply(
    work: &Work,
    plan: &Plan,
    scalars: &Scalars,
    a: &[f32],
    b: &[f32],
    result: &mut [f32],
) -> Result<(), RunError> {
    if result.is_empty() {
        return Ok(());
    }
    if plan.k == 0 || scalars.alpha == 0.0 {
        result.iter_mut().for_each(|value| *value *= scalars.beta);
        return Ok(());
    }
    let oriented = |data, rows: usize, columns: usize, transposed: bool| {
        let whole = "the engine checked that a payload is as long as its shape says";
        if transposed {
            Matrix::new(data, columns, rows).expect(whole).transposed()
        } else {
            Matrix::new(data, rows, columns).expect(whole)
        }
    };
    let a = oriented(a, plan.m, plan.k, scalars.transpose[0]);
    let b = oriented(b, plan.k, plan.n, scalars.transpose[1]);
    debug_assert_eq!([a.rows(), b.columns()], [plan.m, plan.n]);
    for (step, part) in result.chunks_mut(plan.step_rows.saturating_mul(plan.n)).enumerate() {
        work.check_cancelled()?;
        ffi::sgemm_rows(scalars.alpha, a, step * plan.step_rows, b, scalars.beta, part);
    }
    Ok(())
}

/// Numbers in place where they can be, else in a copy: the one that a tenant can't write.
enum Numbers {
    InPlace(Bytes),
    Copied(Vec<f32>),
}

impl Numbers {
    fn view(&self) -> &[f32] {
        match self {
            Numbers::InPlace(bytes) => ffi::as_f32s(bytes).expect("bytes are left in place only if aligned"),
            Numbers::Copied(values) => values,
        }
    }
}

fn numbers(tensor: Option<Tensor>) -> Numbers {
    let Some(Tensor { data, .. }) = tensor else { return Numbers::Copied(Vec::new()) };
    if cfg!(target_endian = "little") {
        // Where a tenant can write, this is the one copy; it begins where the allocator likes, which is aligned.
        let private = data.to_private();
        if ffi::as_f32s(&private).is_some() {
            return Numbers::InPlace(private);
        }
    }
    let mut values = vec![0.0; data.len() / size_of::<f32>()];
    fill(&mut values, &data);
    Numbers::Copied(values)
}

/// Copies a little-endian payload of just these numbers.
fn fill(values: &mut [f32], data: &Buffer) {
    data.copy_to(ffi::as_bytes_mut(values));
    to_little_endian(values);
}

/// Between this machine's byte order and the protocol's; nothing on nearly every machine.
fn to_little_endian(values: &mut [f32]) {
    if cfg!(target_endian = "big") {
        values.iter_mut().for_each(|value| *value = f32::from_bits(value.to_bits().swap_bytes()));
    }
}

/// Lets a result become a payload without a copy.
struct Owned(Vec<f32>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        ffi::as_bytes(&self.0)
    }
}

#[cfg(test)]
mod tests;
