// SPDX-License-Identifier: Apache-2.0
//! `LpPool` as what it means: the p-th root of the windows' sums of p-th powers.
//!
//! A sum over a window is its average, padding counted, times the size of the window.

use tract_onnx::pb::NodeProto;

use super::parts::{Parts, attribute, integer};

/// The nodes in the place of a `LpPool`; `None` leaves it to tract, which refuses it.
pub(super) fn rewrite(node: &NodeProto) -> Option<Vec<NodeProto>> {
    let ([input], [output]) = (node.input.as_slice(), node.output.as_slice()) else { return None };
    let p = attribute(node, "p").map_or(2, |a| a.i);
    let window = attribute(node, "kernel_shape")?.ints.iter().try_fold(1i64, |n, &k| n.checked_mul(k))?;
    if p < 1 || window < 1 {
        return None;
    }
    let mut parts = Parts::new(output);
    let exponent = parts.float_like("p", p as f32, input);
    let inverse = parts.float_like("inverse", 1.0 / p as f32, input);
    let size = parts.float_like("size", window as f32, input);
    let absolute = parts.add("Abs", "absolute", &[input]);
    let power = parts.add("Pow", "power", &[&absolute, &exponent]);
    let mut attributes: Vec<_> = node.attribute.iter().filter(|a| a.name != "p").cloned().collect();
    attributes.push(integer("count_include_pad", 1));
    let average = parts.add_with("AveragePool", "average", &[&power], attributes);
    let sum = parts.add("Mul", "sum", &[&average, &size]);
    parts.add("Pow", "root", &[&sum, &inverse]);
    Some(parts.finish())
}
