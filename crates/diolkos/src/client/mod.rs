// SPDX-License-Identifier: Apache-2.0
//! A small client of the daemon: the Open Inference Protocol over HTTP/1.1, on a unix socket or TCP, with
//! tensors in binary.
//!
//! The commands use it, and so does the client process of `diolkos demo`: it talks to the daemon as any
//! other program would, through a socket, and knows nothing of the engine.

mod address;
mod api;
mod error;
mod http;
mod infer;
mod tls;

pub use address::{Address, ParseAddressError};
pub(crate) use api::escape;
pub use api::{
    Client, Indexed, ModelConfigView, ModelDetails, ModelMetadata, ModelStatistics, Rehearsal, TensorMetadata,
};
pub use error::ClientError;
pub use http::Connection;
pub use infer::{InferReply, Parts, REPLY_TIMING_HEADER, decode_reply, encode_request};
