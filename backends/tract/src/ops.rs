// SPDX-License-Identifier: Apache-2.0
//! Operators that tract lacks or gets wrong, written on its public building blocks.

mod bit_cast;
mod exact_div;
mod extreme;
mod lp_pool;
mod parts;
mod quantize;
mod stable;

use std::sync::OnceLock;

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::prelude::{TractError, TractResult};
use tract_onnx::tract_hir::infer::InferenceOp;

use crate::rules::is_default_domain;

/// What a builder gives: the operator, and the names that nested graphs take from outside.
type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// A function that turns a node into an operator.
type Builder = fn(&ParsingContext<'_>, &NodeProto) -> Built;

/// Puts our builders in the place of tract's.
pub(crate) fn register(operators: &mut OnnxOpRegister) {
    operators.insert("BitCast", bit_cast::build);
    operators.insert("DequantizeLinear", quantize::dequantize_linear);
    operators.insert(exact_div::NAME, exact_div::build);
    operators.insert("GlobalMaxPool", extreme::build);
    operators.insert("QuantizeLinear", quantize::quantize_linear);
    operators.insert("ReduceMax", extreme::build);
    operators.insert("ReduceMin", extreme::build);
}

/// tract's own builder of an operator.
fn builder_of_tract(op_type: &str) -> TractResult<Builder> {
    static REGISTER: OnceLock<OnnxOpRegister> = OnceLock::new();
    let register = REGISTER.get_or_init(|| tract_onnx::onnx().op_register);
    register.0.get(op_type).copied().ok_or_else(|| TractError::msg(format!("tract has no {op_type}")))
}

/// Replaces nodes by equal ones that tract has. Runs after everything was checked: the names it makes
/// and the operators it uses need no check.
pub(crate) fn rewrite(graph: &mut GraphProto) {
    let nodes = std::mem::take(&mut graph.node);
    graph.node.reserve(nodes.len());
    for node in nodes {
        let rewriter = match node.op_type.as_str() {
            _ if !is_default_domain(&node.domain) => None,
            "Celu" => Some(stable::celu as fn(&NodeProto) -> Option<Vec<NodeProto>>),
            "LpPool" => Some(lp_pool::rewrite as _),
            "ReduceLogSumExp" => Some(stable::reduce_log_sum_exp as _),
            "Softplus" => Some(stable::softplus as _),
            _ => None,
        };
        match rewriter.and_then(|rewriter| rewriter(&node)) {
            Some(parts) => graph.node.extend(parts),
            None => graph.node.push(node),
        }
    }
    exact_div::rewrite(graph);
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(rewrite);
    }
}
