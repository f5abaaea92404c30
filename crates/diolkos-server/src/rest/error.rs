// SPDX-License-Identifier: Apache-2.0
//! The one table from [`Status`] to HTTP.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use diolkos_types::{Code, Status};

/// An error on its way to the client: a status of ours, or one that only HTTP knows.
///
/// Boxed, so that results stay small on the way where nothing fails.
#[derive(Debug)]
pub(crate) struct HttpError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    status: StatusCode,
    message: String,
    headers: HeaderMap,
}

impl HttpError {
    /// An error that only HTTP knows, such as 405 or 415.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> HttpError {
        HttpError(Box::new(Inner { status, message: message.into(), headers: HeaderMap::new() }))
    }

    /// With one more header.
    pub(crate) fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> HttpError {
        self.0.headers.insert(name, value);
        self
    }

    /// The parts of the response: status, sentence, further headers.
    pub(crate) fn into_parts(self) -> (StatusCode, String, HeaderMap) {
        let Inner { status, message, headers } = *self.0;
        (status, message, headers)
    }
}

impl From<Status> for HttpError {
    fn from(status: Status) -> HttpError {
        let error = HttpError::new(http_status(status.code()), status.message());
        match status.retry_after() {
            // The header counts whole seconds, and 0 would invite to hammer.
            Some(hint) => error.with_header(header::RETRY_AFTER, HeaderValue::from(whole_seconds(hint))),
            None => error,
        }
    }
}

fn whole_seconds(hint: std::time::Duration) -> u64 {
    hint.as_secs().saturating_add(u64::from(hint.subsec_nanos() > 0)).max(1)
}

/// 499, which nginx made the custom for a client that went away before its answer.
fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).expect("499 is within the range of status codes")
}

/// Which HTTP status says what a code says.
pub(crate) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Busy => StatusCode::TOO_MANY_REQUESTS,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled => client_closed_request(),
        Code::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Internal | Code::Aborted => StatusCode::INTERNAL_SERVER_ERROR,
        // `Code` may grow; the test below fails when it did and nobody decided here.
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_code_has_its_status() {
        let table: Vec<u16> = Code::ALL.into_iter().map(|code| http_status(code).as_u16()).collect();
        assert_eq!(table, [400, 404, 429, 504, 499, 501, 503, 403, 413, 500, 500]);
    }

    #[test]
    fn busy_says_when_to_come_back() {
        let error = HttpError::from(Status::busy("full", Duration::from_millis(50)));
        assert_eq!(error.into_parts().2[header::RETRY_AFTER], "1");
        let error = HttpError::from(Status::busy("full", Duration::from_millis(1001)));
        assert_eq!(error.into_parts().2[header::RETRY_AFTER], "2");
        assert!(HttpError::from(Status::invalid("no")).into_parts().2.is_empty());
    }
}
