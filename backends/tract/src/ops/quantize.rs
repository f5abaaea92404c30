// SPDX-License-Identifier: Apache-2.0
//! `QuantizeLinear` and `DequantizeLinear` by their definitions.
//!
//! tract multiplies by the reciprocal of the scale, which rounds some ties the other way, wants scales to
//! be constants, and knows 8-bit integers only. On constants, such as quantised weights, the arithmetic
//! here is folded when the model is optimised.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::tract_core::ops::math::{add, max, min, mul, round_half_to_even, sub};

use super::Built;
use super::exact_div::ExactDiv;

/// Builds `QuantizeLinear`.
pub(super) fn quantize_linear(_context: &ParsingContext<'_>, node: &NodeProto) -> Built {
    build(node, true)
}

/// Builds `DequantizeLinear`.
pub(super) fn dequantize_linear(_context: &ParsingContext<'_>, node: &NodeProto) -> Built {
    build(node, false)
}

fn build(node: &NodeProto, quantize: bool) -> Built {
    let blocks = node.get_attr_opt::<i64>("block_size")?.unwrap_or(0);
    ensure!(blocks == 0, "blocked quantization is not supported");
    let axis = node.get_attr_opt("axis")?.unwrap_or(1);
    let zero_point = node.input.get(2).is_some_and(|name| !name.is_empty());
    // The numbers are those of ONNX's element types.
    let output = match (node.get_attr_opt::<i64>("output_dtype")?.unwrap_or(0), quantize) {
        (0, _) => None,
        (1, false) => Some(DatumType::F32),
        (2, true) => Some(DatumType::U8),
        (3, true) => Some(DatumType::I8),
        (4, true) => Some(DatumType::U16),
        (5, true) => Some(DatumType::I16),
        (other, _) => bail!("output_dtype {other} is not supported"),
    };
    Ok((expand(Linear { quantize, axis, zero_point, output }), vec![]))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Linear {
    quantize: bool,
    axis: i64,
    zero_point: bool,
    output: Option<DatumType>,
}

impl Expansion for Linear {
    fn name(&self) -> StaticName {
        if self.quantize { "QuantizeLinear".into() } else { "DequantizeLinear".into() }
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 2 + usize::from(self.zero_point))?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].shape, &outputs[0].shape)?;
        let output = &outputs[0].datum_type;
        match (self.output, self.quantize) {
            (Some(datum_type), _) => s.equals(output, datum_type)?,
            (None, true) if self.zero_point => s.equals(output, &inputs[2].datum_type)?,
            (None, true) => s.equals(output, DatumType::U8)?,
            (None, false) => s.equals(output, &inputs[1].datum_type)?,
        }
        if self.zero_point {
            let stored = if self.quantize { output } else { &inputs[0].datum_type };
            s.equals(&inputs[2].datum_type, stored)?;
        }
        Ok(())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let rank = model.outlet_fact(inputs[0])?.rank();
        let x = float(model, &format!("{prefix}.x"), inputs[0])?;
        let scale = self.along_axis(model, &format!("{prefix}.scale"), inputs[1], rank)?;
        let zero_point = match self.zero_point {
            true => Some(self.along_axis(model, &format!("{prefix}.zero_point"), inputs[2], rank)?),
            false => None,
        };
        if self.quantize {
            let datum_type = match (self.output, self.zero_point) {
                (Some(datum_type), _) => datum_type,
                (None, true) => model.outlet_fact(inputs[2])?.datum_type,
                (None, false) => DatumType::U8,
            };
            wire_quantize(prefix, model, x, scale, zero_point, datum_type)
        } else {
            let datum_type = match self.output {
                Some(datum_type) => datum_type,
                None => model.outlet_fact(inputs[1])?.datum_type,
            };
            let x = match zero_point {
                Some(zero_point) => model.wire_node(format!("{prefix}.sub"), sub(), &[x, zero_point])?[0],
                None => x,
            };
            let product = model.wire_node(format!("{prefix}.mul"), mul(), &[x, scale])?;
            model.wire_node(prefix, cast(datum_type), &product)
        }
    }
}

impl Linear {
    /// A scale or zero point as FP32, shaped so that it meets a tensor of this rank along the axis.
    fn along_axis(
        &self,
        model: &mut TypedModel,
        name: &str,
        parameter: OutletId,
        rank: usize,
    ) -> TractResult<OutletId> {
        let mut wire = float(model, name, parameter)?;
        let fact = model.outlet_fact(wire)?;
        let is_vector = match fact.rank() {
            0 => false,
            1 if fact.shape[0].is_one() => {
                wire = model.wire_node(format!("{name}.scalar"), AxisOp::Rm(0), &[wire])?[0];
                false
            }
            1 => true,
            other => bail!("a scale of rank {other} is not supported"),
        };
        let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
        ensure!(!is_vector || (0..rank as i64).contains(&axis), "axis {} is out of range", self.axis);
        let before = if is_vector { axis as usize } else { rank };
        let after = if is_vector { rank - before - 1 } else { 0 };
        for index in 0..before {
            wire = model.wire_node(format!("{name}.before_{index}"), AxisOp::Add(0), &[wire])?[0];
        }
        for index in 0..after {
            let at = AxisOp::Add(before + 1 + index);
            wire = model.wire_node(format!("{name}.after_{index}"), at, &[wire])?[0];
        }
        Ok(wire)
    }
}

fn float(model: &mut TypedModel, name: &str, wire: OutletId) -> TractResult<OutletId> {
    Ok(model.wire_node(format!("{name}.f32"), cast(DatumType::F32), &[wire])?[0])
}

/// `saturate(round_half_to_even(x / scale) + zero_point)`.
fn wire_quantize(
    prefix: &str,
    model: &mut TypedModel,
    x: OutletId,
    scale: OutletId,
    zero_point: Option<OutletId>,
    datum_type: DatumType,
) -> TractResult<TVec<OutletId>> {
    let (low, high) = match datum_type {
        DatumType::U8 => (f32::from(u8::MIN), f32::from(u8::MAX)),
        DatumType::I8 => (f32::from(i8::MIN), f32::from(i8::MAX)),
        DatumType::U16 => (f32::from(u16::MIN), f32::from(u16::MAX)),
        DatumType::I16 => (f32::from(i16::MIN), f32::from(i16::MAX)),
        other => bail!("quantization to {other:?} is not supported"),
    };
    let rank = model.outlet_fact(x)?.rank();
    let mut wire = model.wire_node(format!("{prefix}.div"), ExactDiv, &[x, scale])?;
    wire = model.wire_node(format!("{prefix}.round"), round_half_to_even(), &wire)?;
    if let Some(zero_point) = zero_point {
        wire = model.wire_node(format!("{prefix}.add"), add(), &[wire[0], zero_point])?;
    }
    let low = model.add_const(format!("{prefix}.low"), tensor0(low).broadcast_into_rank(rank)?)?;
    let high = model.add_const(format!("{prefix}.high"), tensor0(high).broadcast_into_rank(rank)?)?;
    wire = model.wire_node(format!("{prefix}.at_least"), max(), &[wire[0], low])?;
    wire = model.wire_node(format!("{prefix}.at_most"), min(), &[wire[0], high])?;
    model.wire_node(prefix, cast(datum_type), &wire)
}
