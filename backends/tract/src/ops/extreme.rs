// SPDX-License-Identifier: Apache-2.0
//! Reduction to the largest or smallest element, right where tract's is not.
//!
//! tract starts from the largest finite number, so that the maximum of nothing, or of nothing but minus
//! infinities, comes out as -3.4e38; it forgets a NaN that is followed by a number; and it refuses booleans.
//! All four matter: masks are made of infinities, and dimensions of a request may be zero.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::tract_ndarray::{ArrayViewD, Axis};
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::nn::{Reduce, Reducer};

use super::{Built, builder_of_tract};

/// Builds `ReduceMax`, `ReduceMin` and `GlobalMaxPool`: tract's own, with its reductions replaced.
pub(super) fn build(context: &ParsingContext<'_>, node: &NodeProto) -> Built {
    let (mut op, closures) = builder_of_tract(&node.op_type)?(context, node)?;
    let inner = op.as_op_mut().downcast_mut::<Box<dyn Expansion>>();
    let inner = inner.context("tract builds this operator in another way than expected")?.clone();
    Ok((expand(Exact(inner)), closures))
}

/// An expansion whose reductions to an extreme become [`Extreme`].
#[derive(Debug, Clone)]
struct Exact(Box<dyn Expansion>);

impl Expansion for Exact {
    fn name(&self) -> StaticName {
        self.0.as_ref().name()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        self.0.as_ref().nboutputs()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.0.as_ref().rules(s, inputs, outputs)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        // Wiring evaluates what is constant at once, so tract's reduction must never see the data: it is
        // wired beside a source, and copied from there.
        let mut aside = TypedModel { symbols: model.symbols.clone(), ..TypedModel::default() };
        let mut mapping = HashMap::new();
        let mut sources = tvec!();
        for (index, &input) in inputs.iter().enumerate() {
            let fact = model.outlet_fact(input)?.clone();
            let name = format!("{prefix}.aside_{index}");
            let source = match &fact.konst {
                Some(value) if index > 0 => aside.add_const(name, value.clone())?,
                _ => aside.add_source(name, fact.without_value())?,
            };
            mapping.insert(source, input);
            sources.push(source);
        }
        let outputs = self.0.as_ref().wire(prefix, &mut aside, &sources)?;
        for node in aside.nodes() {
            if mapping.contains_key(&node.id.into()) {
                continue;
            }
            let inputs: TVec<OutletId> = node.inputs.iter().map(|input| mapping[input]).collect();
            let op = exact(node).unwrap_or_else(|| node.op.clone());
            for (slot, wire) in model.wire_node(&node.name, op, &inputs)?.into_iter().enumerate() {
                mapping.insert(OutletId::new(node.id, slot), wire);
            }
        }
        Ok(outputs.iter().map(|output| mapping[output]).collect())
    }
}

/// What takes the node's place, if it reduces to an extreme.
fn exact(node: &TypedNode) -> Option<Box<dyn TypedOp>> {
    let reduce = node.op_as::<Reduce>()?;
    let largest = match reduce.reducer {
        Reducer::Max => true,
        Reducer::Min => false,
        _ => return None,
    };
    Some(Box::new(Extreme { axes: reduce.axes.clone(), largest }))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Extreme {
    axes: TVec<usize>,
    largest: bool,
}

/// An element with a largest, a smallest, and a better of two.
trait Ordered: Datum + Copy {
    const LOWEST: Self;
    const HIGHEST: Self;
    fn larger(self, other: Self) -> Self;
    fn smaller(self, other: Self) -> Self;
}

macro_rules! ordered_integers {
    ($($type:ty),*) => {$(
        impl Ordered for $type {
            const LOWEST: Self = <$type>::MIN;
            const HIGHEST: Self = <$type>::MAX;
            fn larger(self, other: Self) -> Self {
                self.max(other)
            }
            fn smaller(self, other: Self) -> Self {
                self.min(other)
            }
        }
    )*};
}

ordered_integers!(u8, u16, u32, u64, i8, i16, i32, i64);

macro_rules! ordered_floats {
    ($($type:ty),*) => {$(
        impl Ordered for $type {
            const LOWEST: Self = <$type>::NEG_INFINITY;
            const HIGHEST: Self = <$type>::INFINITY;
            fn larger(self, other: Self) -> Self {
                if self.is_nan() || self > other { self } else { other }
            }
            fn smaller(self, other: Self) -> Self {
                if self.is_nan() || self < other { self } else { other }
            }
        }
    )*};
}

ordered_floats!(f16, f32, f64);

impl Ordered for bool {
    const LOWEST: Self = false;
    const HIGHEST: Self = true;
    fn larger(self, other: Self) -> Self {
        self | other
    }
    fn smaller(self, other: Self) -> Self {
        self & other
    }
}

impl Extreme {
    fn reduce<T: Ordered>(&self, input: &Tensor) -> TractResult<Tensor> {
        let view: ArrayViewD<'_, T> = input.to_plain_array_view::<T>()?;
        let (start, better): (T, fn(T, T) -> T) =
            if self.largest { (T::LOWEST, T::larger) } else { (T::HIGHEST, T::smaller) };
        let mut result = view.to_owned();
        for &axis in &self.axes {
            result = result.fold_axis(Axis(axis), start, |&a, &b| better(a, b)).insert_axis(Axis(axis));
        }
        Ok(result.into_tensor())
    }
}

impl Op for Extreme {
    fn name(&self) -> StaticName {
        if self.largest { "Reduce<ExactMax>".into() } else { "Reduce<ExactMin>".into() }
    }

    op_as_typed_op!();
}

impl EvalOp for Extreme {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let output = match input.datum_type() {
            DatumType::Bool => self.reduce::<bool>(&input),
            DatumType::U8 => self.reduce::<u8>(&input),
            DatumType::U16 => self.reduce::<u16>(&input),
            DatumType::U32 => self.reduce::<u32>(&input),
            DatumType::U64 => self.reduce::<u64>(&input),
            DatumType::I8 => self.reduce::<i8>(&input),
            DatumType::I16 => self.reduce::<i16>(&input),
            DatumType::I32 => self.reduce::<i32>(&input),
            DatumType::I64 => self.reduce::<i64>(&input),
            DatumType::F16 => self.reduce::<f16>(&input),
            DatumType::F32 => self.reduce::<f32>(&input),
            DatumType::F64 => self.reduce::<f64>(&input),
            other => bail!("no largest or smallest {other:?}"),
        }?;
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for Extreme {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut fact = inputs[0].without_value();
        for &axis in &self.axes {
            fact.shape.set(axis, 1.to_dim());
        }
        Ok(tvec!(fact))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extreme(largest: bool, input: Tensor) -> Tensor {
        let op = Extreme { axes: tvec!(1), largest };
        let outputs = op.eval(&EvalContext::out_of_plan(), tvec!(input.into_tvalue())).unwrap();
        outputs[0].clone().into_tensor()
    }

    #[test]
    fn infinities_nan_and_nothing() {
        let low = f32::NEG_INFINITY;
        let input = Tensor::from_shape(&[3, 2], &[low, low, f32::NAN, 1.0, 1.0, f32::NAN]).unwrap();
        let output = extreme(true, input);
        let values: Vec<f32> = output.to_plain_array_view::<f32>().unwrap().iter().copied().collect();
        assert!(values[0] == low && values[1].is_nan() && values[2].is_nan());
        let nothing = Tensor::from_shape::<f32>(&[2, 0], &[]).unwrap();
        assert_eq!(extreme(true, nothing.clone()), Tensor::from_shape(&[2, 1], &[low, low]).unwrap());
        assert_eq!(extreme(false, nothing), Tensor::from_shape(&[2, 1], &[-low, -low]).unwrap());
    }

    #[test]
    fn booleans_and_integers() {
        let bools = Tensor::from_shape(&[2, 2], &[true, false, false, false]).unwrap();
        assert_eq!(extreme(true, bools.clone()), Tensor::from_shape(&[2, 1], &[true, false]).unwrap());
        assert_eq!(extreme(false, bools), Tensor::from_shape(&[2, 1], &[false, false]).unwrap());
        let numbers = Tensor::from_shape(&[1, 3], &[-5i8, -128, 3]).unwrap();
        assert_eq!(extreme(false, numbers), Tensor::from_shape(&[1, 1], &[-128i8]).unwrap());
    }
}
