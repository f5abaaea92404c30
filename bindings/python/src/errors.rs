// SPDX-License-Identifier: Apache-2.0
//! From the client's errors to exceptions, whose classes are written in Python.

use diolkos_client::Error;
use diolkos_client::types::Code;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// `diolkos._errors.make`.
static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// The class of exceptions that stands for a code.
fn class_of(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "InvalidArgument",
        Code::NotFound => "NotFound",
        Code::Busy => "Busy",
        Code::DeadlineExceeded => "Timeout",
        Code::Cancelled => "Cancelled",
        Code::Unsupported => "Unsupported",
        Code::Unavailable => "Unavailable",
        Code::PermissionDenied => "PermissionDenied",
        Code::TooLarge => "TooLarge",
        Code::Aborted => "Aborted",
        // `Code` may get more; to this package they are the daemon's own affair.
        _ => "Internal",
    }
}

/// The exception for an error of the client.
pub(crate) fn exception(error: &Error) -> PyErr {
    let (class, code, retry_after) = match error {
        Error::Refused(status) => (
            class_of(status.code()),
            Some(status.code().name()),
            status.retry_after().map(|time| time.as_secs_f64()),
        ),
        Error::Connect { .. } | Error::Lost { .. } => ("ConnectionLost", None, None),
        Error::Timeout => ("Timeout", None, None),
        Error::Address(_) | Error::Invalid(_) => ("InvalidArgument", None, None),
        Error::Memory { .. } => ("NoMemory", None, None),
        Error::Changed { .. } => ("ModelChanged", None, None),
        _ => ("Error", None, None),
    };
    make(class, &error.to_string(), code, retry_after)
}

/// What was asked for is the caller's mistake.
pub(crate) fn invalid(message: &str) -> PyErr {
    make("InvalidArgument", message, None, None)
}

/// The request was cancelled on this side.
pub(crate) fn cancelled() -> PyErr {
    make("Cancelled", "the request was cancelled", None, None)
}

/// The interpreter ends, and nothing is waited for any more.
pub(crate) fn leaving() -> PyErr {
    make("ConnectionLost", "the interpreter is ending", None, None)
}

/// Something of the parent's was used in a process that was forked off.
pub(crate) fn forked() -> PyErr {
    let message =
        "this belongs to the process that connected, and this process was forked off; connect again here";
    make("Error", message, None, None)
}

fn make(class: &str, message: &str, code: Option<&str>, retry_after: Option<f64>) -> PyErr {
    let made = Python::attach(|py| {
        let make = MAKE.get_or_try_init(py, || {
            Ok::<_, PyErr>(py.import("diolkos._errors")?.getattr("make")?.unbind())
        })?;
        let exception = make.bind(py).call1((class, message, code, retry_after))?;
        Ok::<_, PyErr>(PyErr::from_value(exception))
    });
    // What can go wrong in making one is an exception as well.
    made.unwrap_or_else(|error| error)
}
