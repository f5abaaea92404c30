// SPDX-License-Identifier: Apache-2.0
//! Calls into tract that may panic.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tract_onnx::prelude::TractError;

/// Why a call into tract gave nothing.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It returned an error.
    Error(TractError),
    /// It panicked with this message.
    Panic(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The whole chain of causes: the outermost alone says only which step failed.
            Trouble::Error(error) => f.write_str(&shorten(&format!("{error:#}"))),
            Trouble::Panic(message) => write!(f, "tract panicked: {}", shorten(message)),
        }
    }
}

/// Errors of tract can carry whole nodes with their constants.
pub(crate) fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 600;
    let mut short: String = text.chars().take(CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short.replace('\n', " ")
}

/// Runs `call`, and turns a panic into an error.
///
/// Asserting unwind safety holds because callers drop everything that `call` could have left half done:
/// a load drops the model, a run drops its state, and plans are only read.
pub(crate) fn guard<T>(call: impl FnOnce() -> Result<T, TractError>) -> Result<T, Trouble> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Trouble::Error(error)),
        Err(payload) => Err(Trouble::Panic(message(payload.as_ref()))),
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        let caught = guard::<()>(|| panic!("odd {}", 1)).unwrap_err();
        assert_eq!(caught.to_string(), "tract panicked: odd 1");
        assert_eq!(guard(|| Ok(7)).unwrap(), 7);
    }

    #[test]
    fn long_errors_are_cut() {
        let caught = guard::<()>(|| panic!("{}", "é\n".repeat(5000))).unwrap_err();
        assert!(caught.to_string().chars().count() < 700);
    }
}
