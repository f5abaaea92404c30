// SPDX-License-Identifier: Apache-2.0
//! What a tenant is told: a stable code and one sentence that says what to do.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::time::Duration;

/// The kind of an outcome. Numbers are part of the protocol and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
#[non_exhaustive]
pub enum Code {
    /// The request itself is wrong; sending it again unchanged fails again.
    InvalidArgument = 1,
    /// No such model, version, operation or handle in this tenant's namespace.
    NotFound = 2,
    /// A limit is reached now; send it again after the hint.
    Busy = 3,
    /// The deadline passed before the work was done.
    DeadlineExceeded = 4,
    /// The caller cancelled, or went away.
    Cancelled = 5,
    /// Known, and not offered here: an operation, type or extension that this build or model lacks.
    Unsupported = 6,
    /// The model exists but can't serve now: loading, failed to load, or draining.
    Unavailable = 7,
    /// This tenant's lease does not allow it.
    PermissionDenied = 8,
    /// A request needs more than the daemon or lease will ever give it.
    TooLarge = 9,
    /// The daemon or a backend is at fault.
    Internal = 10,
    /// The work ended without an answer; a defect or a dead device. Safe to try again if idempotent.
    Aborted = 11,
}

impl Code {
    /// Every code, in the order of their numbers.
    pub const ALL: [Code; 11] = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::Busy,
        Code::DeadlineExceeded,
        Code::Cancelled,
        Code::Unsupported,
        Code::Unavailable,
        Code::PermissionDenied,
        Code::TooLarge,
        Code::Internal,
        Code::Aborted,
    ];

    /// The stable name used in metrics, logs and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Code::InvalidArgument => "invalid_argument",
            Code::NotFound => "not_found",
            Code::Busy => "busy",
            Code::DeadlineExceeded => "deadline_exceeded",
            Code::Cancelled => "cancelled",
            Code::Unsupported => "unsupported",
            Code::Unavailable => "unavailable",
            Code::PermissionDenied => "permission_denied",
            Code::TooLarge => "too_large",
            Code::Internal => "internal",
            Code::Aborted => "aborted",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a request got no result.
///
/// Boxed, so that a `Result<T, Status>` on the hot path stays one word wide on its error side.
#[derive(Clone, PartialEq, Eq)]
pub struct Status(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    code: Code,
    message: String,
    retry_after: Option<Duration>,
}

impl Status {
    /// A status with a sentence that says what was wrong and what to do.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status(Box::new(Inner { code, message: message.into(), retry_after: None }))
    }

    /// [`Code::InvalidArgument`].
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Status {
        Status::new(Code::InvalidArgument, message)
    }

    /// [`Code::Busy`], with the time after which it is worth trying again.
    #[must_use]
    pub fn busy(message: impl Into<String>, retry_after: Duration) -> Status {
        let mut status = Status::new(Code::Busy, message);
        status.0.retry_after = Some(retry_after);
        status
    }

    /// The kind.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// After which time it is worth trying again; only for [`Code::Busy`].
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl core::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_stable() {
        for (index, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, index + 1, "{code} moved");
            assert_eq!(Code::ALL.iter().filter(|other| other.name() == code.name()).count(), 1);
        }
        assert_eq!(size_of::<Result<(), Status>>(), size_of::<usize>());
    }
}
