// SPDX-License-Identifier: Apache-2.0
//! What happened, as Prometheus text.
//!
//! Nothing is counted twice: the engine's own numbers are read when `/metrics` is asked for, and only what
//! the rim itself sees is counted here. Label values come from closed sets, or name models and tenants that
//! the operator made; a client can't invent one. [`DOCUMENTED`] lists every metric, tests compare it with
//! `docs/metrics.md` and with what is exported.

mod collect;
mod counters;
mod documented;
mod models;

pub use collect::resident_bytes;
pub use documented::{DOCUMENTED, Kind, Metric};

pub(crate) use collect::render;
pub(crate) use counters::{Copied, Counters, Front};
