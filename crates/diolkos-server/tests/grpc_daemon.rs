// SPDX-License-Identifier: Apache-2.0
//! gRPC from outside: a daemon in this process, and a client on its unix socket. One binary, because
//! linking each file alone would take longer than running them.

#![allow(clippy::unwrap_used, reason = "clippy knows test functions and not their helpers")]

#[path = "grpc/admin.rs"]
mod admin;
#[path = "grpc/bad_streams.rs"]
mod bad_streams;
#[path = "grpc/explain.rs"]
mod explain;
#[path = "grpc/infer.rs"]
mod infer;
#[path = "grpc/limits.rs"]
mod limits;
#[path = "grpc/shared_memory.rs"]
mod shared_memory;
#[path = "grpc/statistics.rs"]
mod statistics;
#[path = "grpc/streams.rs"]
mod streams;
#[path = "grpc/support.rs"]
mod support;
#[path = "grpc/tenants.rs"]
mod tenants;
