// SPDX-License-Identifier: Apache-2.0
//! What goes wrong between a client and a daemon.

use std::io;

use super::Address;

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or whoever does may not be reached by this user.
    #[error("no daemon answers at {address}")]
    Connect {
        /// Which address was tried.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke, or what came over it is no HTTP.
    #[error("the connection to {address} broke")]
    Transport {
        /// Which daemon.
        address: Address,
        /// What hyper said.
        source: hyper::Error,
    },
    /// The daemon answered, and the answer is no.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The daemon's sentence.
        message: String,
    },
    /// The daemon answered with something that is no Open Inference Protocol.
    #[error("{address} does not speak the Open Inference Protocol: {reason}")]
    Protocol {
        /// Which daemon.
        address: Address,
        /// What was expected and what came.
        reason: String,
    },
}
