// SPDX-License-Identifier: Apache-2.0
//! The Open Inference Protocol over gRPC, and `grpc.health.v1`.
//!
//! ```text
//! dispatch ──> codec (scan, decode) ──> service ──> request ──> oip ──> response
//!  timeout,     bounded, payloads        calls       │
//!  compression  stay in place                        └─ stream: the same, many times, in order
//! ```
//!
//! | module | its one job |
//! |---|---|
//! | [`pb`] | the messages, the server's trait and a client; generated |
//! | `dispatch` | which service a call goes to, its deadline, its compression |
//! | `codec`, `scan` | bytes → message, refused first if they would decode to far more memory |
//! | `service` | the calls |
//! | `request`, `response` | messages ↔ the protocol-neutral part in `oip` |
//! | `stream` | many inferences on one call |
//! | `unary` | one inference, whose tensors are handed on without a copy |
//! | `admin` | metadata, configuration, statistics and repository as messages |
//! | `health` | `grpc.health.v1` |
//! | `deadline` | `grpc-timeout` |
//! | `in_place` | conversions too long for an I/O thread |
//! | `error` | the one table from `Status` to gRPC |
//! | `limits` | every bound of this module, with its reason |

mod admin;
mod codec;
mod deadline;
mod dispatch;
pub(crate) mod error;
mod health;
mod in_place;
mod limits;
pub mod pb;
mod request;
mod response;
mod scan;
mod service;
mod stream;
mod unary;

pub(crate) use dispatch::routes;

/// For `fuzz`: what passes the scan is decoded and converted as a call is, and nothing of it panics.
pub(crate) fn fuzz_infer(bytes: &[u8]) {
    let scanned = scan::infer_request(bytes, &limits::BOUNDS);
    let decoded = <pb::ModelInferRequest as prost::Message>::decode(bytes);
    if scanned.is_ok()
        && let Ok(message) = decoded
    {
        let payload = request::payload_bytes(&message);
        assert!(payload <= bytes.len() * 8, "{payload} bytes of payload from {}", bytes.len());
        // A refusal is as good as a call.
        let _ = request::to_call(message, None);
    }
}
