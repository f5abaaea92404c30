// SPDX-License-Identifier: Apache-2.0
//! Division of floats that is a division.
//!
//! tract multiplies by the reciprocal, so that 49 / 49 is 0.99999994. That is rounding, and faster, unless
//! something rounds the quotient: `Floor` of it would be 0. Models with such operators get this one.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::tract_hir::internal::tract_ndarray::{ArrayViewD, IxDyn};
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::binary::{rules, wire_cast, wire_rank_broadcast};
use tract_onnx::tract_hir::tract_core::broadcast::multi_broadcast;
use tract_onnx::tract_hir::tract_core::ops::math::div;

use super::Built;

/// The name under which a `Div` that must be exact reaches tract.
pub(super) const NAME: &str = "DiolkosExactDiv";

/// Operators that turn a small difference of a float into a difference of one.
const ROUNDING: [&str; 9] = [
    "Floor",
    "Ceil",
    "Round",
    "Cast",
    "CastLike",
    "Mod",
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "BitCast",
];

/// Renames each `Div` of a graph that rounds something.
pub(super) fn rewrite(graph: &mut GraphProto) {
    let ours = |node: &NodeProto| node.name.contains("/diolkos/");
    if graph.node.iter().any(|node| ROUNDING.contains(&node.op_type.as_str()) && !ours(node)) {
        graph
            .node
            .iter_mut()
            .filter(|node| node.op_type == "Div")
            .for_each(|node| node.op_type = NAME.into());
    }
}

/// Builds the operator.
pub(super) fn build(_context: &ParsingContext<'_>, _node: &NodeProto) -> Built {
    Ok((expand(Div), vec![]))
}

fn quotient_type(a: DatumType, b: DatumType) -> TractResult<DatumType> {
    a.common_super_type(b).with_context(|| format!("no type holds both {a:?} and {b:?}"))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Div;

impl Expansion for Div {
    fn name(&self) -> StaticName {
        NAME.into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        rules(s, inputs, outputs, quotient_type)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let (a, b) = (model.outlet_fact(inputs[0])?.datum_type, model.outlet_fact(inputs[1])?.datum_type);
        let datum_type = quotient_type(a, b)?;
        let wires = wire_rank_broadcast(prefix, model, inputs)?;
        let wires = wire_cast(prefix, model, &wires, datum_type)?;
        match datum_type {
            DatumType::F16 | DatumType::F32 | DatumType::F64 => model.wire_node(prefix, ExactDiv, &wires),
            _ => model.wire_node(prefix, div(), &wires),
        }
    }
}

/// Division of two tensors of the same float type and rank.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ExactDiv;

fn divide<T: Datum + Copy + std::ops::Div<Output = T>>(a: &Tensor, b: &Tensor) -> TractResult<Tensor> {
    let shape = multi_broadcast(&[a.shape(), b.shape()])?;
    let dims = IxDyn(&shape);
    let a: ArrayViewD<'_, T> = a.to_plain_array_view()?;
    let b: ArrayViewD<'_, T> = b.to_plain_array_view()?;
    let a = a.broadcast(dims.clone()).context("shapes do not broadcast")?;
    let b = b.broadcast(dims).context("shapes do not broadcast")?;
    let mut quotient = a.to_owned();
    quotient.zip_mut_with(&b, |a, b| *a = *a / *b);
    Ok(quotient.into_tensor())
}

impl Op for ExactDiv {
    fn name(&self) -> StaticName {
        "ExactDiv".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ExactDiv {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (a, b) = args_2!(inputs);
        let quotient = match a.datum_type() {
            DatumType::F16 => divide::<f16>(&a, &b),
            DatumType::F32 => divide::<f32>(&a, &b),
            DatumType::F64 => divide::<f64>(&a, &b),
            other => bail!("no exact division of {other:?}"),
        }?;
        Ok(tvec!(quotient.into_tvalue()))
    }
}

impl TypedOp for ExactDiv {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = multi_broadcast(&[&inputs[0].shape, &inputs[1].shape])?;
        Ok(tvec!(inputs[0].datum_type.fact(shape)))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divides_and_broadcasts() {
        let a = Tensor::from_shape(&[2, 1], &[49f32, 1e-40]).unwrap();
        let b = Tensor::from_shape(&[1, 2], &[49f32, 1e-40]).unwrap();
        let expected = Tensor::from_shape(&[2, 2], &[1f32, 49.0 / 1e-40, 1e-40 / 49.0, 1.0]).unwrap();
        assert_eq!(divide::<f32>(&a, &b).unwrap(), expected);
    }
}
