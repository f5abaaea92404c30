// SPDX-License-Identifier: Apache-2.0
//! What a failure is in C: a number that is returned, and a text that this thread keeps.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use ::diolkos_client::Error;

use crate::numbers::{diolkos_code, status};

/// Why a function failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: i32,
    text: String,
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(code: diolkos_code, text: impl Into<String>) -> Failure {
        Failure { code: code as i32, text: text.into(), retry_after: None }
    }

    /// The caller's mistake.
    pub(crate) fn argument(text: impl Into<String>) -> Failure {
        Failure::new(diolkos_code::DIOLKOS_ERROR_ARGUMENT, text)
    }

    /// An argument that may not be NULL.
    pub(crate) fn null(what: &str) -> Failure {
        Failure::argument(format!("{what} is NULL"))
    }

    /// A wait that ended before the answer came.
    pub(crate) fn not_yet() -> Failure {
        Failure::new(
            diolkos_code::DIOLKOS_ERROR_TIMEOUT,
            "the answer did not come in time; wait for it again, or free `pending` to cancel the request",
        )
    }

    fn panicked(payload: &(dyn Any + Send)) -> Failure {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
        Failure::new(diolkos_code::DIOLKOS_ERROR_DEFECT, format!("libdiolkos panicked: {text}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        use diolkos_code as code;
        let number = match &error {
            Error::Address(_) | Error::Invalid(_) => code::DIOLKOS_ERROR_ARGUMENT,
            Error::Connect { .. } => code::DIOLKOS_ERROR_CONNECT,
            Error::Lost { .. } => code::DIOLKOS_ERROR_LOST,
            Error::Timeout => code::DIOLKOS_ERROR_TIMEOUT,
            Error::Memory { .. } => code::DIOLKOS_ERROR_MEMORY,
            Error::Changed { .. } => code::DIOLKOS_ERROR_CHANGED,
            Error::Refused(refused) => {
                let (code, text) = (status(refused.code()), refused.message().to_owned());
                return Failure { code, text, retry_after: refused.retry_after() };
            }
            // `Error` may get variants that this library does not know yet.
            _ => code::DIOLKOS_ERROR_DEFECT,
        };
        Failure::new(number, error.to_string())
    }
}

/// The last failure of a thread.
#[derive(Default)]
struct Last {
    text: CString,
    retry_after_us: u64,
}

thread_local! {
    static LAST: RefCell<Last> = RefCell::default();
}

/// Runs what a function does. The thread keeps the text of a failure, and nothing unwinds into C.
pub(crate) fn guard(act: impl FnOnce() -> Result<(), Failure>) -> i32 {
    guard_or(|failure| failure, || act().map(|()| diolkos_code::DIOLKOS_OK as i32))
}

/// The same for what returns something else than a code: `failed` makes it of the code of a failure.
pub(crate) fn guard_or<T>(failed: impl FnOnce(i32) -> T, act: impl FnOnce() -> Result<T, Failure>) -> T {
    // What is behind a handle stays sound if a panic leaves it half done: only `ffi` is unsafe, and it moves nothing
    // out of a handle that is not put back or dropped by its owner.
    let failure = match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(value)) => return value,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::panicked(&*payload),
    };
    let code = failure.code;
    keep(failure);
    failed(code)
}

/// The same for what can't fail but by a defect.
pub(crate) fn guard_free(act: impl FnOnce()) {
    guard(|| {
        act();
        Ok(())
    });
}

fn keep(failure: Failure) {
    let text = CString::new(failure.text.replace('\0', "\u{fffd}")).unwrap_or_default();
    let after = failure.retry_after.map_or(0, |after| u64::try_from(after.as_micros()).unwrap_or(u64::MAX));
    // While a thread ends, there may be no place for it any more.
    let _ = LAST.try_with(|last| *last.borrow_mut() = Last { text, retry_after_us: after });
}

/// Passes on the text of the last failure, which stays where it is until the next one of this thread.
pub(crate) fn with_last_text<T>(look: impl FnOnce(&CStr) -> T) -> Option<T> {
    LAST.try_with(|last| look(&last.borrow().text)).ok()
}

/// When it is worth trying again, in microseconds; 0 where the daemon did not say.
pub(crate) fn last_retry_after_us() -> u64 {
    LAST.try_with(|last| last.borrow().retry_after_us).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use ::diolkos_client::types::Status;

    use super::*;

    fn last() -> String {
        with_last_text(|text| text.to_str().unwrap().to_owned()).unwrap()
    }

    #[test]
    fn a_panic_is_a_code_and_a_text() {
        assert_eq!(guard(|| panic!("with a {}", "reason")), diolkos_code::DIOLKOS_ERROR_DEFECT as i32);
        assert_eq!(last(), "libdiolkos panicked: with a reason");
        assert_eq!(guard(|| Err(Failure::null("`x`"))), diolkos_code::DIOLKOS_ERROR_ARGUMENT as i32);
        assert_eq!((last().as_str(), guard(|| Ok(()))), ("`x` is NULL", 0));
        // Success leaves the text of the last failure.
        assert_eq!(last(), "`x` is NULL");
    }

    #[test]
    fn each_thread_has_its_own() {
        guard(|| Err(Failure::argument("here")));
        std::thread::spawn(|| assert_eq!(last(), "")).join().unwrap();
        assert_eq!(last(), "here");
    }

    #[test]
    fn the_daemons_code_sentence_and_hint_arrive() {
        let status = Status::busy("the queue\0 is full", Duration::from_millis(3));
        assert_eq!(guard(|| Err(Error::from(status).into())), 3);
        assert_eq!((last().as_str(), last_retry_after_us()), ("the queue\u{fffd} is full", 3000));
        assert_eq!(guard(|| Err(Error::Timeout.into())), diolkos_code::DIOLKOS_ERROR_TIMEOUT as i32);
        assert_eq!(last_retry_after_us(), 0);
    }
}
