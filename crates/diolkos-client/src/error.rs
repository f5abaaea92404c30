// SPDX-License-Identifier: Apache-2.0
//! What a caller is told.

use std::io;
use std::sync::Arc;

use diolkos_types::{Code, Status};

use crate::address::AddressError;

/// Why a call got no result.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Nobody answers there.
    #[error("can't reach the daemon at {address}: {source}{}", hint(source))]
    Connect {
        /// Where it was looked for.
        address: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The daemon refused, or the work failed there.
    #[error("{0}")]
    Refused(Status),
    /// The connection ended while something waited for an answer.
    #[error("the connection to the daemon was lost: {reason}")]
    Lost {
        /// How.
        reason: String,
    },
    /// The answer did not come in time. The request was cancelled.
    #[error("no answer came in time; the request was cancelled")]
    Timeout,
    /// The caller's mistake, found before anything was sent.
    #[error("{0}")]
    Invalid(String),
    /// There is no memory for the tensor.
    #[error("no memory for a tensor of {bytes} bytes: {reason}")]
    Memory {
        /// How much was wanted.
        bytes: usize,
        /// Why there is none.
        reason: String,
    },
    /// The model was replaced by one that takes or gives other tensors.
    #[error("model `{name}` was replaced by one that takes or gives other tensors; open it again")]
    Changed {
        /// Its name.
        name: String,
    },
}

impl Error {
    /// The daemon's code, for a request that it refused.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Refused(status) => Some(status.code()),
            _ => None,
        }
    }

    pub(crate) fn lost(reason: impl Into<String>) -> Error {
        Error::Lost { reason: reason.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::Invalid(message.into())
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        Error::Refused(status)
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "; is it running? `diolkos serve` starts one"
        }
        io::ErrorKind::PermissionDenied => {
            "; the socket's permissions (`socket_mode`) don't let this user in"
        }
        _ => "",
    }
}
