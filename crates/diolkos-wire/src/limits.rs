// SPDX-License-Identifier: Apache-2.0
//! Every bound of the native channel, with its reason, and the [`Limits`] that a daemon grants a connection.
//!
//! The bounds on fields keep each message below [`MESSAGE_BYTES_MAX`], whatever it holds: the assertions at
//! the end add up the largest ones. Encoder and decoder hold the same bounds, so what one writes the other reads.

use diolkos_types::RANK_MAX;

/// Body of one message. The largest are a signature of 512 tensors with the longest names and a part of a
/// long list of models, a little over half a megabyte each; what is larger is tensors, and those are payload.
pub const MESSAGE_BYTES_MAX: u32 = 1 << 20;

/// Payload behind one frame, unless the daemon says otherwise: what the engine lets one request need.
pub const PAYLOAD_BYTES_MAX: u64 = 1 << 30;

/// Name of a client or of a daemon; it is for logs.
pub const PEER_NAME_BYTES_MAX: usize = 64;

/// Name of a tenant: that of the settings.
pub const TENANT_NAME_BYTES_MAX: usize = 64;

/// Token. A signed token with a few claims takes one or two kilobytes.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// Name of a model. The store takes 200 bytes; a name for a tenant's own namespace may come in front.
pub const MODEL_NAME_BYTES_MAX: usize = 256;

/// Name of an operation.
pub const OPERATION_NAME_BYTES_MAX: usize = 64;

/// Name of a tensor: that of the gRPC front. Exporters write the path of a layer into it.
pub const TENSOR_NAME_BYTES_MAX: usize = 1024;

/// Inputs or outputs, of a signature or of a request: that of the engine.
pub const TENSORS_MAX: usize = 256;

/// Parameters of one request: that of the REST and gRPC fronts.
pub const PARAMS_MAX: usize = 64;

/// Name of a parameter.
pub const PARAM_NAME_BYTES_MAX: usize = 256;

/// Text of one parameter. Longer text is data, and travels as a tensor.
pub const PARAM_TEXT_BYTES_MAX: usize = 8192;

/// Sentence of a failure. Longer ones are cut, as the other fronts do.
pub const SENTENCE_BYTES_MAX: usize = 1024;

/// Why a model is not ready, in a list of many.
pub const REASON_BYTES_MAX: usize = 512;

/// Models in one part of a list. More come in further parts.
pub const PART_ENTRIES_MAX: usize = 1024;

/// Entries of a ring: far more than a connection may have in flight, and 2 MiB.
pub const RING_ENTRIES_MAX: u32 = 32_768;

/// One message slot: a slot that holds the largest message is large enough for all.
pub const SLOT_BYTES_MAX: u32 = MESSAGE_BYTES_MAX;

/// Bytes of the longest text, with its length.
const fn text(bytes: usize) -> usize {
    2 + bytes
}

/// Largest reference to a tensor: all dimensions, in a region.
const TENSOR_REF_BYTES_MAX: usize = 4 + 8 * RANK_MAX + 19;

/// Largest parameters of a request.
const PARAMS_BYTES_MAX: usize =
    2 + PARAMS_MAX * (text(PARAM_NAME_BYTES_MAX) + 1 + text(PARAM_TEXT_BYTES_MAX));

/// Largest declared tensor of a signature.
const SPEC_BYTES_MAX: usize = text(TENSOR_NAME_BYTES_MAX) + 4 + 9 * RANK_MAX;

/// Body of the largest [`Infer`](crate::Infer).
pub const INFER_BYTES_MAX: usize =
    25 + PARAMS_BYTES_MAX + 2 + TENSORS_MAX * TENSOR_REF_BYTES_MAX + 3 + 2 * TENSORS_MAX + 19;

/// Body of the largest [`ModelOpened`](crate::ModelOpened).
pub const MODEL_OPENED_BYTES_MAX: usize = 16 + 2 * (2 + TENSORS_MAX * SPEC_BYTES_MAX);

/// Body of the largest [`Models`](crate::Models).
pub const MODELS_BYTES_MAX: usize =
    2 + PART_ENTRIES_MAX * (text(MODEL_NAME_BYTES_MAX) + 8 + 1 + text(REASON_BYTES_MAX));

/// Body of the largest [`StatsReply`](crate::StatsReply).
pub const STATS_REPLY_BYTES_MAX: usize = 2 + PART_ENTRIES_MAX * (text(MODEL_NAME_BYTES_MAX) + 8 * 8);

const _: () = assert!(INFER_BYTES_MAX <= MESSAGE_BYTES_MAX as usize);
const _: () = assert!(MODEL_OPENED_BYTES_MAX <= MESSAGE_BYTES_MAX as usize);
const _: () = assert!(MODELS_BYTES_MAX <= MESSAGE_BYTES_MAX as usize);
const _: () = assert!(STATS_REPLY_BYTES_MAX <= MESSAGE_BYTES_MAX as usize);
const _: () = assert!(TOKEN_BYTES_MAX + 1024 <= MESSAGE_BYTES_MAX as usize);
const _: () = assert!(RING_ENTRIES_MAX.is_power_of_two());

/// What a daemon grants one connection. A `Welcome` tells the client.
///
/// The default holds before the `Welcome`, on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Body of one message, in bytes.
    pub message_bytes_max: u32,
    /// Payload behind one frame, in bytes.
    pub payload_bytes_max: u64,
    /// Requests that wait for their answer.
    pub in_flight_max: u32,
    /// Registered regions.
    pub regions_max: u16,
    /// One region, in bytes.
    pub region_bytes_max: u64,
    /// All regions of the connection together, in bytes.
    pub regions_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes_max: MESSAGE_BYTES_MAX,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            // What the engine lets one session have in flight.
            in_flight_max: 512,
            regions_max: 64,
            region_bytes_max: PAYLOAD_BYTES_MAX,
            regions_bytes_max: 4 * PAYLOAD_BYTES_MAX,
        }
    }
}
