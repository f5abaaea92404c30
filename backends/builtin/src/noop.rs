// SPDX-License-Identifier: Apache-2.0
//! `noop`: takes nothing, gives nothing. What is left of its latency is the daemon's own.

use diolkos_backend::{Operation, RunError, Work};
use diolkos_types::{Shape, Signature};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Noop {
    signature: Signature,
}

impl Noop {
    /// The operation.
    #[must_use]
    pub fn new() -> Noop {
        Noop::default()
    }
}

impl Operation for Noop {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    fn peak_bytes(&self, _shapes: &[Option<Shape>], _input_bytes: u64) -> Option<u64> {
        Some(0)
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        work.check_cancelled()?;
        work.compute_begins();
        work.compute_ends();
        Ok(())
    }
}
