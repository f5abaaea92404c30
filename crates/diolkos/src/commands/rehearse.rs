// SPDX-License-Identifier: Apache-2.0
//! The hidden `diolkos rehearse`: the child process in which a model is loaded first.

use std::process::ExitCode;

use crate::backends;

pub(super) fn run() -> ExitCode {
    diolkos_engine::store::child_main(&backends::all())
}
