// SPDX-License-Identifier: Apache-2.0
//! The embedded backend: ONNX models on tract, a pure-Rust runtime.
//!
//! What happens to a model file, and where:
//!
//! ```text
//! bytes ──proto──> checked ModelProto ──rules──> nothing refused ──plan──> Plan ──model──> Operation
//!         bounded, self-contained       or an error that names        optimised    run: convert in,
//!         (no file is opened)           the node                      once         plan, convert out
//! ```
//!
//! Invariants:
//!
//! * Only what `rules` knows to be right reaches tract. An operator, attribute or version whose answer
//!   was seen to be wrong, or was never checked against the ONNX node suite, is refused at load.
//! * Every call into tract passes through `guard`: a panic of tract is an error of this one model or run.
//!   The panic hook is left alone, because it belongs to the executable; tract's panics are therefore
//!   also printed by whatever hook is installed.
//! * Locks are leaves: none is held while tract optimises or runs.

#![forbid(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!(
    "tensors of the protocol are little-endian, and this backend hands tract's memory out as it is"
);

mod backend;
mod cache;
mod convert;
mod fold;
mod guard;
mod limits;
mod memory;
mod model;
mod ops;
mod plan;
mod proto;
mod rules;
mod shape;
mod special;
mod values;

pub use backend::TractBackend;
