// SPDX-License-Identifier: Apache-2.0
//! What the scheduler did with an inference, told with its reply or error to whoever asked: the header (in gRPC: metadata)
//! `x-diolkos-schedule`, if the request has `x-diolkos-explain: 1`.

use axum::http::{HeaderMap, HeaderValue};
use diolkos_engine::account::saturating_ns;
use diolkos_engine::{Scheduled, Waited};
use diolkos_types::JobId;

/// Asks for [`SCHEDULE`].
pub(crate) const EXPLAIN: &str = "x-diolkos-explain";

/// What the scheduler did.
pub(crate) const SCHEDULE: &str = "x-diolkos-schedule";

/// A job, and what the scheduler did with it.
pub(crate) type Told = (JobId, Scheduled);

/// Whether a request wants to know.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    headers.get(EXPLAIN).is_some_and(|value| matches!(value.as_bytes(), b"1" | b"true"))
}

/// The value of [`SCHEDULE`]; times are in nanoseconds.
pub(crate) fn value((job, scheduled): &Told) -> HeaderValue {
    let Scheduled { ahead, waited_for, predicted, device, together } = *scheduled;
    let (predicted, device) = (saturating_ns(predicted), saturating_ns(device));
    let waited = waited_name(waited_for);
    let text = format!(
        "job={};ahead={ahead};waited_for={waited};predicted={predicted};device={device};together={together}",
        job.0
    );
    HeaderValue::try_from(text).expect("words and numbers are ASCII")
}

/// What a job waited for, in a word.
pub(crate) const fn waited_name(waited: Waited) -> &'static str {
    match waited {
        Waited::Nothing => "nothing",
        Waited::Slots => "slots",
        Waited::Lent => "lent",
        Waited::OwnLimit => "concurrency_max",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_header_says_what_was_done() {
        let scheduled = Scheduled {
            ahead: 3,
            waited_for: Waited::Slots,
            predicted: Duration::from_nanos(5),
            device: Duration::from_nanos(7),
            together: 2,
        };
        let value = value(&(JobId(9), scheduled));
        assert_eq!(value, "job=9;ahead=3;waited_for=slots;predicted=5;device=7;together=2");
        let mut headers = HeaderMap::new();
        assert!(!is_wanted(&headers));
        headers.insert(EXPLAIN, HeaderValue::from_static("1"));
        assert!(is_wanted(&headers));
    }
}
