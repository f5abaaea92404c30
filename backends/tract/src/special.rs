// SPDX-License-Identifier: Apache-2.0
//! Plans for the shapes of a request, or for its shapes and some of its values.
//!
//! ```text
//! request's shapes ──no plan──> + values of small integer inputs ──no plan──> + values of all small inputs
//!        │                              │                                        │           │no plan
//!        └───────── plan, cached by what it was made for ────────────────────────┘           v
//!                                                                      the plan for all shapes, if there is one
//! ```
//!
//! Three kinds of models need this. Some tract can't type with symbols for open dimensions. Some take values
//! that it must know, such as the target of a `Reshape`. And convolutions it optimises several times
//! better when it knows the lengths. What no plan can be made for is remembered too, so that asking
//! again is cheap. Two threads that miss the cache at the same time both build; neither waits for the other.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use diolkos_backend::{LoadOptions, RunError, Tensor};
use diolkos_types::{Dim, Shape, TensorSpec};

use crate::cache::Lru;
use crate::convert::to_tract;
use crate::guard::guard;
use crate::limits::{
    FAILED_KEYS_MAX, MADE_ELEMENTS_MAX, NODE_OVERHEAD_BYTES, PLAN_CACHE_BYTES_MAX, PLANS_MAX,
    VALUE_PEAK_BYTES_MAX,
};
use crate::memory::Memory;
use crate::plan::{Blueprint, Plan, Special};
use crate::proto::{BACKEND, Prepared};
use crate::values::{TIERS, Tier, ValueInputs};

/// What a plan was made for. Values are compared as bytes, so that 0.0 is not -0.0.
#[derive(Clone, PartialEq)]
struct Key {
    shapes: Vec<Shape>,
    values: Vec<Option<Bytes>>,
}

/// What a plan for all shapes told before it was dropped.
pub(crate) struct General {
    memory: Option<Memory>,
    resident_bytes: u64,
}

impl General {
    pub(crate) fn new(plan: Plan) -> General {
        General { resident_bytes: plan.resident_bytes(), memory: plan.into_memory() }
    }
}

/// Makes and keeps plans.
pub(crate) struct Specialiser {
    blueprint: Blueprint,
    values: ValueInputs,
    /// Whether a request's shapes say more than the model file.
    shapes_open: bool,
    /// What is known of the plan for all shapes, if there is one.
    general: Option<General>,
    plans: Mutex<Lru<Key, Arc<Plan>>>,
    failed: Mutex<Lru<Key, Arc<str>>>,
    resident_bytes: u64,
}

impl Specialiser {
    /// For a model of which a request says more than the file; otherwise `None`.
    pub(crate) fn new(
        prepared: &Prepared,
        blueprint: Blueprint,
        options: &LoadOptions,
        general: Option<General>,
    ) -> Option<Specialiser> {
        let graph = prepared.model.graph.as_ref()?;
        let values = ValueInputs::new(graph, &prepared.inputs);
        let shapes_open = prepared.inputs.iter().any(is_open);
        if !shapes_open && !values.any() {
            return None;
        }
        let guess = prepared.weight_bytes.saturating_add(graph.node.len() as u64 * NODE_OVERHEAD_BYTES);
        let each = general.as_ref().map_or(guess, |general| general.resident_bytes).max(1);
        let room = PLAN_CACHE_BYTES_MAX.min(options.resident_bytes_max / 2);
        let plans = usize::try_from(room / each).unwrap_or(PLANS_MAX).clamp(1, PLANS_MAX);
        Some(Specialiser {
            blueprint,
            values,
            shapes_open,
            general,
            plans: Mutex::new(Lru::new(plans)),
            failed: Mutex::new(Lru::new(FAILED_KEYS_MAX)),
            resident_bytes: each.saturating_mul(plans as u64).saturating_add(guess),
        })
    }

    /// Bytes it keeps once its cache is full.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    /// Predicted peak of a run, from a plan that was made for these shapes or from the general one.
    pub(crate) fn peak_bytes(&self, shapes: &[Shape]) -> Option<u64> {
        let key = Key { shapes: shapes.to_vec(), values: vec![None; shapes.len()] };
        let plan = lock(&self.plans).get(&key);
        match plan {
            Some(plan) => plan.peak_bytes(shapes),
            None => self.general.as_ref()?.memory.as_ref()?.predict(shapes.iter()),
        }
    }

    /// Makes the plan for inputs of these shapes, so that the first request does not wait for it.
    pub(crate) fn warm_up(&self, shapes: Vec<Shape>) {
        let key = Key { values: vec![None; shapes.len()], shapes };
        if let Ok(plan) = self.make(&key, &[]) {
            lock(&self.plans).put(key, Arc::new(plan));
        }
    }

    /// The plan for a request, made if need be.
    pub(crate) fn plan(&self, inputs: &[&Tensor]) -> Result<Arc<Plan>, RunError> {
        let shapes: Vec<Shape> = inputs.iter().map(|tensor| tensor.shape).collect();
        let mut tried: Option<Vec<Option<Bytes>>> = None;
        let mut why: Arc<str> = "no request can add what the model leaves open".into();
        for tier in TIERS {
            let values = self.values.take(tier, inputs);
            if tried.as_ref() == Some(&values) || (tier == Tier::Shapes && !self.shapes_open) {
                continue;
            }
            tried = Some(values.clone());
            let key = Key { shapes: shapes.clone(), values };
            if let Some(plan) = lock(&self.plans).get(&key) {
                return Ok(plan);
            }
            let known = lock(&self.failed).get(&key);
            why = match known {
                Some(reason) => reason,
                None => match self.make(&key, inputs) {
                    Ok(plan) => {
                        let plan = Arc::new(plan);
                        let evicted = lock(&self.plans).put(key, plan.clone());
                        drop(evicted);
                        return Ok(plan);
                    }
                    Err(reason) => {
                        let reason: Arc<str> = reason.into();
                        lock(&self.failed).put(key, reason.clone());
                        reason
                    }
                },
            };
        }
        if self.general.is_some() {
            let key = Key { shapes: Vec::new(), values: Vec::new() };
            if let Some(plan) = lock(&self.plans).get(&key) {
                return Ok(plan);
            }
            if let Ok(plan) = self.blueprint.build(&Special::default()) {
                let plan = Arc::new(plan);
                let evicted = lock(&self.plans).put(key, plan.clone());
                drop(evicted);
                return Ok(plan);
            }
        }
        let what = format!("run this model for inputs of shapes {shapes:?}: {why}");
        Err(RunError::Unsupported { backend: BACKEND, what })
    }

    fn make(&self, key: &Key, inputs: &[&Tensor]) -> Result<Plan, String> {
        if !self.values.are_bounded(inputs, &key.values) {
            return Err(format!("an input names a size beyond {MADE_ELEMENTS_MAX} elements"));
        }
        let mut special = Special { shapes: Some(key.shapes.clone()), values: Vec::new() };
        special.values.resize(key.values.len(), None);
        for ((place, value), tensor) in special.values.iter_mut().zip(&key.values).zip(inputs) {
            if value.is_some() {
                let made = guard(|| Ok(to_tract(tensor))).map_err(|trouble| trouble.to_string())?;
                *place = Some(Arc::new(made?));
            }
        }
        let plan = self.blueprint.build(&special).map_err(|trouble| trouble.to_string())?;
        let by_values = key.values.iter().any(Option::is_some);
        match plan.peak_bytes(&key.shapes) {
            Some(peak) if by_values && peak > VALUE_PEAK_BYTES_MAX => {
                Err(format!("it would need {peak} bytes, and the limit is {VALUE_PEAK_BYTES_MAX}"))
            }
            _ => Ok(plan),
        }
    }
}

fn is_open(spec: &TensorSpec) -> bool {
    spec.dims.as_deref().is_none_or(|dims| dims.iter().any(|dim| matches!(dim, Dim::Variable { .. })))
}

/// The maps stay consistent whatever a thread that held the lock died of.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
