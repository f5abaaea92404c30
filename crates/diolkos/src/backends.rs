// SPDX-License-Identifier: Apache-2.0
//! Which backends and built-in operations this build has. The only module that names any.

use std::sync::Arc;

use diolkos_backend::Backend;
use diolkos_engine::store::{ProcessRehearser, RehearsalLimits};
use diolkos_server::Builtin;

/// Every backend that loads models.
#[must_use]
pub fn all() -> Vec<Arc<dyn Backend>> {
    vec![Arc::new(diolkos_tract::TractBackend::new())]
}

/// Every built-in operation.
#[must_use]
pub fn builtins() -> Vec<Builtin> {
    diolkos_builtin::operations()
        .into_iter()
        .map(|operation| Builtin {
            name: operation.name.to_owned(),
            summary: operation.summary.to_owned(),
            operation: operation.operation,
        })
        .collect()
}

/// Names of the built-in operations.
pub fn builtin_names() -> impl Iterator<Item = String> {
    diolkos_builtin::operations().into_iter().map(|operation| operation.name.to_owned())
}

/// File name extensions that some backend loads.
#[must_use]
pub fn extensions() -> Vec<&'static str> {
    all().iter().flat_map(|backend| backend.formats().iter().map(|format| format.extension)).collect()
}

/// Rehearses loads in a child process of this very executable.
#[must_use]
pub fn rehearser(limits: RehearsalLimits) -> ProcessRehearser {
    ProcessRehearser {
        // Not its path: what lies there may have been replaced by another build since this one started.
        program: "/proc/self/exe".into(),
        args: vec!["rehearse".into()],
        // The allocator sets address space aside a gigabyte at a time, which the limit on memory counts. What
        // it sets aside before the limit is set would come on top, so here it takes small steps.
        env: vec![("MIMALLOC_ARENA_RESERVE".into(), "32MiB".into())],
        limits,
    }
}
