// SPDX-License-Identifier: Apache-2.0
//! A daemon that takes no connection of this client answers before it knows which protocol will be spoken: in HTTP/1.1.

use diolkos_types::{Code, Status};

use crate::error::Error;

/// As much of such an answer as is looked at.
pub(crate) const ANSWER_BYTES_MAX: usize = 4096;

/// Whether an answer begins like this.
pub(crate) fn is_http(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP/1.")
}

/// Whether the answer is here to its end.
pub(crate) fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().filter_map(|line| line.split_once(':'));
    let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    // Without a length it ends with the connection.
    length
        .next()
        .and_then(|(_, length)| length.trim().parse().ok())
        .is_some_and(|length: usize| body.len() >= length)
}

/// What the answer says.
pub(crate) fn error(answer: &[u8]) -> Error {
    let text = String::from_utf8_lossy(answer);
    let status = text.split(' ').nth(1).unwrap_or_default();
    let code = match status {
        "401" | "403" => Code::PermissionDenied,
        "429" | "503" => Code::Busy,
        _ => {
            return Error::lost(format!(
                "it answers in HTTP, with status {status:?}: is it a daemon of Diolkos?"
            ));
        }
    };
    // The daemon writes neither quotes nor escapes into it.
    let message = text.split_once("{\"error\":\"").and_then(|(_, rest)| rest.split_once('"'));
    let message = message.map_or("the daemon takes no connection of this client", |(message, _)| message);
    Error::Refused(Status::new(code, message.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &str = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\
                           Connection: close\r\n\r\n{\"error\":\"uid 7 may not\"}";

    #[test]
    fn it_is_whole_at_its_end() {
        assert!(is_http(REFUSED.as_bytes()) && !is_http(b"\x10\0\0\0"));
        for end in 0..REFUSED.len() {
            assert!(!is_whole(&REFUSED.as_bytes()[..end]), "{end}");
        }
        assert!(is_whole(REFUSED.as_bytes()));
        assert!(!is_whole(b"HTTP/1.0 403 Forbidden\r\n\r\nno length"));
    }

    #[test]
    fn the_daemons_words_are_told() {
        let told = |answer: &str| match error(answer.as_bytes()) {
            Error::Refused(status) => (status.code(), status.message().to_owned()),
            other => panic!("{other}"),
        };
        assert_eq!(told(REFUSED), (Code::PermissionDenied, "uid 7 may not".into()));
        assert_eq!(told(&REFUSED.replace("403", "503")).0, Code::Busy);
        assert_eq!(told("HTTP/1.1 429 x").0, Code::Busy);
        for other in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.", "HTTP/1.1 \u{fffd}"] {
            assert!(matches!(error(other.as_bytes()), Error::Lost { .. }), "{other}");
        }
    }
}
