// SPDX-License-Identifier: Apache-2.0
//! Operators that tract computes by a formula which is wrong, or which overflows where the result does not.

use tract_onnx::pb::NodeProto;

use super::parts::{Parts, attribute, float, integer};

/// `alpha * elu(x / alpha)`. tract leaves the outer factor out.
pub(super) fn celu(node: &NodeProto) -> Option<Vec<NodeProto>> {
    let ([input], [output]) = (node.input.as_slice(), node.output.as_slice()) else { return None };
    let value = attribute(node, "alpha").map_or(1.0, |a| a.f);
    let mut parts = Parts::new(output);
    let alpha = parts.float_like("alpha", value, input);
    let scaled = parts.add("Div", "scaled", &[input, &alpha]);
    let elu = parts.add_with("Elu", "elu", &[&scaled], vec![float("alpha", 1.0)]);
    parts.add("Mul", "result", &[&elu, &alpha]);
    Some(parts.finish())
}

/// `max(x, 0) + log(1 + exp(-|x|))`. tract's `log(1 + exp(x))` is infinite from 89 on.
pub(super) fn softplus(node: &NodeProto) -> Option<Vec<NodeProto>> {
    let ([input], [output]) = (node.input.as_slice(), node.output.as_slice()) else { return None };
    let mut parts = Parts::new(output);
    let one = parts.float_like("one", 1.0, input);
    let absolute = parts.add("Abs", "absolute", &[input]);
    let negative = parts.add("Neg", "negative", &[&absolute]);
    let small = parts.add("Exp", "exp", &[&negative]);
    let sum = parts.add("Add", "sum", &[&one, &small]);
    let log = parts.add("Log", "log", &[&sum]);
    let positive = parts.add("Relu", "positive", &[input]);
    parts.add("Add", "result", &[&positive, &log]);
    Some(parts.finish())
}

/// `m + log(sum(exp(x - m)))` with the maximum m. tract leaves m out, so that 89 overflows.
pub(super) fn reduce_log_sum_exp(node: &NodeProto) -> Option<Vec<NodeProto>> {
    let [output] = node.output.as_slice() else { return None };
    let input = node.input.first()?;
    let axes = node.input.get(1).map(String::as_str).filter(|axes| !axes.is_empty());
    let mut inputs = vec![input.as_str()];
    inputs.extend(axes);
    let with_keepdims = |keep: i64| {
        let mut attributes: Vec<_> =
            node.attribute.iter().filter(|a| a.name != "keepdims").cloned().collect();
        attributes.push(integer("keepdims", keep));
        attributes
    };
    let keep = attribute(node, "keepdims").map_or(1, |a| a.i);
    let mut parts = Parts::new(output);
    // A finite stand-in for an infinite maximum: the difference of two infinities is no number.
    let low = parts.float_like("low", f32::MIN, input);
    let high = parts.float_like("high", f32::MAX, input);
    let finite = |parts: &mut Parts, name: &str, from: &str| {
        let above = parts.add("Max", &format!("{name}_above"), &[from, &low]);
        parts.add("Min", name, &[&above, &high])
    };
    let largest = parts.add_with("ReduceMax", "largest", &inputs, with_keepdims(1));
    let largest = finite(&mut parts, "finite", &largest);
    let shifted = parts.add("Sub", "shifted", &[input, &largest]);
    let exp = parts.add("Exp", "exp", &[&shifted]);
    inputs[0] = &exp;
    // A sum, since exponentials are positive. `ReduceSum` itself takes its axes in another form in the
    // operator sets 13 to 17.
    let sum = parts.add_with("ReduceL1", "sum", &inputs, with_keepdims(keep));
    let log = parts.add("Log", "log", &[&sum]);
    inputs[0] = node.input.first()?;
    let shift = parts.add_with("ReduceMax", "shift", &inputs, with_keepdims(keep));
    let shift = finite(&mut parts, "finite_shift", &shift);
    parts.add("Add", "result", &[&log, &shift]);
    Some(parts.finish())
}
