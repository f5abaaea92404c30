// SPDX-License-Identifier: Apache-2.0
//! What the integration tests share: small models made in memory, and a short way to run one.

#![allow(dead_code, unreachable_pub, reason = "each test file needs another part")]

use std::sync::Arc;

use diolkos_backend::{
    Backend as _, CancelFlag, LoadError, LoadOptions, ModelFiles, Operation, RunError, Tensor, Work,
};
use diolkos_tract::TractBackend;
use diolkos_types::{DataType, Params, Shape};
use prost::Message as _;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value as DimValue};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};

pub use tract_onnx::pb::tensor_proto::DataType as Onnx;

pub const OPTIONS: LoadOptions = LoadOptions { variable_dim_max: 4096, resident_bytes_max: 1 << 32 };

/// A dimension of a graph's input: a length, a symbol, or nothing said.
#[derive(Clone, Copy)]
pub enum D {
    Length(i64),
    Symbol(&'static str),
    Open,
}

pub fn port(name: &str, of_type: Onnx, dims: Option<&[D]>) -> ValueInfoProto {
    let dim = |d: &D| Dimension {
        value: match d {
            D::Length(length) => Some(DimValue::DimValue(*length)),
            D::Symbol(text) => Some(DimValue::DimParam((*text).into())),
            D::Open => None,
        },
        ..Dimension::default()
    };
    let shape = dims.map(|dims| TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: of_type as i32, shape };
    let of_type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), r#type: Some(of_type), ..ValueInfoProto::default() }
}

pub fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: op_type.into(),
        input: inputs.iter().map(|&n| n.into()).collect(),
        output: outputs.iter().map(|&n| n.into()).collect(),
        ..NodeProto::default()
    }
}

pub fn int(mut node: NodeProto, name: &str, value: i64) -> NodeProto {
    let attribute = AttributeProto {
        name: name.into(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..AttributeProto::default()
    };
    node.attribute.push(attribute);
    node
}

pub fn ints(mut node: NodeProto, name: &str, values: &[i64]) -> NodeProto {
    let attribute = AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: values.to_vec(),
        ..AttributeProto::default()
    };
    node.attribute.push(attribute);
    node
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: Onnx::Float as i32,
        float_data: values.to_vec(),
        ..TensorProto::default()
    }
}

pub fn model(
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    initializer: Vec<TensorProto>,
) -> ModelProto {
    let graph = GraphProto {
        name: "g".into(),
        node: nodes,
        input: inputs,
        output: outputs,
        initializer,
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

pub fn load(model: &ModelProto) -> Result<Arc<dyn Operation>, LoadError> {
    load_bytes(model.encode_to_vec())
}

pub fn load_bytes(bytes: Vec<u8>) -> Result<Arc<dyn Operation>, LoadError> {
    TractBackend::new().load(&ModelFiles::single("model.onnx", bytes), &OPTIONS)
}

pub fn f32s(dims: &[u64], values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { data_type: DataType::Fp32, shape: Shape::new(dims).expect("few dimensions"), data: bytes.into() }
}

pub fn i64s(dims: &[u64], values: &[i64]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor {
        data_type: DataType::Int64,
        shape: Shape::new(dims).expect("few dimensions"),
        data: bytes.into(),
    }
}

pub fn run(operation: &dyn Operation, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, RunError> {
    let inputs = inputs.into_iter().map(Some).collect();
    let mut work = Work::new(inputs, None, Params::new(), u64::MAX, CancelFlag::new());
    operation.run(&mut work)?;
    Ok(work.into_outputs().into_iter().map(|output| output.expect("every output is given")).collect())
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.data_type, DataType::Fp32);
    let bytes = tensor.data.to_private();
    bytes.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().expect("chunks of 4"))).collect()
}
