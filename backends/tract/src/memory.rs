// SPDX-License-Identifier: Apache-2.0
//! Predicts the memory of a run from the facts tract knows about each intermediate result.
//!
//! The plan's order is replayed with every result alive from the step that makes it to the last step
//! that reads it, which is when tract lets go of it. Left out are small scratch buffers inside kernels.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use diolkos_types::Shape;
use tract_onnx::prelude::{DatumType, OutletId, TDim, TypedFact, TypedModel, TypedSimplePlan};
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::logic::IfThenElse;
use tract_onnx::tract_core::ops::scan::OptScan;

use crate::shape::Lengths;

/// Size of one intermediate result.
#[derive(Debug)]
struct Size {
    dims: Vec<TDim>,
    element_bytes: usize,
    /// Bytes of buffers in tract's private layouts, such as packed matrices.
    packed: Vec<TDim>,
}

/// What one step adds and lets go.
#[derive(Debug, Default)]
struct Step {
    makes: Vec<usize>,
    frees: Vec<usize>,
}

/// The memory model of a plan.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Dimensions of the plan's inputs.
    inputs: Vec<Vec<TDim>>,
    sizes: Vec<Size>,
    steps: Vec<Step>,
    /// What is counted as if alive all the time: everything that plans inside a step make, and outputs
    /// that are constants, which no step makes.
    throughout: Vec<Size>,
    /// The answer, if no symbol takes part.
    constant: Option<u64>,
}

impl Memory {
    /// The model of a plan; `None` for plans whose memory can't be told.
    pub(crate) fn new(plan: &TypedSimplePlan) -> Option<Memory> {
        let graph = plan.model();
        let mut memory = Memory {
            inputs: Vec::new(),
            sizes: Vec::new(),
            steps: Vec::new(),
            throughout: Vec::new(),
            constant: None,
        };
        for &outlet in graph.input_outlets().ok()? {
            memory.inputs.push(dims(graph.outlet_fact(outlet).ok()?));
        }
        let order = plan.order_without_consts();
        let last_use = last_uses(graph, order);
        memory.steps.resize_with(order.len(), Step::default);
        for (step, &id) in order.iter().enumerate() {
            let node = graph.node(id);
            for (slot, output) in node.outputs.iter().enumerate() {
                let index = memory.sizes.len();
                memory.sizes.push(size(&output.fact)?);
                memory.steps[step].makes.push(index);
                if let Some(&last) = last_use.get(&OutletId::new(id, slot)) {
                    memory.steps[last].frees.push(index);
                } else if !graph.outputs.contains(&OutletId::new(id, slot)) {
                    memory.steps[step].frees.push(index);
                }
            }
            if node.op_is::<IfThenElse>() {
                return None;
            }
            if let Some(scan) = node.op_as::<OptScan>() {
                memory.add_inner(&scan.plan)?;
            }
        }
        for &output in graph.outputs.iter().filter(|output| graph.node(output.node).op_is::<Const>()) {
            memory.throughout.push(size(graph.outlet_fact(output).ok()?)?);
        }
        memory.constant = memory.peak(&Lengths::default());
        Some(memory)
    }

    fn add_inner(&mut self, plan: &TypedSimplePlan) -> Option<()> {
        let graph = plan.model();
        for &id in plan.order_without_consts() {
            let node = graph.node(id);
            if node.op_is::<IfThenElse>() || node.op_is::<OptScan>() {
                return None;
            }
            for output in &node.outputs {
                self.throughout.push(size(&output.fact)?);
            }
        }
        Some(())
    }

    /// Most bytes that a run with inputs of these shapes has alive at once, inputs and outputs included.
    /// `shapes` are in the order of the plan's inputs.
    pub(crate) fn predict<'a>(&self, shapes: impl Iterator<Item = &'a Shape>) -> Option<u64> {
        if self.constant.is_some() {
            return self.constant;
        }
        let mut lengths = Lengths::default();
        for (declared, given) in self.inputs.iter().zip(shapes) {
            for (dim, &length) in declared.iter().zip(given.dims()) {
                if let TDim::Sym(symbol) = dim
                    && !lengths.bind(symbol, length)
                {
                    return None;
                }
            }
        }
        self.peak(&lengths)
    }

    fn peak(&self, lengths: &Lengths) -> Option<u64> {
        let bytes = |size: &Size| -> Option<u64> {
            let plain = lengths.bytes(&size.dims, size.element_bytes)?;
            size.packed
                .iter()
                .try_fold(plain, |sum, dim| sum.checked_add(u64::try_from(lengths.eval(dim)?.max(0)).ok()?))
        };
        let sizes: Vec<u64> = self.sizes.iter().map(bytes).collect::<Option<_>>()?;
        let throughout = self.throughout.iter().map(bytes).try_fold(0u64, |sum, b| sum.checked_add(b?))?;
        let (mut alive, mut peak) = (0u64, 0u64);
        for step in &self.steps {
            for &made in &step.makes {
                alive = alive.checked_add(sizes[made])?;
            }
            peak = peak.max(alive);
            for &freed in &step.frees {
                alive -= sizes[freed];
            }
        }
        peak.checked_add(throughout)
    }
}

/// For each result that is read and is no output of the graph, the step that reads it last.
fn last_uses(graph: &TypedModel, order: &[usize]) -> HashMap<OutletId, usize> {
    let mut last = HashMap::new();
    for (step, &id) in order.iter().enumerate() {
        for &input in &graph.node(id).inputs {
            if !graph.node(input.node).op_is::<Const>() {
                last.insert(input, step);
            }
        }
    }
    for output in &graph.outputs {
        last.remove(output);
    }
    last
}

fn dims(fact: &TypedFact) -> Vec<TDim> {
    fact.shape.iter().cloned().collect()
}

fn size(fact: &TypedFact) -> Option<Size> {
    // Strings have the size that the request gives them.
    if matches!(fact.datum_type, DatumType::String | DatumType::Blob) {
        return None;
    }
    let packed = fact.exotic_fact().map(|exotic| exotic.buffer_sizes().into_iter().collect());
    Some(Size {
        dims: dims(fact),
        element_bytes: fact.datum_type.size_of(),
        packed: packed.unwrap_or_default(),
    })
}

/// Bytes that the plain constants of a graph hold, each counted once however many nodes share it.
pub(crate) fn constant_bytes(graph: &TypedModel) -> u64 {
    let mut seen = HashSet::new();
    let constants = graph.nodes().iter().filter_map(|node| node.op_as::<Const>()).map(Const::val);
    let plain = constants.filter(|tensor| tensor.is_plain_ram() && seen.insert(Arc::as_ptr(tensor)));
    plain.map(|tensor| tensor.as_bytes().len() as u64).sum()
}
