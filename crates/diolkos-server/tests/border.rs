// SPDX-License-Identifier: Apache-2.0
//! The border between tenants, from the wrong side: a hostile tenant tries every call of every front, by every way in.
//!
//! Whatever is the victim's is called `secret`: tenant, model, lease, region, shared memory. Nobody has anything called
//! `nobody`. So one rule says it all: what a call about `secret` is answered is what the same call about `nobody` is
//! answered, but for the name, and of `secret` nothing is different afterwards.
//!
//! `cargo xtask vm` runs all of this in a virtual machine as well, where two machines meet over vsock.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, like the tests themselves")]

#[path = "support/certificates.rs"]
mod certificates;
#[path = "border/doors.rs"]
mod doors;
#[path = "border/forged.rs"]
mod forged;
#[path = "border/grpc.rs"]
mod grpc;
#[path = "border/http.rs"]
mod http;
#[path = "border/native.rs"]
mod native;
#[path = "border/rest.rs"]
mod rest;
#[path = "border/users.rs"]
mod users;
#[path = "border/world.rs"]
mod world;
