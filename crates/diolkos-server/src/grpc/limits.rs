// SPDX-License-Identifier: Apache-2.0
//! Every bound of the gRPC front that is no setting, with its reason.
//!
//! The size of a message is a setting, `limits.body_bytes_max`.

use diolkos_engine::limits as engine_limits;
use diolkos_types::RANK_MAX;

use super::scan::Bounds;
use crate::oip::params::PARAMS_MAX;

/// What a message may decode to. A protobuf message of 64 MiB can say "an empty tensor" 32 million times
/// in two bytes each, and every one of them becomes a struct a hundred times that size.
pub(crate) const BOUNDS: Bounds = Bounds {
    tensors: engine_limits::TENSORS_MAX,
    // Every tensor may have a few; a request that has this many of them in all is a mistake.
    params: 16 * PARAMS_MAX,
    dims: engine_limits::TENSORS_MAX * RANK_MAX,
    // As FP32 this is 64 MiB, the default limit of a message. A small integer takes one byte on the wire
    // and eight here, which is why counting bytes would not do.
    elements: 16 << 20,
    // An empty string takes two bytes on the wire and 32 here.
    strings: 1 << 20,
    // Files and other parameters of a model that a client sends; the largest published models have some
    // hundred files.
    load_params: 1024,
};

/// Requests of one stream that are decoded and not yet answered. Enough to keep every device busy from
/// one stream; past it nothing more is read, and the window of the stream makes the client wait.
pub(crate) const STREAM_REQUESTS_MAX: usize = 32;

/// Payload of those requests. One request may be larger; it is then alone.
pub(crate) const STREAM_BYTES_MAX: usize = 16 << 20;

/// Watchers of the health service on one daemon: each is one task that sleeps.
pub(crate) const HEALTH_WATCHERS_MAX: usize = 1024;
