// SPDX-License-Identifier: Apache-2.0
//! Which extensions of the protocol are advertised: exactly those that work.
//!
//! `model_repository(unload_dependents)` is not among them because no model here depends on another;
//! `sequence`, `cuda_shared_memory`, `trace` and `logging` are not offered. `system_shared_memory` is where the caller
//! may use it.

use diolkos_types::{Code, Status};

use crate::sessions::ClientSession;

/// Name that the server metadata carries.
pub(crate) const SERVER_NAME: &str = "diolkos";

/// Version that the server metadata carries.
pub(crate) const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The names for the `extensions` list, those that everybody may use.
const EXTENSIONS: [&str; 7] = [
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
];

/// The names for the `extensions` list of this caller.
pub(crate) fn extensions(session: &ClientSession) -> Vec<&'static str> {
    let mut names = EXTENSIONS.to_vec();
    if session.memory.is_offered() {
        names.push("system_shared_memory");
    }
    names
}

/// What is answered to a client that registers CUDA shared memory.
pub(crate) fn no_cuda() -> Status {
    Status::new(
        Code::Unsupported,
        "the cuda_shared_memory extension is not offered here; send the data itself, or register system shared memory",
    )
}

/// What is answered to a client that asks for a region of CUDA shared memory.
pub(crate) fn no_such_cuda_region(name: &str) -> Status {
    let shown: String = name.chars().take(80).collect();
    let message =
        format!("there is no CUDA shared memory region '{}', and none can be here", shown.escape_debug());
    Status::new(Code::NotFound, message)
}
