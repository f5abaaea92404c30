// SPDX-License-Identifier: Apache-2.0
//! Building tract plans, and running them.
//!
//! A [`Blueprint`] is a parsed model whose inputs may still be open; a [`Plan`] is one optimised form of
//! it: for any shapes (symbols stay), for given shapes, or for given shapes and values of small inputs.

mod values;

use std::sync::Arc;

use diolkos_backend::CancelFlag;
use diolkos_types::{Dim, Shape};
use tract_onnx::prelude::{
    DatumType, InferenceFact, InferenceModel, InferenceModelExt, IntoArcTensor, IntoTValue, OutletId,
    RunOptions, Symbol, SymbolScope, TDim, TValue, TVec, Tensor as TractTensor, TractError, TractResult,
    TypedModel, TypedSimplePlan,
};
use tract_onnx::tract_core::ops::array::Pad;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::plan::{SimpleState, eval};
use tract_onnx::tract_hir::infer::InferenceOp;

use crate::convert::{to_datum_type, to_dims};
use crate::fold::fold_constants;
use crate::guard::{Trouble, guard};
use crate::limits::NODE_OVERHEAD_BYTES;
use crate::memory::{Memory, constant_bytes};
use crate::ops;
use crate::proto::Prepared;
use crate::shape::Lengths;

use self::values::Halt;

/// A parsed model.
pub(crate) struct Blueprint {
    model: InferenceModel,
    inputs: Vec<DatumType>,
}

/// What a plan is built for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Special {
    /// Shapes of the inputs; `None` leaves them as the model declares them.
    pub(crate) shapes: Option<Vec<Shape>>,
    /// Inputs whose values become part of the plan.
    pub(crate) values: Vec<Option<Arc<TractTensor>>>,
}

impl Blueprint {
    /// Hands a checked model to tract's parser.
    pub(crate) fn new(prepared: &Prepared) -> Result<Blueprint, Trouble> {
        let scope = SymbolScope::default();
        let model = guard(|| {
            let template = InferenceModel { symbols: scope.clone(), ..InferenceModel::default() };
            // Shapes of intermediate results that a file states can be wrong, and tract derives them itself.
            let mut parser = tract_onnx::onnx().with_ignore_value_info(true);
            ops::register(&mut parser.op_register);
            let parsed = parser.parse_with_template(&prepared.model, None, template)?;
            if let Some(name) = parsed.unresolved_inputs.first() {
                return Err(TractError::msg(format!("nothing computes `{name}`")));
            }
            for symbol in &prepared.symbols {
                parsed.model.symbols.add_assertion(format!("{symbol}>=0"))?;
            }
            Ok(parsed.model)
        })?;
        let inputs = prepared.inputs.iter().filter_map(|spec| to_datum_type(spec.data_type)).collect();
        Ok(Blueprint { model, inputs })
    }

    /// Optimises the model. Takes tens of milliseconds to seconds.
    pub(crate) fn build(&self, special: &Special) -> Result<Plan, Trouble> {
        guard(|| {
            let mut model = self.model.clone();
            let mut sources: Vec<OutletId> = model.input_outlets()?.to_vec();
            if let Some(shapes) = &special.shapes {
                for ((&outlet, shape), &datum_type) in sources.iter().zip(shapes).zip(&self.inputs) {
                    let dims = to_dims(shape).ok_or_else(|| TractError::msg("a shape is too large"))?;
                    model.set_outlet_fact(outlet, InferenceFact::dt_shape(datum_type, dims))?;
                }
            }
            let mut feeds: Vec<usize> = (0..sources.len()).collect();
            for (index, value) in special.values.iter().enumerate().rev() {
                let Some(value) = value else { continue };
                let node = model.node_mut(sources[index].node);
                node.op = Box::new(Const::new(value.clone())?) as Box<dyn InferenceOp>;
                node.outputs[0].fact = InferenceFact::try_from(value.clone())?;
                sources.remove(index);
                feeds.remove(index);
            }
            model.set_input_outlets(&sources)?;
            let typed = model.into_typed()?;
            check_pads(&typed)?;
            let mut typed = typed.into_decluttered()?;
            fold_constants(&mut typed)?;
            let weights = constant_bytes(&typed);
            let optimised = typed.into_optimized()?;
            let runnable = TypedSimplePlan::new_with_options(optimised, &RunOptions::default())?;
            check_symbols(&runnable)?;
            Ok(Plan::new(runnable, feeds, weights))
        })
    }
}

/// tract keeps the pads of `Pad` unsigned, so that a negative one, which crops, becomes enormous.
fn check_pads(model: &TypedModel) -> TractResult<()> {
    let pads = model.nodes().iter().filter_map(|node| node.op_as::<Pad>());
    match pads.flat_map(|pad| &pad.pads).any(|&(before, after)| before.max(after) > i64::MAX as usize) {
        true => Err(TractError::msg("Pad with negative pads is not supported")),
        false => Ok(()),
    }
}

/// An output that tract left in terms of symbols, as numbers.
fn settle(tensor: Arc<TractTensor>, lengths: &Lengths) -> TractResult<Arc<TractTensor>> {
    if tensor.datum_type() != DatumType::TDim {
        return Ok(tensor);
    }
    let view = tensor.to_plain_array_view::<TDim>()?;
    let number = |dim: &TDim| {
        let value = lengths.eval(dim).and_then(|value| i64::try_from(value).ok());
        value.ok_or_else(|| TractError::msg(format!("an output depends on a size that is not known: {dim}")))
    };
    let numbers = view.iter().map(number).collect::<TractResult<Vec<i64>>>()?;
    Ok(Arc::new(TractTensor::from_shape(tensor.shape(), &numbers)?))
}

/// Symbols point weakly at the scope that made them, and some operators make theirs in a scope that dies
/// with the translation. A plan with such a symbol fails when it runs.
fn check_symbols(plan: &TypedSimplePlan) -> TractResult<()> {
    let outputs = plan.model().nodes().iter().flat_map(|node| node.outputs.iter().map(move |o| (node, o)));
    for (node, output) in outputs {
        if output.fact.shape.iter().flat_map(|dim| dim.symbols()).any(|symbol| symbol.scope().is_none()) {
            return Err(TractError::msg(format!("the size of {node}'s result depends on values")));
        }
    }
    Ok(())
}

/// Why a run gave nothing.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The cancel flag was seen.
    Cancelled,
    /// A tensor would have become too large.
    TooMuch(String),
    /// tract failed.
    Trouble(Trouble),
}

/// An optimised model that runs. Only read, so that any number of threads may run it.
pub(crate) struct Plan {
    runnable: Arc<TypedSimplePlan>,
    /// Which input of the signature each input of the plan is.
    feeds: Vec<usize>,
    memory: Option<Memory>,
    resident_bytes: u64,
}

impl Plan {
    /// `weights` are the bytes of constants before they were packed for the kernels, which pads them a
    /// little and hides their size.
    fn new(runnable: Arc<TypedSimplePlan>, feeds: Vec<usize>, weights: u64) -> Plan {
        let memory = Memory::new(&runnable);
        let nodes = runnable.model().nodes().len() as u64;
        let resident_bytes = (weights + weights / 8).saturating_add(nodes * NODE_OVERHEAD_BYTES);
        Plan { runnable, feeds, memory, resident_bytes }
    }

    /// Bytes that the plan keeps.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    /// Type and lengths of output `index`, as far as tract knows them. `variable_dim_max` limits the inputs'
    /// open dimensions, and so an output's that is one of them; computed lengths have no limit of their own.
    pub(crate) fn output(&self, index: usize, variable_dim_max: u64) -> Option<(DatumType, Vec<Dim>)> {
        let fact = self.runnable.model().output_fact(index).ok()?;
        let dim = |dim: &TDim| match dim {
            TDim::Sym(symbol) if self.is_of_input(symbol) => Dim::Variable { max: variable_dim_max },
            _ => match dim.as_i64().and_then(|length| u64::try_from(length).ok()) {
                Some(length) => Dim::Fixed(length),
                None => Dim::Variable { max: u64::MAX },
            },
        };
        Some((fact.datum_type, fact.shape.iter().map(dim).collect()))
    }

    fn is_of_input(&self, symbol: &Symbol) -> bool {
        let graph = self.runnable.model();
        let facts = graph.inputs.iter().filter_map(|&outlet| graph.outlet_fact(outlet).ok());
        facts.flat_map(|fact| fact.shape.iter()).any(|dim| matches!(dim, TDim::Sym(s) if s == symbol))
    }

    /// Predicted peak of a run, inputs and outputs included. `shapes` are in the order of the signature.
    pub(crate) fn peak_bytes(&self, shapes: &[Shape]) -> Option<u64> {
        self.memory.as_ref()?.predict(self.feeds.iter().filter_map(|&feed| shapes.get(feed)))
    }

    /// What predicts the memory, for when the plan itself is not kept. Only for plans that feed every input.
    pub(crate) fn into_memory(self) -> Option<Memory> {
        self.memory
    }

    /// Which inputs of the signature the plan reads, in its own order.
    pub(crate) fn feeds(&self) -> &[usize] {
        &self.feeds
    }

    /// What the shapes of inputs say about symbols.
    fn lengths(&self, inputs: &[TValue]) -> Lengths {
        let mut lengths = Lengths::default();
        let graph = self.runnable.model();
        for (&outlet, input) in graph.inputs.iter().zip(inputs) {
            let Ok(fact) = graph.outlet_fact(outlet) else { continue };
            for (dim, &length) in fact.shape.iter().zip(input.shape()) {
                if let TDim::Sym(symbol) = dim {
                    // A length that contradicts an earlier one fails the run itself.
                    let _ = lengths.bind(symbol, length as u64);
                }
            }
        }
        lengths
    }

    /// Runs on inputs in the order of [`Plan::feeds`].
    pub(crate) fn run(
        &self,
        inputs: Vec<TractTensor>,
        cancel: &CancelFlag,
    ) -> Result<Vec<Arc<TractTensor>>, Stop> {
        let inputs: TVec<TValue> = inputs.into_iter().map(IntoTValue::into_tvalue).collect();
        let lengths = self.lengths(&inputs);
        let ran = guard(|| {
            let mut state = SimpleState::new(&self.runnable)?;
            state.run_plan_with_eval(inputs, |context, op_state, node, inputs| -> TractResult<TVec<TValue>> {
                if cancel.is_cancelled() {
                    return Err(Halt::Cancelled.into());
                }
                values::check(node, &inputs)?;
                eval(context, op_state, node, inputs)
            })
        });
        match ran {
            Ok(outputs) => {
                let settled = outputs.into_iter().map(|output| settle(output.into_arc_tensor(), &lengths));
                settled.collect::<TractResult<_>>().map_err(|error| Stop::Trouble(Trouble::Error(error)))
            }
            Err(Trouble::Error(error)) => Err(match error.downcast_ref::<Halt>() {
                Some(Halt::Cancelled) => Stop::Cancelled,
                Some(Halt::TooMuch(what)) => Stop::TooMuch(what.clone()),
                None => Stop::Trouble(Trouble::Error(error)),
            }),
            Err(trouble) => Err(Stop::Trouble(trouble)),
        }
    }
}
