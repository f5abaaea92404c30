// SPDX-License-Identifier: Apache-2.0
//! `grpc-timeout`: how long the client waits.

use std::time::{Duration, Instant};

use tonic::Status;

/// When the client stops waiting; in a call's extensions if it said so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallDeadline(pub(crate) Instant);

impl CallDeadline {
    /// Microseconds from now, for the job; at least one, because zero means none.
    pub(crate) fn left_us(self) -> u64 {
        let left = self.0.saturating_duration_since(Instant::now());
        u64::try_from(left.as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

/// The header's value as a time span: up to eight digits and a unit.
pub(crate) fn parse_timeout(value: &[u8]) -> Result<Duration, Status> {
    let wrong = || {
        let given = String::from_utf8_lossy(&value[..value.len().min(20)]).escape_debug().to_string();
        Status::invalid_argument(format!(
            "header `grpc-timeout` is `{given}` and has to be one to eight digits and one of H, M, S, m, u, n"
        ))
    };
    let (&unit, digits) = value.split_last().ok_or_else(wrong)?;
    if !(1..=8).contains(&digits.len()) {
        return Err(wrong());
    }
    let mut amount = 0u64;
    for digit in digits {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10).ok_or_else(wrong)?;
        amount = amount * 10 + u64::from(digit);
    }
    Ok(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return Err(wrong()),
    })
}

/// What a client is told whose deadline passed.
pub(crate) fn exceeded() -> Status {
    Status::deadline_exceeded("the deadline of the call passed; its work was cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_and_a_unit() {
        assert_eq!(parse_timeout(b"1H").unwrap(), Duration::from_secs(3600));
        assert_eq!(parse_timeout(b"99999999M").unwrap(), Duration::from_secs(99_999_999 * 60));
        assert_eq!(parse_timeout(b"5S").unwrap(), Duration::from_secs(5));
        assert_eq!(parse_timeout(b"00000250m").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_timeout(b"7u").unwrap(), Duration::from_micros(7));
        assert_eq!(parse_timeout(b"0n").unwrap(), Duration::ZERO);
        for wrong in [&b""[..], b"S", b"1", b"1s", b"-1S", b"+1S", b"123456789S", b"1.5S", b"\xff\xffS"] {
            assert!(parse_timeout(wrong).unwrap_err().message().contains("grpc-timeout"), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_left_is_never_none() {
        assert_eq!(CallDeadline(Instant::now()).left_us(), 1);
        let hour = CallDeadline(Instant::now() + Duration::from_secs(3600));
        assert!(hour.left_us() > 3_000_000_000);
    }
}
