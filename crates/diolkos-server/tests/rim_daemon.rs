// SPDX-License-Identifier: Apache-2.0
//! The rim from outside: a daemon in this process (or, for signals, in a child), and clients that behave
//! well or badly. One binary, because linking each file alone would take longer than running them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, like the tests themselves")]

#[path = "rim/admin.rs"]
mod admin;
#[path = "support/certificates.rs"]
mod certificates;
#[path = "rim/connections.rs"]
mod connections;
#[path = "rim/documents.rs"]
mod documents;
#[path = "rim/lifecycle.rs"]
mod lifecycle;
#[path = "rim/pools.rs"]
mod pools;
#[path = "rim/signals.rs"]
mod signals;
#[path = "rim/slow.rs"]
mod slow;
#[path = "rim/statistics.rs"]
mod statistics;
#[path = "rim/support.rs"]
mod support;
#[path = "rim/tenants.rs"]
mod tenants;
#[path = "rim/tls.rs"]
mod tls;
#[path = "rim/vsock.rs"]
mod vsock;
