// SPDX-License-Identifier: Apache-2.0
//! [`TractBackend`].

use std::sync::Arc;

use diolkos_backend::{Backend, Format, LoadError, LoadOptions, ModelFiles, Operation};

use crate::guard::{Trouble, guard};
use crate::model::Model;
use crate::plan::Blueprint;
use crate::proto::{BACKEND, invalid, prepare, unsupported};

/// Loads ONNX models into this process.
///
/// It reads nothing but the [`ModelFiles`] it is given. A load is one thread's work and takes
/// milliseconds to seconds; memory that tract needs meanwhile is a few times the size of the files.
#[derive(Clone, Copy, Debug, Default)]
pub struct TractBackend;

impl TractBackend {
    /// The backend.
    #[must_use]
    pub const fn new() -> TractBackend {
        TractBackend
    }
}

impl Backend for TractBackend {
    fn name(&self) -> &'static str {
        BACKEND
    }

    fn formats(&self) -> &[Format] {
        &[Format { extension: "onnx", platform: "onnx_tract" }]
    }

    fn load(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Operation>, LoadError> {
        // The outer guard is for our own checks: whatever the bytes are, a load must not unwind.
        let loaded = guard(|| Ok(load(files, options)));
        loaded.unwrap_or_else(|trouble| Err(invalid(trouble.to_string()))).map(|model| Arc::new(model) as _)
    }
}

fn load(files: &ModelFiles, options: &LoadOptions) -> Result<Model, LoadError> {
    let prepared = prepare(files, options)?;
    let blueprint = Blueprint::new(&prepared).map_err(refusal)?;
    Model::new(prepared, blueprint, options)
}

/// What a failure of tract's says about the model: an error names a thing it lacks or contradicts, and a
/// panic means that the model broke an assumption.
pub(crate) fn refusal(trouble: Trouble) -> LoadError {
    match trouble {
        Trouble::Error(_) => unsupported(trouble.to_string()),
        Trouble::Panic(_) => invalid(trouble.to_string()),
    }
}
