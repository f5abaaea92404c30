// SPDX-License-Identifier: Apache-2.0
//! Which extensions of the protocol are advertised: exactly those that work.
//!
//! `model_repository(unload_dependents)` is not among them because no model here depends on another;
//! `sequence`, `system_shared_memory`, `cuda_shared_memory`, `trace` and `logging` are not offered.

/// Name that the server metadata carries.
pub(crate) const SERVER_NAME: &str = "diolkos";

/// Version that the server metadata carries.
pub(crate) const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The names for the `extensions` list.
pub(crate) const EXTENSIONS: [&str; 7] = [
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
];
