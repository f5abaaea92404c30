// SPDX-License-Identifier: Apache-2.0
//! Against the triple loop, and the corners that it does not show.

use std::sync::Arc;

use diolkos_backend::CancelFlag;
use diolkos_backend::conformance::{Case, Suite};
use proptest::prelude::*;

use super::*;

fn tensor(dims: [usize; 2], values: &[f32]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let shape = Shape::new(&dims.map(|d| d as u64)).unwrap();
    Tensor { data_type: DataType::Fp32, shape, data: data.into() }
}

fn run(inputs: Vec<Option<Tensor>>, params: &[(&str, Param)], room: u64) -> Result<Tensor, RunError> {
    let mut all = Params::new();
    params.iter().for_each(|(name, value)| all.set(name, value.clone()));
    let mut work = Work::new(inputs, None, all, room, CancelFlag::new());
    Sgemm::new().run(&mut work)?;
    Ok(work.into_outputs().remove(0).unwrap())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let bytes = tensor.data.to_private();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// A problem with its naive answer. `values` are small whole numbers, so both are exact.
#[derive(Debug)]
struct Problem {
    dims: [usize; 3],
    transpose: [bool; 2],
    alpha: i8,
    beta: i8,
    values: [Vec<f32>; 3],
}

impl Problem {
    fn naive(&self) -> Vec<f32> {
        let [m, k, n] = self.dims;
        let [a, b, c] = &self.values;
        let mut result = Vec::new();
        for row in 0..m {
            for column in 0..n {
                let mut sum = 0.0;
                for term in 0..k {
                    let left = if self.transpose[0] { a[term * m + row] } else { a[row * k + term] };
                    let right = if self.transpose[1] { b[column * k + term] } else { b[term * n + column] };
                    sum += left * right;
                }
                result.push(f32::from(self.alpha) * sum + f32::from(self.beta) * c[row * n + column]);
            }
        }
        result
    }

    fn tensors(&self) -> Vec<Option<Tensor>> {
        let [m, k, n] = self.dims;
        let oriented = |dims: [usize; 2], yes: bool| if yes { [dims[1], dims[0]] } else { dims };
        let dims = [oriented([m, k], self.transpose[0]), oriented([k, n], self.transpose[1]), [m, n]];
        dims.into_iter().zip(&self.values).map(|(dims, values)| Some(tensor(dims, values))).collect()
    }
}

fn problems() -> impl Strategy<Value = Problem> {
    let element = || (-8i8..=8).prop_map(f32::from);
    let dims = [0usize..12, 0..12, 0..12];
    (dims, any::<[bool; 2]>(), -3i8..4, -3i8..4).prop_flat_map(move |(dims, transpose, alpha, beta)| {
        let [m, k, n] = dims;
        let of = |length: usize| proptest::collection::vec(element(), length);
        let values = (of(m * k), of(k * n), of(m * n)).prop_map(|(a, b, c)| [a, b, c]);
        values.prop_map(move |values| Problem { dims, transpose, alpha, beta, values })
    })
}

proptest! {
    #[test]
    fn agrees_with_the_triple_loop(problem in problems()) {
        let params = [
            ("alpha", Param::Int(problem.alpha.into())),
            ("beta", Param::Double(problem.beta.into())),
            ("transpose_a", Param::Bool(problem.transpose[0])),
            ("transpose_b", Param::Bool(problem.transpose[1])),
        ];
        let result = run(problem.tensors(), &params, u64::MAX).unwrap();
        prop_assert_eq!(result.shape.dims(), &[problem.dims[0] as u64, problem.dims[2] as u64]);
        prop_assert_eq!(values(&result), problem.naive());
    }
}

#[test]
fn results_of_several_steps_are_whole() {
    let (m, n) = (10, 3);
    let a: Vec<f32> = (0..m).map(|row| row as f32).collect();
    let shape = Shape::new(&[m as u64, n as u64]).unwrap();
    let scalars = Scalars { alpha: 1.0, beta: 0.0, transpose: [false; 2] };
    for step_rows in [1, 3, 4, 10, usize::MAX] {
        let plan = Plan { m, k: 1, n, step_rows, shape };
        let mut result = vec![0.0; m * n];
        let cancel = CancelFlag::new();
        let work = Work::new(Vec::new(), None, Params::new(), 0, cancel.clone());
        multiply(&work, &plan, &scalars, &a, &[1.0, 2.0, 3.0], &mut result).unwrap();
        for (row, values) in result.chunks_exact(n).enumerate() {
            assert_eq!(values, [1.0, 2.0, 3.0].map(|v| v * row as f32), "{step_rows} rows at a time");
        }
        cancel.cancel();
        let stopped = multiply(&work, &plan, &scalars, &a, &[1.0, 2.0, 3.0], &mut result);
        assert!(matches!(stopped, Err(RunError::Cancelled)));
    }
}

#[test]
fn steps_of_small_products_are_everything_and_of_large_ones_a_few_rows() {
    let plan = |m: usize, k: usize, n: usize| {
        let empty = |dims: [usize; 2]| {
            let shape = Shape::new(&dims.map(|d| d as u64)).unwrap();
            Some(Tensor { data_type: DataType::Fp32, shape, data: Buffer::empty() })
        };
        let inputs = vec![empty([m, k]), empty([k, n]), None];
        let work = Work::new(inputs, None, Params::new(), 0, CancelFlag::new());
        Plan::new(&work, &Scalars::read(&Params::new()).unwrap()).unwrap()
    };
    assert!(plan(100, 100, 100).step_rows >= 100);
    assert_eq!(plan(1 << 13, 1 << 13, 1 << 13).step_rows, STEP_ROWS_MIN);
    assert_eq!(plan(4, 0, 4).step_rows, STEP_MULTIPLICATIONS);
}

#[test]
fn zero_factors_do_not_read() {
    let nan = |dims| Some(tensor(dims, &[f32::NAN; 4]));
    let one = |dims| Some(tensor(dims, &[1.0; 4]));
    let square = [2, 2];
    let result = run(vec![one(square), one(square), nan(square)], &[], 16).unwrap();
    assert_eq!(values(&result), [2.0; 4]);
    let params = [("alpha", Param::Uint(0)), ("beta", Param::Double(0.5))];
    let result = run(vec![nan(square), one(square), one(square)], &params, 16).unwrap();
    assert_eq!(values(&result), [0.5; 4]);
    let result = run(vec![nan(square), one(square), None], &[("alpha", Param::Double(2.0))], 16).unwrap();
    assert!(values(&result).iter().all(|v| v.is_nan()));
}

#[test]
fn says_what_does_not_fit() {
    let of = |dims: [usize; 2]| Some(tensor(dims, &vec![0.0; dims[0] * dims[1]]));
    let text = |inputs, params: &[(&str, Param)]| run(inputs, params, u64::MAX).unwrap_err().to_string();
    assert_eq!(
        text(vec![of([2, 3]), of([2, 3]), None], &[]),
        "input `B` has 2 rows and A has 3 columns; both must be equal"
    );
    assert_eq!(
        text(
            vec![of([2, 3]), of([2, 3]), None],
            &[("transpose_a", Param::Bool(true)), ("transpose_b", Param::Bool(true))]
        ),
        "input `B` has 3 rows after transposing and A has 2 columns after transposing; both must be equal"
    );
    assert_eq!(
        text(vec![of([2, 3]), of([3, 4]), of([4, 2])], &[]),
        "input `C` has the shape [4,2] and the product has [2,4]"
    );
    assert_eq!(
        text(vec![of([1, 1]), of([1, 1]), None], &[("beta", Param::Int(2))]),
        "parameter `beta` is 2, and there is no input `C` to scale; send C or leave beta out"
    );
    assert_eq!(
        text(vec![of([1, 1]), of([1, 1]), None], &[("alpha", Param::Text("x".into()))]),
        "parameter `alpha` is text; give a number"
    );
    assert_eq!(
        text(vec![of([1, 1]), of([1, 1]), None], &[("transpose_a", Param::Int(1))]),
        "parameter `transpose_a` is 1; give true or false"
    );
}

#[test]
fn a_huge_result_of_empty_inputs_is_refused_before_it_is_allocated() {
    let dims = [DIM_MAX as usize, 0];
    let inputs = vec![Some(tensor(dims, &[])), Some(tensor([0, DIM_MAX as usize], &[])), None];
    let error = run(inputs, &[], 1 << 30).unwrap_err();
    assert!(matches!(error, RunError::OutputTooSmall { needed: 4_398_046_511_104, .. }), "{error}");
    let shapes = [Some(Shape::new(&[DIM_MAX, 0]).unwrap()), Some(Shape::new(&[0, DIM_MAX]).unwrap()), None];
    assert_eq!(Sgemm::new().peak_bytes(&shapes, 0), Some(4 << 40));
}

#[test]
fn conforms_with_parameters_too() {
    let numbers: Vec<f32> = (0..12).map(|n| n as f32).collect();
    // The generated cases are all square.
    let with_c = Case::new("2x3 * 3x2 + 2x2")
        .fp32(&[3, 2], &numbers[..6])
        .fp32(&[3, 2], &numbers[6..])
        .fp32(&[2, 2], &numbers[..4])
        .param("transpose_a", Param::Bool(true))
        .param("beta", Param::Double(2.0));
    let without = Case::new("3x1 * 1x4").fp32(&[3, 1], &numbers[..3]).fp32(&[1, 4], &numbers[..4]).no_input();
    Suite::for_operation("blas.sgemm", Arc::new(Sgemm::new()))
        .case(with_c)
        .case(without)
        .run()
        .assert_conforms();
}
