// SPDX-License-Identifier: Apache-2.0
//! NaN in, NaN out, but for the operators that docs/backends/tract.md names, among those asked here.

use diolkos_backend::Tensor;
use tract_onnx::pb::{NodeProto, TensorProto};

mod common;

use common::*;

/// Long enough for every vector width with a rest.
const LENGTH: usize = 37;

/// An operator on `x`, and the constants that it takes besides.
struct Case {
    node: NodeProto,
    constants: Vec<TensorProto>,
    dims: [u64; 4],
}

const ROW: [u64; 4] = [1, 1, 1, LENGTH as u64];

fn unary(op: &str) -> Case {
    Case { node: node(op, &["x"], &["y"]), constants: vec![], dims: ROW }
}

fn with(op: &str, constants: Vec<TensorProto>) -> Case {
    let names: Vec<String> = constants.iter().map(|constant| constant.name.clone()).collect();
    let inputs: Vec<&str> = ["x"].into_iter().chain(names.iter().map(String::as_str)).collect();
    Case { node: node(op, &inputs, &["y"]), constants, dims: ROW }
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        "Abs",
        "Acos",
        "Asin",
        "Atan",
        "Ceil",
        "Celu",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Log",
        "LogSoftmax",
        "Neg",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sin",
        "Sinh",
        "Softmax",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Tan",
        "Tanh",
        "ReduceMax",
        "ReduceMin",
        "ReduceSum",
        "ReduceMean",
        "ReduceL2",
        "ReduceProd",
        "GlobalMaxPool",
        "GlobalAveragePool",
    ]
    .into_iter()
    .map(unary)
    .collect();
    let scalar = |name: &str, value: f32| floats(name, &[], &[value]);
    cases.push(with("Clip", vec![scalar("low", 0.0), scalar("high", 6.0)]));
    for op in ["Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "PRelu", "Pow"] {
        cases.push(with(op, vec![floats("c", &[1], &[2.0])]));
    }
    cases.push(with("MatMul", vec![floats("w", &[LENGTH as i64, 5], &[0.5; 5 * LENGTH])]));
    cases.push(with("Conv", vec![floats("w", &[3, 1, 1, 3], &[0.5; 9])]));
    for op in ["MaxPool", "AveragePool"] {
        let mut case = unary(op);
        case.node = ints(case.node, "kernel_shape", &[1, 3]);
        cases.push(case);
    }
    cases
}

fn has_nan(tensor: &Tensor) -> bool {
    values(tensor).iter().any(|value| value.is_nan())
}

/// What a NaN in the input comes out as a number of. Requests with NaN can't be refused for it: stock load generators
/// send random bytes as tensors.
const LOSING: &[&str] = &["Clip", "HardSigmoid", "Max", "MaxPool", "Min", "Relu", "Sigmoid", "Tanh"];

#[test]
fn it_survives_operators_but_those_that_are_known() {
    let mut losing = Vec::new();
    for Case { node, constants, dims } in cases() {
        let op = node.op_type.clone();
        let shape: Vec<D> = dims.iter().map(|&length| D::Length(length as i64)).collect();
        let input = port("x", Onnx::Float, Some(&shape));
        let loaded = load(&model(vec![node], vec![input], vec![port("y", Onnx::Float, None)], constants));
        let operation = loaded.unwrap_or_else(|error| panic!("{op}: {error}"));
        let calm = run(&*operation, vec![f32s(&dims, &[0.5; LENGTH])]).unwrap();
        assert!(!has_nan(&calm[0]), "{op} makes NaN of numbers");
        let loses = [0, 1, 8, LENGTH / 2, LENGTH - 1].into_iter().any(|at| {
            let mut x = [0.5f32; LENGTH];
            x[at] = f32::NAN;
            let outputs =
                run(&*operation, vec![f32s(&dims, &x)]).unwrap_or_else(|error| panic!("{op}: {error}"));
            !has_nan(&outputs[0])
        });
        if loses {
            losing.push(op);
        }
    }
    losing.sort();
    assert_eq!(losing, LOSING);
}
