// SPDX-License-Identifier: Apache-2.0
//! A multi-layer perceptron as an ONNX file, made up: weights are random, since only their number matters here.
//!
//! The messages are the few of `onnx.proto` that such a model needs, with the numbers that its fields have there.

use diolkos_backend::Seeded;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<Opset>,
}

#[derive(Clone, PartialEq, Message)]
struct Opset {
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<Port>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<Port>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes, tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Port {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    of_type: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(oneof = "Length", tags = "1, 2")]
    length: Option<Length>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Length {
    #[prost(int64, tag = "1")]
    Fixed(i64),
    #[prost(string, tag = "2")]
    Symbol(String),
}

/// `FLOAT` of ONNX.
const FLOAT: i32 = 1;

/// So many layers of `width` × `width` with a ReLU behind each, from FP32 `x` [-1, width] to FP32 `y` [-1, width].
pub(super) fn mlp(layers: usize, width: usize) -> Vec<u8> {
    let mut random = Seeded::new(7);
    // Of the size that keeps numbers about as large from layer to layer.
    let scale = (6.0 / width as f32).sqrt();
    let mut weight = || ((random.next() >> 40) as f32 / (1 << 24) as f32 - 0.5) * 2.0 * scale;
    let (mut node, mut initializer) = (Vec::new(), Vec::new());
    let mut before = "x".to_owned();
    for layer in 0..layers {
        let (name, product) = (format!("w{layer}"), format!("p{layer}"));
        let after = if layer + 1 == layers { "y".to_owned() } else { format!("r{layer}") };
        let raw_data = (0..width * width).flat_map(|_| weight().to_le_bytes()).collect();
        let dims = vec![width as i64; 2];
        initializer.push(Tensor { dims, data_type: FLOAT, name: name.clone(), raw_data });
        let op = |op_type: &str, input, output| Node { input, output: vec![output], op_type: op_type.into() };
        node.push(op("MatMul", vec![before, name], product.clone()));
        node.push(op("Relu", vec![product], after.clone()));
        before = after;
    }
    let port = |name: &str| {
        let lengths = [Length::Symbol("rows".into()), Length::Fixed(width as i64)];
        let dim = lengths.into_iter().map(|length| Dim { length: Some(length) }).collect();
        let tensor = TensorType { elem_type: FLOAT, shape: Some(Shape { dim }) };
        Port { name: name.into(), of_type: Some(Type { tensor: Some(tensor) }) }
    };
    let (input, output) = (vec![port("x")], vec![port("y")]);
    let graph = Graph { node, name: "mlp".into(), initializer, input, output };
    let opset_import = vec![Opset { version: 13 }];
    Model { ir_version: 8, graph: Some(graph), opset_import }.encode_to_vec()
}
