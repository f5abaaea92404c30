// SPDX-License-Identifier: Apache-2.0
//! What C reads in place. It is reached through pointers into a handle, so fields can be added at the end.
//!
//! A view points into texts and numbers on the heap of the handle that it belongs to. These are made once and stay where
//! they are until the handle is freed, wherever the handle itself may be moved.

use std::ffi::{CString, c_char, c_void};
use std::ptr;

use ::diolkos_client::types::TensorSpec;
use ::diolkos_client::{ModelInfo, ModelStats, Output, Timing};

use crate::errors::Failure;
use crate::numbers::model_state;

/// A tensor that a model takes or gives.
#[repr(C)]
pub struct diolkos_tensor_spec {
    /// Its name.
    pub name: *const c_char,
    /// Type of its elements: a diolkos_data_type.
    pub data_type: i32,
    /// Number of dimensions; -1 if any number will do.
    pub rank: i32,
    /// Their lengths, outermost first; -1 where any length will do.
    pub dims: *const i64,
    /// The model runs without it.
    pub optional: bool,
    /// Elements may be of every type, and data_type is only the usual one.
    pub any_type: bool,
}

/// An output of a reply.
#[repr(C)]
pub struct diolkos_output {
    /// Its name.
    pub name: *const c_char,
    /// Type of its elements: a diolkos_data_type.
    pub data_type: i32,
    /// Number of dimensions.
    pub rank: i32,
    /// Their lengths, outermost first.
    pub dims: *const u64,
    /// Its elements, row by row, where the daemon put them.
    pub data: *const c_void,
    /// Bytes of all elements.
    pub bytes: usize,
}

/// Where the time of a request went in the daemon.
#[repr(C)]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct diolkos_timing {
    /// Waiting for its turn, in nanoseconds.
    pub queue_ns: u64,
    /// Bringing inputs to where the backend reads them.
    pub copy_in_ns: u64,
    /// Computing.
    pub compute_ns: u64,
    /// Handing outputs over.
    pub copy_out_ns: u64,
}

/// A model that the daemon has.
#[repr(C)]
pub struct diolkos_model_info {
    /// Its name.
    pub name: *const c_char,
    /// A version of it; 0 if it has none.
    pub version: u64,
    /// Why it does not serve, or "".
    pub reason: *const c_char,
    /// What it does: a diolkos_model_state.
    pub state: i32,
}

/// What a model did so far.
#[repr(C)]
pub struct diolkos_model_stats {
    /// Its name.
    pub name: *const c_char,
    /// Which version.
    pub version: u64,
    /// Requests that succeeded.
    pub succeeded: u64,
    /// Requests that did not.
    pub failed: u64,
    /// Runs of the backend; fewer than requests where it ran several at once.
    pub executions: u64,
    /// Waiting of all of them for their turn, in nanoseconds.
    pub queue_ns: u64,
    /// Bringing their inputs to where the backend reads them.
    pub copy_in_ns: u64,
    /// Computing.
    pub compute_ns: u64,
    /// Handing their outputs over.
    pub copy_out_ns: u64,
}

impl From<Timing> for diolkos_timing {
    fn from(timing: Timing) -> diolkos_timing {
        let Timing { queue_ns, copy_in_ns, compute_ns, copy_out_ns } = timing;
        diolkos_timing { queue_ns, copy_in_ns, compute_ns, copy_out_ns }
    }
}

/// Views, and what they point to.
pub(crate) struct Views<V> {
    views: Vec<V>,
    _texts: Vec<CString>,
    _dims: Vec<Box<[i64]>>,
    outputs: Vec<Output>,
}

impl Views<diolkos_output> {
    /// The output with this name.
    pub(crate) fn named(&self, name: &str) -> Result<&diolkos_output, Failure> {
        let found = self.outputs.iter().position(|output| output.name() == name);
        found.and_then(|index| self.views.get(index)).ok_or_else(|| {
            let known: Vec<_> = self.outputs.iter().map(|output| format!("`{}`", output.name())).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Failure::argument(format!("there is no output `{name}`: the reply has {known}"))
        })
    }
}

impl<V> Views<V> {
    fn new(views: Vec<V>, texts: Vec<CString>) -> Views<V> {
        Views { views, _texts: texts, _dims: Vec::new(), outputs: Vec::new() }
    }

    pub(crate) fn as_slice(&self) -> &[V] {
        &self.views
    }
}

/// A text as C wants it. The protocol does not forbid zeros in names; C sees another character.
fn text(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// Lossless for ranks of tensors, which are 16 at most.
fn rank(dims: usize) -> i32 {
    i32::try_from(dims).unwrap_or(i32::MAX)
}

pub(crate) fn specs(specs: &[TensorSpec]) -> Views<diolkos_tensor_spec> {
    let texts: Vec<_> = specs.iter().map(|spec| text(&spec.name)).collect();
    let dims: Vec<Option<Box<[i64]>>> = specs
        .iter()
        .map(|spec| spec.dims.as_ref().map(|dims| dims.iter().map(|dim| dim.to_signed()).collect()))
        .collect();
    let views = specs.iter().zip(&texts).zip(&dims).map(|((spec, name), dims)| diolkos_tensor_spec {
        name: name.as_ptr(),
        data_type: spec.data_type as i32,
        rank: dims.as_ref().map_or(-1, |dims| rank(dims.len())),
        dims: dims.as_ref().map_or(ptr::null(), |dims| dims.as_ptr()),
        optional: spec.optional,
        any_type: spec.any_type,
    });
    let views = views.collect();
    Views { _dims: dims.into_iter().flatten().collect(), ..Views::new(views, texts) }
}

pub(crate) fn outputs(outputs: Vec<Output>) -> Views<diolkos_output> {
    let texts: Vec<_> = outputs.iter().map(|output| text(output.name())).collect();
    let views = outputs.iter().zip(&texts).map(|(output, name)| diolkos_output {
        name: name.as_ptr(),
        data_type: output.data_type() as i32,
        rank: rank(output.shape().len()),
        dims: output.shape().as_ptr(),
        data: output.bytes().as_ptr().cast(),
        bytes: output.bytes().len(),
    });
    let views = views.collect();
    Views { outputs, ..Views::new(views, texts) }
}

pub(crate) fn models(models: &[ModelInfo]) -> Views<diolkos_model_info> {
    let texts: Vec<_> = models.iter().flat_map(|model| [text(&model.name), text(&model.reason)]).collect();
    let views = models.iter().zip(texts.chunks_exact(2)).map(|(model, texts)| diolkos_model_info {
        name: texts[0].as_ptr(),
        version: model.version.unwrap_or(0),
        reason: texts[1].as_ptr(),
        state: model_state(model.state),
    });
    Views::new(views.collect(), texts)
}

pub(crate) fn stats(stats: &[ModelStats]) -> Views<diolkos_model_stats> {
    let texts: Vec<_> = stats.iter().map(|model| text(&model.name)).collect();
    let views = stats.iter().zip(&texts).map(|(model, name)| diolkos_model_stats {
        name: name.as_ptr(),
        version: model.version,
        succeeded: model.succeeded,
        failed: model.failed,
        executions: model.executions,
        queue_ns: model.timing.queue_ns,
        copy_in_ns: model.timing.copy_in_ns,
        compute_ns: model.timing.compute_ns,
        copy_out_ns: model.timing.copy_out_ns,
    });
    Views::new(views.collect(), texts)
}
