// SPDX-License-Identifier: Apache-2.0
//! Fuzz targets of Diolkos; docs/fuzzing.md says how to run them.

#![forbid(unsafe_code)]

pub mod targets;
