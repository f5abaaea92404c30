// SPDX-License-Identifier: Apache-2.0
//! Operations that every daemon offers without a model file.
//!
//! | name | inputs | outputs | parameters |
//! |---|---|---|---|
//! | `noop` | – | – | – |
//! | `echo` | `data`: any type and shape | `data`: the same | – |
//! | `blas.sgemm` | `A`, `B`, optional `C`: FP32 matrices | `result`: FP32 matrix | `alpha`, `beta`, `transpose_a`, `transpose_b` |
//! | `minmax` | `data`: any numeric type, any shape | `min`, `max`: one element of the same type | – |
//!
//! All pass [`diolkos_backend::conformance`]. Parameters that an operation does not know are ignored, because
//! requests carry parameters for the daemon as well.

#![deny(unsafe_code)]

mod echo;
#[allow(unsafe_code)]
mod ffi;
mod minmax;
mod noop;
mod sgemm;

use std::sync::Arc;

use diolkos_backend::Operation;

pub use echo::Echo;
pub use minmax::MinMax;
pub use noop::Noop;
pub use sgemm::{DIM_MAX, Sgemm};

/// Name of this backend in messages.
pub const NAME: &str = "builtin";

/// A built-in operation under its name.
#[derive(Clone)]
pub struct BuiltIn {
    /// What requests call it.
    pub name: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// What runs.
    pub operation: Arc<dyn Operation>,
}

/// Every built-in operation, sorted by name.
#[must_use]
pub fn operations() -> Vec<BuiltIn> {
    vec![
        BuiltIn {
            name: "blas.sgemm",
            summary: "single-precision matrix product: alpha * op(A) * op(B) + beta * C",
            operation: Arc::new(Sgemm::new()),
        },
        BuiltIn { name: "echo", summary: "answers with its input", operation: Arc::new(Echo::new()) },
        BuiltIn {
            name: "minmax",
            summary: "the least and the greatest element",
            operation: Arc::new(MinMax::new()),
        },
        BuiltIn { name: "noop", summary: "does nothing", operation: Arc::new(Noop::new()) },
    ]
}

#[cfg(test)]
mod tests {
    use diolkos_backend::conformance::Suite;

    use super::*;

    #[test]
    fn all_conform_and_are_sorted() {
        let all = operations();
        assert!(all.is_sorted_by(|a, b| a.name < b.name));
        for BuiltIn { name, operation, .. } in all {
            Suite::for_operation(name, operation).run().assert_conforms();
        }
    }
}
