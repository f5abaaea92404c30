// SPDX-License-Identifier: Apache-2.0
//! A loaded model.
//!
//! ```text
//! load: one plan for all shapes ──no──> Special
//!                    │yes
//!                    ├─ convolutions and open dimensions ──> Special: a plan per shape is several times faster
//!                    ├─ recurrence and open dimensions ────> General, and Special for what it fails on
//!                    └─ otherwise ─────────────────────────> General
//! ```
//!
//! Which plan serves a request depends on its shapes and values alone, so equal requests get equal answers.

use std::sync::Arc;

use diolkos_backend::{LoadError, LoadOptions, Operation, RunError, Tensor, Work};
use diolkos_types::{Dim, Shape, Signature, TensorSpec};
use tract_onnx::pb::GraphProto;
use tract_onnx::prelude::Tensor as TractTensor;

use crate::backend::refusal;
use crate::convert::{Given, from_tract, to_data_type, to_tract};
use crate::guard::guard;
use crate::plan::{Blueprint, Plan, Special, Stop};
use crate::proto::{BACKEND, Prepared, invalid, unsupported};
use crate::special::{General, Specialiser};

enum Form {
    General {
        plan: Arc<Plan>,
        /// For models whose general plan is known to fail for some lengths.
        fallback: Option<Box<Specialiser>>,
    },
    Special(Box<Specialiser>),
}

/// A loaded model.
pub(crate) struct Model {
    signature: Signature,
    form: Form,
}

impl Model {
    /// Optimises the model.
    pub(crate) fn new(
        prepared: Prepared,
        blueprint: Blueprint,
        options: &LoadOptions,
    ) -> Result<Model, LoadError> {
        let ranks_known = prepared.inputs.iter().all(|spec| spec.dims.is_some());
        let general = if ranks_known {
            blueprint.build(&Special::default()).map_err(refusal)
        } else {
            Err(unsupported("inputs of any rank, without knowing their shapes"))
        };
        let model = match general {
            Ok(plan) => Model::with_general(prepared, blueprint, options, plan)?,
            Err(why) => {
                let special = Specialiser::new(&prepared, blueprint, options, None).ok_or(why)?;
                let signature =
                    Signature { inputs: prepared.inputs.into(), outputs: prepared.outputs.into() };
                Model { signature, form: Form::Special(Box::new(special)) }
            }
        };
        let (needed, limit) = (model.resident_bytes(), options.resident_bytes_max);
        if needed > limit { Err(LoadError::TooLarge { needed, limit }) } else { Ok(model) }
    }

    fn with_general(
        prepared: Prepared,
        blueprint: Blueprint,
        options: &LoadOptions,
        plan: Plan,
    ) -> Result<Model, LoadError> {
        let outputs = outputs(&prepared.outputs, &plan, options)?;
        let open = prepared.inputs.iter().flat_map(|spec| spec.dims.iter().flatten());
        let open = open.into_iter().any(|dim| matches!(dim, Dim::Variable { .. }));
        let form = if open && uses(&prepared, &["Conv", "ConvTranspose", "ConvInteger", "QLinearConv"]) {
            let general = Some(General::new(plan));
            match Specialiser::new(&prepared, blueprint, options, general) {
                Some(special) => {
                    special.warm_up(shapes_of_one(&prepared.inputs));
                    Form::Special(Box::new(special))
                }
                None => return Err(invalid("the inputs are open and closed at once")),
            }
        } else if open && uses(&prepared, &["LSTM", "GRU", "RNN", "Scan"]) {
            let fallback = Specialiser::new(&prepared, blueprint, options, None).map(Box::new);
            Form::General { plan: Arc::new(plan), fallback }
        } else {
            Form::General { plan: Arc::new(plan), fallback: None }
        };
        Ok(Model { signature: Signature { inputs: prepared.inputs.into(), outputs }, form })
    }

    fn plan(&self, inputs: &[&Tensor]) -> Result<Arc<Plan>, RunError> {
        match &self.form {
            Form::General { plan, .. } => Ok(plan.clone()),
            Form::Special(special) => special.plan(inputs),
        }
    }

    /// The plan for a request that the general plan failed on.
    fn other_plan(&self, inputs: &[&Tensor]) -> Option<Arc<Plan>> {
        match &self.form {
            Form::General { fallback: Some(special), .. } => special.plan(inputs).ok(),
            Form::General { fallback: None, .. } | Form::Special(_) => None,
        }
    }

    fn feed(&self, plan: &Plan, inputs: &[&Tensor]) -> Result<Vec<TractTensor>, RunError> {
        plan.feeds().iter().map(|&index| self.convert(index, inputs[index])).collect()
    }

    fn convert(&self, index: usize, tensor: &Tensor) -> Result<TractTensor, RunError> {
        let converted = guard(|| Ok(to_tract(tensor))).unwrap_or_else(|trouble| Err(trouble.to_string()));
        converted.map_err(|reason| {
            let name = self.signature.inputs.get(index).map_or("", |spec| &spec.name);
            RunError::InvalidInput { tensor: name.into(), reason }
        })
    }

    fn give(&self, work: &mut Work, index: usize, tensor: Arc<TractTensor>) -> Result<(), RunError> {
        let spec = &self.signature.outputs[index];
        let failed = |reason: String| failed(format!("output `{}` {reason}", spec.name));
        let given = guard(|| Ok(from_tract(tensor))).unwrap_or_else(|trouble| Err(trouble.to_string()));
        let Given { data_type, shape, data } = given.map_err(failed)?;
        if data_type != spec.data_type || spec.check_shape(&shape).is_err() {
            return Err(failed(format!(
                "came out as {data_type} {shape}, and the model declares {} {spec}",
                spec.data_type
            )));
        }
        work.output(&self.signature, index, data_type, shape, data.len())?.give(data);
        Ok(())
    }
}

/// Whether the graph, or one inside it, uses one of these operators.
fn uses(prepared: &Prepared, operators: &[&str]) -> bool {
    fn in_graph(graph: &GraphProto, operators: &[&str]) -> bool {
        graph.node.iter().any(|node| {
            let mut inner = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
            operators.contains(&node.op_type.as_str()) || inner.any(|graph| in_graph(graph, operators))
        })
    }
    prepared.model.graph.as_ref().is_some_and(|graph| in_graph(graph, operators))
}

/// Shapes of a request for one item: every open dimension is 1.
fn shapes_of_one(inputs: &[TensorSpec]) -> Vec<Shape> {
    let shape = |spec: &TensorSpec| {
        let lengths = spec.dims.iter().flatten().map(|dim| match dim {
            Dim::Fixed(length) => *length,
            Dim::Variable { .. } => 1,
        });
        Shape::new(&lengths.collect::<Vec<u64>>()).unwrap_or(Shape::SCALAR)
    };
    inputs.iter().map(shape).collect()
}

fn failed(reason: String) -> RunError {
    RunError::Failed { backend: BACKEND, reason }
}

/// The outputs as tract derives them, which is what a run will give.
fn outputs(
    declared: &[TensorSpec],
    plan: &Plan,
    options: &LoadOptions,
) -> Result<Box<[TensorSpec]>, LoadError> {
    let one = |(index, spec): (usize, &TensorSpec)| -> Result<TensorSpec, LoadError> {
        let Some((datum_type, dims)) = plan.output(index, options.variable_dim_max) else {
            return Err(invalid(format!("output `{}` was lost while optimising", spec.name)));
        };
        if to_data_type(datum_type.unquantized()) != Some(spec.data_type) {
            let (name, declared) = (&spec.name, spec.data_type);
            return Err(unsupported(format!(
                "output `{name}`: declared {declared}, computed {datum_type:?}"
            )));
        }
        let derived = TensorSpec::new(&spec.name, spec.data_type, &dims);
        if contradicts(spec, &dims) {
            return Err(invalid(format!("output `{}`: declared {spec}, computed {derived}", spec.name)));
        }
        Ok(derived)
    };
    declared.iter().enumerate().map(one).collect()
}

fn contradicts(declared: &TensorSpec, derived: &[Dim]) -> bool {
    let Some(dims) = declared.dims.as_deref() else { return false };
    dims.len() != derived.len()
        || dims.iter().zip(derived).any(|pair| matches!(pair, (Dim::Fixed(a), Dim::Fixed(b)) if a != b))
}

impl Operation for Model {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn resident_bytes(&self) -> u64 {
        match &self.form {
            Form::General { plan, fallback } => {
                let more = fallback.as_ref().map_or(0, |special| special.resident_bytes());
                plan.resident_bytes().saturating_add(more)
            }
            Form::Special(special) => special.resident_bytes(),
        }
    }

    fn peak_bytes(&self, shapes: &[Option<Shape>], _input_bytes: u64) -> Option<u64> {
        let shapes: Vec<Shape> = shapes.iter().copied().collect::<Option<_>>()?;
        match &self.form {
            Form::General { plan, .. } => plan.peak_bytes(&shapes),
            Form::Special(special) => special.peak_bytes(&shapes),
        }
    }

    fn takes_any_rows(&self) -> bool {
        // A special plan is built for every number of rows.
        matches!(self.form, Form::General { .. })
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        work.check_cancelled()?;
        let mut tensors = Vec::with_capacity(self.signature.inputs.len());
        for (index, spec) in self.signature.inputs.iter().enumerate() {
            let Some(tensor) = work.input(index) else {
                return Err(RunError::InvalidInput {
                    tensor: spec.name.clone(),
                    reason: "is missing".into(),
                });
            };
            tensors.push(tensor.clone());
        }
        let given: Vec<&Tensor> = tensors.iter().collect();
        let plan = self.plan(&given)?;
        let feeds = self.feed(&plan, &given)?;
        work.compute_begins();
        let mut ran = plan.run(feeds, work.cancel_flag());
        if let Err(Stop::Trouble(_)) = &ran
            && let Some(other) = self.other_plan(&given)
        {
            ran = other.run(self.feed(&other, &given)?, work.cancel_flag());
        }
        work.compute_ends();
        let outputs = ran.map_err(|stop| match stop {
            Stop::Cancelled => RunError::Cancelled,
            Stop::TooMuch(what) => RunError::Unsupported { backend: BACKEND, what },
            Stop::Trouble(trouble) => failed(trouble.to_string()),
        })?;
        for (index, output) in outputs.into_iter().enumerate() {
            if work.wants(index) && index < self.signature.outputs.len() {
                self.give(work, index, output)?;
            }
        }
        Ok(())
    }
}
