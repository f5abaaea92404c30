// SPDX-License-Identifier: Apache-2.0
//! Runs: values that steer, bad values, cancellation, memory, threads.

use std::thread;

use diolkos_backend::{CancelFlag, RunError, Work};
use diolkos_types::{Params, Shape};

mod common;

use common::*;

fn reshape_model() -> tract_onnx::pb::ModelProto {
    model(
        vec![node("Reshape", &["x", "shape"], &["y"])],
        vec![
            port("x", Onnx::Float, Some(&[D::Symbol("n")])),
            port("shape", Onnx::Int64, Some(&[D::Symbol("rank")])),
        ],
        vec![port("y", Onnx::Float, None)],
        vec![],
    )
}

#[test]
fn values_that_are_shapes_become_part_of_a_plan() {
    let operation = load(&reshape_model()).unwrap();
    let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
    // More forms than the cache keeps, twice over.
    for _ in 0..2 {
        for dims in
            [&[3i64, 4][..], &[4, 3], &[12], &[2, -1], &[1, 12], &[12, 1], &[2, 3, 2], &[6, 2], &[1, 1, 12]]
        {
            let outputs = run(&*operation, vec![f32s(&[12], &x), i64s(&[dims.len() as u64], dims)]).unwrap();
            assert_eq!(outputs[0].shape.elements(), Some(12));
            assert_eq!(outputs[0].shape.rank(), dims.len());
            assert_eq!(values(&outputs[0]), x);
        }
    }
    let wrong = run(&*operation, vec![f32s(&[12], &x), i64s(&[2], &[5, 5])]).unwrap_err();
    assert!(matches!(wrong, RunError::Unsupported { .. } | RunError::Failed { .. }), "{wrong}");
}

#[test]
fn sizes_made_of_values_are_bounded() {
    let expand = load(&model(
        vec![node("Expand", &["x", "shape"], &["y"])],
        vec![
            port("x", Onnx::Float, Some(&[D::Length(1)])),
            port("shape", Onnx::Int64, Some(&[D::Length(2)])),
        ],
        vec![port("y", Onnx::Float, None)],
        vec![],
    ))
    .unwrap();
    let run_expand = |dims: &[i64]| run(&*expand, vec![f32s(&[1], &[7.0]), i64s(&[2], dims)]);
    assert_eq!(values(&run_expand(&[2, 3]).unwrap()[0]), [7.0; 6]);
    for dims in [[1 << 20, 1 << 20], [i64::MAX, i64::MAX], [1 << 31, 2], [i64::MIN, 1]] {
        run_expand(&dims).unwrap_err();
    }
    let scalar = |name| port(name, Onnx::Int64, Some(&[]));
    let range = load(&model(
        vec![node("Range", &["start", "limit", "delta"], &["y"])],
        vec![scalar("start"), scalar("limit"), scalar("delta")],
        vec![port("y", Onnx::Int64, Some(&[D::Open]))],
        vec![],
    ))
    .unwrap();
    let run_range = |a, b, c| run(&*range, vec![i64s(&[], &[a]), i64s(&[], &[b]), i64s(&[], &[c])]);
    let outputs = run_range(3, 11, 4).unwrap();
    assert_eq!(outputs[0].data.to_private(), i64s(&[2], &[3, 7]).data.to_private());
    for (a, b, c) in [(0, i64::MAX, 1), (0, 1 << 40, 1), (0, 10, 0), (i64::MIN, i64::MAX, 1)] {
        run_range(a, b, c).unwrap_err();
    }
}

#[test]
fn indices_out_of_range_are_errors() {
    let gather = load(&model(
        vec![node("Gather", &["x", "i"], &["y"])],
        vec![
            port("x", Onnx::Float, Some(&[D::Symbol("n"), D::Length(2)])),
            port("i", Onnx::Int64, Some(&[D::Symbol("k"), D::Length(1)])),
        ],
        vec![port("y", Onnx::Float, None)],
        vec![],
    ))
    .unwrap();
    // Beyond the end of a row lies the next row, which is no answer.
    let columns = load(&model(
        vec![int(node("Gather", &["x", "i"], &["y"]), "axis", 1)],
        vec![
            port("x", Onnx::Float, Some(&[D::Length(2), D::Length(2)])),
            port("i", Onnx::Int64, Some(&[D::Length(1)])),
        ],
        vec![port("y", Onnx::Float, None)],
        vec![],
    ))
    .unwrap();
    let x = || f32s(&[2, 2], &[0.0, 1.0, 2.0, 3.0]);
    assert_eq!(values(&run(&*columns, vec![x(), i64s(&[1], &[-1])]).unwrap()[0]), [1.0, 3.0]);
    run(&*columns, vec![x(), i64s(&[1], &[2])]).unwrap_err();
    run(&*columns, vec![x(), i64s(&[1], &[-3])]).unwrap_err();
    let run_gather =
        |index| run(&*gather, vec![f32s(&[2, 2], &[0.0, 1.0, 2.0, 3.0]), i64s(&[1, 1], &[index])]);
    assert_eq!(values(&run_gather(1).unwrap()[0]), [2.0, 3.0]);
    assert_eq!(values(&run_gather(-2).unwrap()[0]), [0.0, 1.0]);
    for index in [2, -3, i64::MAX, i64::MIN] {
        run_gather(index).unwrap_err();
    }
}

#[test]
fn lengths_that_contradict_each_other_are_errors() {
    let n = || Some(&[D::Symbol("n")][..]);
    let add = load(&model(
        vec![node("Add", &["a", "b"], &["y"])],
        vec![port("a", Onnx::Float, n()), port("b", Onnx::Float, n())],
        vec![port("y", Onnx::Float, n())],
        vec![],
    ))
    .unwrap();
    run(&*add, vec![f32s(&[3], &[0.0; 3]), f32s(&[2], &[0.0; 2])]).unwrap_err();
    assert_eq!(values(&run(&*add, vec![f32s(&[2], &[1.0; 2]), f32s(&[2], &[2.0; 2])]).unwrap()[0]), [3.0; 2]);
}

fn chain(length: usize) -> tract_onnx::pb::ModelProto {
    let names: Vec<String> = (0..=length).map(|i| format!("v{i}")).collect();
    let nodes = names.windows(2).map(|pair| node("Sin", &[&pair[0]], &[&pair[1]])).collect();
    let dims = [D::Symbol("n"), D::Length(256)];
    let ports = |name: &str| vec![port(name, Onnx::Float, Some(&dims))];
    model(nodes, ports("v0"), ports(&names[length]), vec![])
}

#[test]
fn predicts_memory_by_what_is_alive_at_once() {
    let operation = load(&chain(40)).unwrap();
    let row = 256 * 4;
    let peak = |n| operation.peak_bytes(&[Some(Shape::new(&[n, 256]).unwrap())], 0);
    // Two neighbours of the chain at a time, and never all forty.
    for n in [1, 100, 4096] {
        let bytes = peak(n).unwrap();
        assert!((2 * n * row..=4 * n * row).contains(&bytes), "{n} rows: {bytes}");
    }
    assert_eq!(peak(u64::MAX), None);
    assert_eq!(operation.peak_bytes(&[None], 0), None);
    assert_eq!(peak(0), Some(0));
}

#[test]
fn predicts_the_memory_of_outputs_that_no_step_makes() {
    let graph = model(
        vec![node("Identity", &["c"], &["y"])],
        vec![],
        vec![port("y", Onnx::Float, None)],
        vec![floats("c", &[1000], &[0.5; 1000])],
    );
    let operation = load(&graph).unwrap();
    assert!(operation.peak_bytes(&[], 0).unwrap() >= 4000);
    assert_eq!(values(&run(&*operation, vec![]).unwrap()[0]), [0.5; 1000]);
}

#[test]
fn cancelled_work_does_not_run() {
    let operation = load(&chain(3)).unwrap();
    let flag = CancelFlag::new();
    flag.cancel();
    let inputs = vec![Some(f32s(&[1, 256], &[0.5; 256]))];
    let mut work = Work::new(inputs, None, Params::new(), u64::MAX, flag);
    assert!(matches!(operation.run(&mut work), Err(RunError::Cancelled)));
    assert!(work.into_outputs().is_empty());
}

#[test]
fn marks_phases_and_minds_the_room_for_outputs() {
    let operation = load(&chain(2)).unwrap();
    let inputs = || vec![Some(f32s(&[1, 256], &[0.5; 256]))];
    let mut work = Work::new(inputs(), None, Params::new(), 1024, CancelFlag::new());
    operation.run(&mut work).unwrap();
    let phases = work.phases();
    assert!(phases.compute_began.unwrap() <= phases.compute_ended.unwrap());
    let mut work = Work::new(inputs(), None, Params::new(), 1023, CancelFlag::new());
    let error = operation.run(&mut work).unwrap_err();
    assert!(matches!(error, RunError::OutputTooSmall { needed: 1024, available: 1023, .. }), "{error}");
    let mut work = Work::new(vec![None], None, Params::new(), 1024, CancelFlag::new());
    let error = operation.run(&mut work).unwrap_err();
    assert!(matches!(error, RunError::InvalidInput { .. }), "{error}");
}

#[test]
fn threads_share_plans() {
    let general = load(&chain(5)).unwrap();
    let special = load(&reshape_model()).unwrap();
    thread::scope(|scope| {
        for thread in 0..4u64 {
            let (general, special) = (&general, &special);
            scope.spawn(move || {
                for round in 0..20 {
                    let start = (thread * 100 + round) as f32 / 1000.0;
                    let outputs = run(&**general, vec![f32s(&[1, 256], &[start; 256])]).unwrap();
                    let expected = (0..5).fold(start, |x, _| x.sin());
                    assert!((values(&outputs[0])[255] - expected).abs() < 1e-6);
                    let columns = (round % 3 + 1) as i64;
                    let dims = [12 / columns, columns];
                    let x: Vec<f32> = (0..12).map(|i| i as f32 + start).collect();
                    let outputs = run(&**special, vec![f32s(&[12], &x), i64s(&[2], &dims)]).unwrap();
                    assert_eq!(outputs[0].shape.dims(), dims.map(|d| d as u64));
                    assert_eq!(values(&outputs[0]), x);
                }
            });
        }
    });
}

#[test]
fn rounding_operators_get_an_exact_division() {
    let ports = |name| vec![port(name, Onnx::Float, Some(&[D::Length(1)]))];
    let floor = load(&model(
        vec![node("Div", &["x", "c"], &["q"]), node("Floor", &["q"], &["y"])],
        ports("x"),
        ports("y"),
        vec![floats("c", &[1], &[49.0])],
    ))
    .unwrap();
    assert_eq!(values(&run(&*floor, vec![f32s(&[1], &[49.0])]).unwrap()[0]), [1.0]);
}

#[test]
fn the_largest_of_infinities_is_one() {
    let largest = load(&model(
        vec![int(node("ReduceMax", &["x"], &["y"]), "keepdims", 0)],
        vec![port("x", Onnx::Float, Some(&[D::Symbol("n"), D::Length(2)]))],
        vec![port("y", Onnx::Float, None)],
        vec![],
    ))
    .unwrap();
    let low = f32::NEG_INFINITY;
    assert_eq!(values(&run(&*largest, vec![f32s(&[1, 2], &[low, low])]).unwrap()[0]), [low]);
    assert_eq!(values(&run(&*largest, vec![f32s(&[0, 2], &[])]).unwrap()[0]), [low]);
}

/// Operators that values steer, with inputs after the data; each gets every hostile value in every place.
#[test]
fn hostile_values_end_in_an_error_or_an_answer() {
    let hostile = [0, 1, -1, 2, 3, 7, i64::MAX, i64::MIN, 1 << 32, -(1 << 33), 1 << 62];
    let vector = |name: &str, length| port(name, Onnx::Int64, Some(&[D::Length(length)]));
    let matrix = |name: &str| port(name, Onnx::Int64, Some(&[D::Length(1), D::Length(2)]));
    let scalar = |name: &str| port(name, Onnx::Int64, Some(&[]));
    let cases = [
        ("Slice", vec![vector("a", 2), vector("b", 2), vector("c", 2), vector("d", 2)]),
        ("Slice", vec![vector("a", 1), vector("b", 1)]),
        ("Pad", vec![vector("a", 4)]),
        ("Tile", vec![vector("a", 2)]),
        ("Expand", vec![vector("a", 2)]),
        ("Reshape", vec![vector("a", 2)]),
        ("TopK", vec![vector("a", 1)]),
        ("Trilu", vec![scalar("a")]),
        ("CumSum", vec![scalar("a")]),
        ("ReduceSum", vec![vector("a", 1)]),
        ("Squeeze", vec![vector("a", 1)]),
        ("Unsqueeze", vec![vector("a", 1)]),
        ("Split", vec![vector("a", 2)]),
        ("GatherElements", vec![matrix("a")]),
        ("GatherND", vec![matrix("a")]),
        ("Gather", vec![matrix("a")]),
    ];
    for (op_type, steering) in cases {
        let names: Vec<&str> = steering.iter().map(|input| input.name.as_str()).collect();
        let data = port("x", Onnx::Float, Some(&[D::Length(2), D::Length(3)]));
        let outputs: &[&str] = if matches!(op_type, "TopK" | "Split") { &["y", "z"] } else { &["y"] };
        let graph = model(
            vec![node(op_type, &[&["x"], &names[..]].concat(), outputs)],
            [vec![data], steering.clone()].concat(),
            vec![port("y", Onnx::Float, None)],
            vec![],
        );
        let Ok(operation) = load(&graph) else { continue };
        for &value in &hostile {
            for place in 0..=steering.len() {
                let mut inputs = vec![f32s(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])];
                for (index, spec) in operation.signature().inputs.iter().enumerate().skip(1) {
                    let dims: Vec<u64> = spec.dims.iter().flatten().map(|d| d.to_signed() as u64).collect();
                    let count = dims.iter().product::<u64>() as usize;
                    // All inputs the same, or one hostile among ones.
                    let value = if place == 0 || place == index { value } else { 1 };
                    inputs.push(i64s(&dims, &vec![value; count]));
                }
                if let Ok(outputs) = run(&*operation, inputs) {
                    assert!(outputs[0].data.len() <= 1 << 28, "{op_type} of {value}");
                }
            }
        }
    }
}

#[test]
fn formulas_that_must_not_overflow() {
    let unary = |op_type: &str| {
        let ports = |name| vec![port(name, Onnx::Float, Some(&[D::Symbol("n")]))];
        load(&model(vec![node(op_type, &["x"], &["y"])], ports("x"), ports("y"), vec![])).unwrap()
    };
    let x = || f32s(&[3], &[-100.0, 0.0, 1000.0]);
    let softplus = values(&run(&*unary("Softplus"), vec![x()]).unwrap()[0]);
    assert!(softplus[0] == 0.0 && (softplus[1] - 2f32.ln()).abs() < 1e-6 && softplus[2] == 1000.0);
    let log_sum_exp = load(&model(
        vec![node("ReduceLogSumExp", &["x"], &["y"])],
        vec![port("x", Onnx::Float, Some(&[D::Symbol("n")]))],
        vec![port("y", Onnx::Float, Some(&[D::Length(1)]))],
        vec![],
    ))
    .unwrap();
    let of = |x: &[f32]| values(&run(&*log_sum_exp, vec![f32s(&[x.len() as u64], x)]).unwrap()[0])[0];
    assert!((of(&[1000.0, 1001.0]) - 1_001.313_2).abs() < 1e-3);
    assert!((of(&[-1000.0, -1001.0]) + 999.686_7).abs() < 1e-3);
    assert_eq!(of(&[f32::NEG_INFINITY; 2]), f32::NEG_INFINITY);
    assert_eq!(of(&[f32::INFINITY, 0.0]), f32::INFINITY);
}

#[test]
fn shapes_of_open_inputs_are_numbers_in_the_answer() {
    let shape = load(&model(
        vec![node("Shape", &["x"], &["y"])],
        vec![port("x", Onnx::Float, Some(&[D::Symbol("n"), D::Open]))],
        vec![port("y", Onnx::Int64, Some(&[D::Length(2)]))],
        vec![],
    ))
    .unwrap();
    let outputs = run(&*shape, vec![f32s(&[2, 3], &[0.0; 6])]).unwrap();
    assert_eq!(outputs[0].data.to_private(), i64s(&[2], &[2, 3]).data.to_private());
}

#[test]
fn negative_pads_crop_or_are_refused() {
    let pads: Vec<u8> = [-1i64, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let pads = tract_onnx::pb::TensorProto {
        name: "pads".into(),
        dims: vec![2],
        data_type: Onnx::Int64 as i32,
        raw_data: pads,
        ..Default::default()
    };
    let ports = |name, length| vec![port(name, Onnx::Float, Some(&[D::Length(length)]))];
    let padded = model(vec![node("Pad", &["x", "pads"], &["y"])], ports("x", 4), ports("y", 3), vec![pads]);
    // tract keeps pads unsigned, so anything but these two would be a wrong number.
    if let Ok(padded) = load(&padded)
        && let Ok(outputs) = run(&*padded, vec![f32s(&[4], &[1.0, 2.0, 3.0, 4.0])])
    {
        assert_eq!(outputs[0].shape.dims(), &[3]);
        assert_eq!(outputs[0].data.to_private(), f32s(&[3], &[2.0, 3.0, 4.0]).data.to_private());
    }
}
