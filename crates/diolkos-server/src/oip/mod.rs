// SPDX-License-Identifier: Apache-2.0
//! The Open Inference Protocol without a transport: what REST and gRPC have in common.
//!
//! A front decodes its bytes into an [`InferCall`], awaits [`infer`], and encodes the [`InferReply`]. All
//! that is a rule of the protocol rather than of its encoding lives here, once.
//!
//! | module | its one job |
//! |---|---|
//! | `infer` | one inference: priority, timeout, submit, cancel when the caller goes away |
//! | `params` | which request parameters steer the server, and which go to the model |
//! | `element` | typed values → little-endian payload, with the checks of each type |
//! | `bytes` | lists of byte strings → payload |
//! | `places` | tensors in shared memory: parameters, and the copies in and out |
//! | `classification` | the best N of an output as text |
//! | `metadata` | what a model takes and gives, and its configuration as clients read it |
//! | `statistics` | the counters as clients read them |
//! | `repository` | index, load, unload |
//! | `schedule` | what the scheduler did, for whoever asks with the request |
//! | `extensions` | what is advertised |
//! | `offload` | work too long for an I/O thread |
//!
//! Invariant: nothing here knows HTTP or protobuf, and every error is a [`diolkos_types::Status`].

pub(crate) mod bytes;
pub(crate) mod classification;
pub(crate) mod element;
pub(crate) mod extensions;
mod infer;
pub(crate) mod metadata;
pub(crate) mod offload;
pub(crate) mod params;
pub(crate) mod places;
pub(crate) mod repository;
pub(crate) mod schedule;
pub(crate) mod statistics;

pub(crate) use infer::{Failed, InferCall, InferReply, OutputWish, ReplyTensor, infer, parse_version};
