// SPDX-License-Identifier: Apache-2.0
//! `BitCast`: the same bytes seen as another type of the same size.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Built;

/// Builds the operator.
pub(super) fn build(_context: &ParsingContext<'_>, node: &NodeProto) -> Built {
    let to = node.get_attr::<DatumType>("to")?;
    // A `bool` has only two valid bytes, and strings have no bits of their own.
    ensure!(to.is_number(), "BitCast to {to:?} is not supported");
    Ok((expand(BitCast { to }), vec![]))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct BitCast {
    to: DatumType,
}

impl Expansion for BitCast {
    fn name(&self) -> StaticName {
        "BitCast".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, self.to)?;
        s.equals(&inputs[0].shape, &outputs[0].shape)?;
        Ok(())
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let from = model.outlet_fact(inputs[0])?.datum_type;
        ensure!(
            from.is_copy() && from.size_of() == self.to.size_of(),
            "BitCast from {from:?} to {:?}, which differ in size",
            self.to
        );
        model.wire_node(name, TypedBitCast(self.clone()), inputs)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TypedBitCast(BitCast);

impl Op for TypedBitCast {
    fn name(&self) -> StaticName {
        "BitCast".into()
    }

    op_as_typed_op!();
}

impl EvalOp for TypedBitCast {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let mut output = Tensor::zero_dt(self.0.to, input.shape())?;
        output.as_bytes_mut().copy_from_slice(input.as_bytes());
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for TypedBitCast {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.0.to.fact(inputs[0].shape.clone())))
    }

    as_op!();
}
