// SPDX-License-Identifier: Apache-2.0
//! The vocabulary of Diolkos: data types, shapes, signatures, parameters, ids and [`Status`].
//!
//! Everything here is plain data. There is no I/O, no thread, no clock and no unsafe code, and the
//! crate is usable with `no_std + alloc`, so that a guest or a unikernel can speak the same words.
//!
//! Invariants that other crates rely on:
//!
//! * A [`Shape`] has at most [`RANK_MAX`] dimensions, and nobody multiplies dimensions by hand:
//!   [`Shape::elements`] and [`DataType::payload_bytes`] are overflow-safe and the only two places that do.
//! * A [`Status`] carries a stable [`Code`] and one sentence that says what to do.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bytes_elements;
mod data_type;
mod id;
mod param;
mod shape;
mod signature;
mod spread;
mod status;

pub use bytes_elements::{BytesElements, BytesError, push_bytes_element};
pub use data_type::{DataType, UnknownDataType};
pub use id::{Digest, HandleId, JobId, ParseDigestError, SessionId, TenantId};
pub use param::{Param, Params};
pub use shape::{Dims, RANK_MAX, Shape, ShapeError};
pub use signature::{Dim, Mismatch, Signature, TensorSpec};
pub use spread::{BuildSpread, Spread};
pub use status::{Code, Status};
