// SPDX-License-Identifier: Apache-2.0
//! The client of a Diolkos daemon for C and C++: a thin skin over `diolkos-client`.
//!
//! C programmers read `include/diolkos.h`, which `tests/header.rs` makes of the comments here, and docs/c-api.md.
//!
//! ```text
//! C ──> ffi (checks pointers, catches panics) ──> handles ──> diolkos_client
//!        │                                          │
//!        └── errors: a number, and a text per thread└── views: what C reads in place
//! ```
//!
//! | module | its one job |
//! |---|---|
//! | `ffi` | every function; the only unsafe code |
//! | `errors` | what a failure is in C |
//! | `numbers` | enumerations: they cross as integers, and are checked |
//! | `options` | what C fills in: options, requests, inputs |
//! | `handles` | what C holds |
//! | `views` | what C reads |
//!
//! Invariants:
//!
//! * Nothing unwinds into C: every function runs inside `errors::guard`.
//! * A handle ends by its `_free` alone; only tensors end by being sent, too.
//! * What C sees has the same name here.

#![deny(unsafe_code)]
// The names of C.
#![allow(non_camel_case_types)]

mod errors;
#[allow(unsafe_code)]
pub mod ffi;
pub mod handles;
pub mod numbers;
pub mod options;
pub mod views;
