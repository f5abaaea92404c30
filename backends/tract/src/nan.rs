// SPDX-License-Identifier: Apache-2.0
//! NaN in an input, for models that would make a number of it.
//!
//! tract's kernels for some operators take the larger or the smaller of two numbers by instructions that,
//! when one of them is NaN, give the other. A NaN in the input then comes out as a bound, which looks like an
//! answer. Such a request is refused, by name and place.
//!
//! A model that asks by itself whether something is NaN is taken at its word. NaN that a model computes
//! from numbers (infinity minus infinity, say) is not seen here.

use diolkos_types::DataType;
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::prelude::Tensor as TractTensor;

use crate::guard::shorten;
use crate::rules::place;

/// Operators through which NaN does not pass, as `tests/nan.rs` found.
const LOSING: [&str; 3] = ["Clip", "Relu", "Tanh"];
/// Operators with such a one inside.
const LOSING_INSIDE: [&str; 3] = ["GRU", "LSTM", "RNN"];

/// Elements looked at between two decisions: enough for vector instructions, few enough to stop early.
const BLOCK: usize = 1024;

/// Refuses NaN on behalf of one operator of the model.
pub(crate) struct NanGuard {
    /// The operator, for the message.
    place: String,
}

impl NanGuard {
    /// `None` for graphs that NaN passes through, or that look for it themselves.
    pub(crate) fn new(graph: &GraphProto) -> Option<NanGuard> {
        let mut found = None;
        let looks = any_node(graph, &mut |node| {
            let op = node.op_type.as_str();
            if found.is_none() && (LOSING.contains(&op) || LOSING_INSIDE.contains(&op)) {
                found = Some(shorten(&place(node)));
            }
            op == "IsNaN"
        });
        found.filter(|_| !looks).map(|place| NanGuard { place })
    }

    /// The error is the end of a sentence that begins with the input.
    pub(crate) fn check(&self, data_type: DataType, tensor: &TractTensor) -> Result<(), String> {
        match first_nan(data_type, tensor) {
            None => Ok(()),
            Some(index) => Err(format!(
                "has NaN at element {index}, which {} of this model would silently turn into a number; send numbers",
                self.place
            )),
        }
    }
}

/// Whether `is` holds for a node of the graph or of one inside it. Looks no further once it does.
fn any_node(graph: &GraphProto, is: &mut impl FnMut(&NodeProto) -> bool) -> bool {
    graph.node.iter().any(|node| {
        let inner = node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
        is(node) || inner.into_iter().any(|graph| any_node(graph, is))
    })
}

fn first_nan(data_type: DataType, tensor: &TractTensor) -> Option<usize> {
    // Only floats have NaN; and only plain memory has bytes.
    match data_type {
        DataType::Fp32 => first::<u32>(tensor.as_bytes(), |bits| bits & 0x7fff_ffff > 0x7f80_0000),
        DataType::Fp64 => {
            first::<u64>(tensor.as_bytes(), |bits| bits & (u64::MAX >> 1) > 0x7ff0_0000_0000_0000)
        }
        DataType::Fp16 => first::<u16>(tensor.as_bytes(), |bits| bits & 0x7fff > 0x7c00),
        _ => None,
    }
}

fn first<T: bytemuck::AnyBitPattern>(bytes: &[u8], is_nan: impl Fn(T) -> bool) -> Option<usize> {
    let elements: &[T] = bytemuck::try_cast_slice(bytes).ok()?;
    // Without a branch inside the block, so that it becomes vector instructions.
    let in_block = |block: &[T]| block.iter().fold(false, |found, &element| found | is_nan(element));
    let block = elements.chunks(BLOCK).position(in_block)?;
    let inside = elements[block * BLOCK..].iter().position(|&element| is_nan(element))?;
    Some(block * BLOCK + inside)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn found<T: tract_onnx::prelude::Datum + Copy>(data_type: DataType, values: &[T]) -> Option<usize> {
        first_nan(data_type, &TractTensor::from_shape(&[values.len()], values).unwrap())
    }

    #[test]
    fn finds_the_first_of_every_kind_and_nothing_else() {
        for at in [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 5] {
            let mut singles = vec![f32::INFINITY; 3 * BLOCK + 6];
            let mut doubles = vec![f64::NEG_INFINITY; singles.len()];
            let mut halves = vec![f16::INFINITY; singles.len()];
            assert_eq!(found(DataType::Fp32, &singles), None);
            assert_eq!(found(DataType::Fp64, &doubles), None);
            assert_eq!(found(DataType::Fp16, &halves), None);
            (singles[at], doubles[at], halves[at]) = (-f32::NAN, f64::NAN, f16::NAN);
            *singles.last_mut().unwrap() = f32::NAN;
            assert_eq!(found(DataType::Fp32, &singles), Some(at));
            assert_eq!(found(DataType::Fp64, &doubles), Some(at));
            assert_eq!(found(DataType::Fp16, &halves), Some(at));
        }
        assert_eq!(found(DataType::Fp32, &[f32::from_bits(0x7f80_0001), 0.0]), Some(0), "a signalling one");
        assert_eq!(found(DataType::Int64, &[-1i64]), None);
        assert_eq!(found::<f32>(DataType::Fp32, &[]), None);
    }

    fn graph(ops: &[&str]) -> GraphProto {
        let node = |op: &&str| NodeProto { op_type: (*op).into(), ..NodeProto::default() };
        GraphProto { node: ops.iter().map(node).collect(), ..GraphProto::default() }
    }

    #[test]
    fn a_model_that_looks_for_nan_is_left_alone() {
        assert!(NanGuard::new(&graph(&["Conv", "Add"])).is_none());
        assert!(NanGuard::new(&graph(&["Conv", "Relu"])).unwrap().place.contains("Relu"));
        assert!(NanGuard::new(&graph(&["Relu", "IsNaN"])).is_none());
    }
}
