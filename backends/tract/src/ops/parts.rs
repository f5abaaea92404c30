// SPDX-License-Identifier: Apache-2.0
//! Writes the nodes that take another node's place.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};

/// The nodes in the place of one. Names start with that node's output, which is unique in its graph.
pub(super) struct Parts {
    prefix: String,
    nodes: Vec<NodeProto>,
}

impl Parts {
    /// No nodes yet, in the place of the one that gives `output`.
    pub(super) fn new(output: &str) -> Parts {
        Parts { prefix: output.into(), nodes: Vec::new() }
    }

    fn name(&self, part: &str) -> String {
        format!("{}/diolkos/{part}", self.prefix)
    }

    /// Adds a node and gives the name of its result.
    pub(super) fn add(&mut self, op_type: &str, part: &str, inputs: &[&str]) -> String {
        self.add_with(op_type, part, inputs, Vec::new())
    }

    /// Adds a node with attributes and gives the name of its result.
    pub(super) fn add_with(
        &mut self,
        op_type: &str,
        part: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let output = self.name(part);
        self.nodes.push(NodeProto {
            name: output.clone(),
            op_type: op_type.into(),
            input: inputs.iter().map(|&input| input.into()).collect(),
            output: vec![output.clone()],
            attribute: attributes,
            ..NodeProto::default()
        });
        output
    }

    /// Adds a float of the type that `like` has.
    pub(super) fn float_like(&mut self, part: &str, value: f32, like: &str) -> String {
        let raw = value.to_le_bytes().to_vec();
        let constant = self.constant(&format!("{part}_32"), DataType::Float, &[], raw);
        self.add("CastLike", part, &[&constant, like])
    }

    fn constant(&mut self, part: &str, data_type: DataType, dims: &[i64], raw_data: Vec<u8>) -> String {
        let tensor = TensorProto {
            dims: dims.to_vec(),
            data_type: data_type as i32,
            raw_data,
            ..TensorProto::default()
        };
        let value = AttributeProto {
            name: "value".into(),
            r#type: AttributeType::Tensor as i32,
            t: Some(tensor),
            ..AttributeProto::default()
        };
        self.add_with("Constant", part, &[], vec![value])
    }

    /// The nodes; the last one gives the output of the node whose place they take.
    pub(super) fn finish(mut self) -> Vec<NodeProto> {
        if let Some(last) = self.nodes.last_mut() {
            last.output = vec![self.prefix];
        }
        self.nodes
    }
}

/// An integer attribute.
pub(super) fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..AttributeProto::default()
    }
}

/// A float attribute.
pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Float as i32,
        f: value,
        ..AttributeProto::default()
    }
}

/// The attribute of this name.
pub(super) fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}
