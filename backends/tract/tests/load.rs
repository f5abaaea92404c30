// SPDX-License-Identifier: Apache-2.0
//! What loads, what does not, and what the error says.

use std::sync::Arc;

use diolkos_backend::{Backend as _, LoadError, LoadOptions, ModelFiles};
use diolkos_tract::TractBackend;
use diolkos_types::{DataType, Dim};
use proptest::prelude::*;
use prost::Message as _;
use tract_onnx::pb::{FunctionProto, NodeProto, StringStringEntryProto, TensorProto};

mod common;

use common::*;

fn add_model() -> tract_onnx::pb::ModelProto {
    model(
        vec![node("Add", &["x", "w"], &["y"])],
        vec![port("x", Onnx::Float, Some(&[D::Symbol("n"), D::Length(2)])), port("w", Onnx::Float, None)],
        vec![port("y", Onnx::Float, Some(&[D::Symbol("n"), D::Length(2)]))],
        vec![floats("w", &[2], &[10.0, 20.0])],
    )
}

fn invalid(result: Result<Arc<dyn diolkos_backend::Operation>, LoadError>) -> String {
    match result {
        Err(LoadError::Invalid { reason }) => reason,
        other => panic!("{:?}", other.map(|o| o.signature().clone())),
    }
}

fn unsupported(result: Result<Arc<dyn diolkos_backend::Operation>, LoadError>) -> String {
    match result {
        Err(LoadError::Unsupported { what, .. }) => what,
        other => panic!("{:?}", other.map(|o| o.signature().clone())),
    }
}

#[test]
fn signature_comes_from_the_file() {
    let operation = load(&add_model()).unwrap();
    let signature = operation.signature();
    // `w` has an initializer, so a request does not give it.
    assert_eq!(signature.inputs.len(), 1);
    assert_eq!(&*signature.inputs[0].name, "x");
    let open = Dim::Variable { max: OPTIONS.variable_dim_max };
    assert_eq!(signature.inputs[0].dims.as_deref(), Some(&[open, Dim::Fixed(2)][..]));
    assert_eq!(signature.outputs[0].data_type, DataType::Fp32);
    for rows in [1u64, 3, 0] {
        let x: Vec<f32> = (0..rows * 2).map(|i| i as f32).collect();
        let outputs = run(&*operation, vec![f32s(&[rows, 2], &x)]).unwrap();
        let expected: Vec<f32> = x.iter().zip([10.0, 20.0].iter().cycle()).map(|(x, w)| x + w).collect();
        assert_eq!((outputs[0].shape.dims(), values(&outputs[0])), (&[rows, 2][..], expected));
    }
}

#[test]
fn open_dimensions_without_a_name_are_independent() {
    let open = [D::Open, D::Symbol("(((((((bad")];
    let operation = load(&model(
        vec![node("MatMul", &["a", "b"], &["y"])],
        vec![
            port("a", Onnx::Float, Some(&open)),
            port("b", Onnx::Float, Some(&[D::Symbol("(((((((bad"), D::Open])),
        ],
        vec![port("y", Onnx::Float, None)],
        vec![],
    ))
    .unwrap();
    let outputs = run(&*operation, vec![f32s(&[1, 2], &[1.0, 2.0]), f32s(&[2, 3], &[1.0; 6])]).unwrap();
    assert_eq!(outputs[0].shape.dims(), [1, 3]);
    assert_eq!(values(&outputs[0]), [3.0; 3]);
}

#[test]
fn any_rank_is_specialised_when_it_comes() {
    let operation = load(&model(
        vec![node("Relu", &["x"], &["y"])],
        vec![port("x", Onnx::Float, None)],
        vec![port("y", Onnx::Float, None)],
        vec![],
    ))
    .unwrap();
    assert_eq!(operation.signature().inputs[0].dims, None);
    for dims in [&[][..], &[1], &[1, 1, 1]] {
        let outputs = run(&*operation, vec![f32s(dims, &[-2.0])]).unwrap();
        assert_eq!((outputs[0].shape.dims(), values(&outputs[0])), (dims, vec![0.0]));
    }
}

#[test]
fn weights_in_other_files_come_from_the_model_files() {
    let mut proto = add_model();
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    proto.graph.as_mut().unwrap().initializer[0] = TensorProto {
        name: "w".into(),
        dims: vec![2],
        data_type: Onnx::Float as i32,
        data_location: Some(1),
        external_data: vec![entry("location", "w.bin"), entry("offset", "4"), entry("length", "8")],
        ..TensorProto::default()
    };
    let mut files = ModelFiles::single("model.onnx", proto.encode_to_vec());
    let missing = TractBackend::new().load(&files, &OPTIONS).map(|_| ()).unwrap_err();
    assert!(matches!(&missing, LoadError::MissingFile { name } if name == "w.bin"), "{missing}");
    let weights: Vec<u8> = [0f32, 1.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    files.files.insert("w.bin".into(), weights.into());
    let operation = TractBackend::new().load(&files, &OPTIONS).unwrap();
    let outputs = run(&*operation, vec![f32s(&[1, 2], &[0.0, 0.0])]).unwrap();
    assert_eq!(values(&outputs[0]), [1.0, 2.0]);
}

#[test]
fn refusals_name_operator_set_and_node() {
    let mut proto = add_model();
    proto.graph.as_mut().unwrap().node[0].op_type = "Frobnicate".into();
    proto.graph.as_mut().unwrap().node[0].name = "first".into();
    let what = unsupported(load(&proto));
    assert!(what.contains("operator ai.onnx.Frobnicate (node `first`) of operator set 17"), "{what}");

    let mut proto = add_model();
    proto.functions.push(FunctionProto { name: Some("Add".into()), ..FunctionProto::default() });
    assert!(unsupported(load(&proto)).contains("function of the model itself"));

    let mut proto = add_model();
    proto.opset_import[0].version = 4000;
    assert!(unsupported(load(&proto)).contains("operator set 4000"));
    proto.opset_import.clear();
    assert!(invalid(load(&proto)).contains("names no version"));
}

#[test]
fn graphs_that_are_no_graphs() {
    let change = |change: fn(&mut tract_onnx::pb::GraphProto)| {
        let mut proto = add_model();
        change(proto.graph.as_mut().unwrap());
        invalid(load(&proto))
    };
    assert!(change(|g| g.node[0].input[0] = "nowhere".into()).contains("reads `nowhere`"));
    assert!(change(|g| g.node[0].input[0] = "y".into()).contains("reads `y`"));
    assert!(change(|g| g.output[0].name = "nothing".into()).contains("output `nothing`"));
    assert!(change(|g| g.output.clear()).contains("no output"));
    assert!(change(|g| g.node.push(g.node[0].clone())).contains("`y` is defined twice"));
    assert!(change(|g| g.initializer[0].dims = vec![3]).contains("tensor `w`"));
    assert!(change(|g| g.initializer[0].dims = vec![-1]).contains("tensor `w`"));
    assert!(change(|g| g.initializer[0].dims = vec![1; 99]).contains("99 dimensions"));
    assert!(change(|g| g.input.push(g.input[0].clone())).contains("`x` is defined twice"));
}

#[test]
fn types_that_the_backend_lacks() {
    let with = |of_type| {
        let ports = |name| vec![port(name, of_type, Some(&[D::Length(1)]))];
        unsupported(load(&model(vec![node("Identity", &["x"], &["y"])], ports("x"), ports("y"), vec![])))
    };
    assert!(with(Onnx::Bfloat16).contains("`x` of type BFLOAT16"));
    assert!(with(Onnx::Complex64).contains("COMPLEX64"));
}

#[test]
fn every_type_passes_through() {
    let types = [
        (Onnx::Bool, DataType::Bool),
        (Onnx::Uint8, DataType::Uint8),
        (Onnx::Uint16, DataType::Uint16),
        (Onnx::Uint32, DataType::Uint32),
        (Onnx::Uint64, DataType::Uint64),
        (Onnx::Int8, DataType::Int8),
        (Onnx::Int16, DataType::Int16),
        (Onnx::Int32, DataType::Int32),
        (Onnx::Int64, DataType::Int64),
        (Onnx::Float16, DataType::Fp16),
        (Onnx::Float, DataType::Fp32),
        (Onnx::Double, DataType::Fp64),
        (Onnx::String, DataType::Bytes),
    ];
    for (onnx, data_type) in types {
        let ports = |name| vec![port(name, onnx, Some(&[D::Symbol("n")]))];
        let operation =
            load(&model(vec![node("Identity", &["x"], &["y"])], ports("x"), ports("y"), vec![])).unwrap();
        let data = match data_type.element_bytes() {
            Some(size) => [vec![0; size], vec![1; size]].concat(),
            None => vec![2, 0, 0, 0, b'o', b'k', 0, 0, 0, 0],
        };
        let shape = diolkos_types::Shape::new(&[2]).unwrap();
        let given = diolkos_backend::Tensor { data_type, shape, data: data.clone().into() };
        let outputs = run(&*operation, vec![given]).unwrap();
        assert_eq!((outputs[0].data_type, outputs[0].shape), (data_type, shape));
        assert_eq!(outputs[0].data.to_private(), data);
    }
}

#[test]
fn limits_of_memory() {
    let files = ModelFiles::single("model.onnx", add_model().encode_to_vec());
    for limit in [10, 2000] {
        let options = LoadOptions { resident_bytes_max: limit, ..OPTIONS };
        let error = TractBackend::new().load(&files, &options).map(|_| ()).unwrap_err();
        assert!(matches!(error, LoadError::TooLarge { needed, limit: l } if needed > limit && l == limit));
    }
}

/// Length-delimited messages inside each other: graph (field 7 of a model), node (1), attribute (5), graph
/// (6), node, attribute, graph, …
fn nested(depth: usize) -> Vec<u8> {
    let wrap = |field: u8, inner: &[u8]| {
        let mut outer = vec![field << 3 | 2];
        let mut length = inner.len();
        while length >= 0x80 {
            outer.push(length as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend_from_slice(inner);
        outer
    };
    let mut inner = Vec::new();
    for _ in 0..depth {
        inner = wrap(1, &wrap(5, &wrap(6, &inner)));
    }
    wrap(7, &inner)
}

#[test]
fn nesting_is_bounded() {
    for depth in [9, 30, 40, 5000] {
        let error = load_bytes(nested(depth)).map(|_| ()).unwrap_err().to_string();
        assert!(error.len() < 1000, "{error}");
    }
}

#[test]
fn more_nodes_than_the_limit() {
    let mut proto = add_model();
    let graph = proto.graph.as_mut().unwrap();
    graph.node = (0..70_000)
        .map(|i| {
            let (from, to) = (format!("v{i}"), format!("v{}", i + 1));
            NodeProto { input: vec![from], output: vec![to], ..node("Relu", &[], &[]) }
        })
        .collect();
    graph.node[0].input[0] = "x".into();
    graph.output[0].name = "v70000".into();
    assert!(unsupported(load(&proto)).contains("nodes"));
}

#[test]
fn every_prefix_of_a_model_is_an_error_or_a_model() {
    let bytes = add_model().encode_to_vec();
    for length in 0..bytes.len() {
        if let Err(error) = load_bytes(bytes[..length].to_vec()) {
            assert!(matches!(error, LoadError::Invalid { .. } | LoadError::Unsupported { .. }), "{error}");
        }
    }
    assert!(matches!(load_bytes(vec![]), Err(LoadError::Invalid { .. })));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(load_bytes(bytes).is_err());
    }

    #[test]
    fn flipped_bytes_never_panic(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = add_model().encode_to_vec();
        let index = at.index(bytes.len());
        bytes[index] = to;
        let _ = load_bytes(bytes);
    }
}
