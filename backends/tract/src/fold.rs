// SPDX-License-Identifier: Apache-2.0
//! Computes at load what depends on weights alone.
//!
//! tract does so only while results stay below 4 MiB, so that the large layers of a model with quantised or
//! half-precision weights would be converted again in every run.

use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::konst::Const;

/// A result may be this many times as large as the constants it comes from: 8-bit weights as FP32, with
/// room. More is no conversion but a broadcast, which is better left to the run.
const GROWTH_MAX: u64 = 8;

/// Replaces nodes whose inputs are constants by their results.
pub(crate) fn fold_constants(model: &mut TypedModel) -> TractResult<()> {
    for id in model.eval_order()? {
        let Some(results) = evaluate(model, id)? else { continue };
        let name = model.node(id).name.clone();
        let mut patch = TypedModelPatch::default();
        for (slot, result) in results.into_iter().enumerate() {
            let wire = patch.add_const(format!("{name}.folded_{slot}"), result.into_arc_tensor())?;
            patch.shunt_outside(model, OutletId::new(id, slot), wire)?;
        }
        patch.apply(model)?;
    }
    model.compact()
}

fn evaluate(model: &TypedModel, id: usize) -> TractResult<Option<TVec<TValue>>> {
    let node = model.node(id);
    if node.inputs.is_empty() {
        return Ok(None);
    }
    let constant = |input: &OutletId| -> Option<TValue> {
        let value = model.node(input.node).op_as::<Const>()?.val();
        value.is_plain_ram().then(|| value.clone().into_tvalue())
    };
    let Some(inputs) = node.inputs.iter().map(constant).collect::<Option<TVec<TValue>>>() else {
        return Ok(None);
    };
    let given: u64 = inputs.iter().map(|input| input.as_bytes().len() as u64).sum();
    let made = node.outputs.iter().map(|output| output.fact.mem_size().as_i64()).sum::<Option<i64>>();
    let small = made.and_then(|made| u64::try_from(made).ok()).is_some_and(|made| made <= given * GROWTH_MAX);
    // A size that depends on a symbol is no reason to fail: the run will know it.
    if small { Ok(node.op.eval_out_of_plan(inputs).ok().flatten()) } else { Ok(None) }
}
