// SPDX-License-Identifier: Apache-2.0
//! The Rust client against a daemon in this process, over every way that there is.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "native/calls.rs"]
mod calls;
#[path = "native/certificates.rs"]
mod certificates;
#[path = "native/endpoints.rs"]
mod endpoints;
#[path = "native/faults.rs"]
mod faults;
#[path = "native/hostile.rs"]
mod hostile;
#[path = "native/raw.rs"]
mod raw;
#[path = "native/results.rs"]
mod results;
#[path = "native/statistics.rs"]
mod statistics;
#[path = "native/support.rs"]
mod support;
#[path = "native/tenants.rs"]
mod tenants;
#[path = "native/tls.rs"]
mod tls;
