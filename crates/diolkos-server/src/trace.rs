// SPDX-License-Identifier: Apache-2.0
//! `traceparent` (W3C Trace Context, level 1), in and out.
//!
//! A request that brings one has it in its log lines (as the span `request`) and gets it back in the
//! reply's header (gRPC: initial metadata). None is made up. What does not parse strictly is ignored, as
//! the specification asks.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The header's name.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Length of a version 00 header: `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;

/// Where a request comes from, in somebody's distributed trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

impl TraceContext {
    /// From the headers of a request: exactly one `traceparent`, and a valid one.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<TraceContext> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        TraceContext::parse(value.as_bytes())
    }

    /// From the text of a header. Takes any bytes.
    pub(crate) fn parse(text: &[u8]) -> Option<TraceContext> {
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let version = hex(&known[..2])?;
        let dashes = [2, 35, 52].into_iter().all(|at| known[at] == b'-');
        // Version 00 ends here; a later one may go on behind another dash; ff is none.
        let ends_well = rest.is_empty() || (version != 0 && rest[0] == b'-');
        if !dashes || !ends_well || version == 0xff {
            return None;
        }
        let trace_id = hex(&known[3..35])?;
        let parent_id = u64::try_from(hex(&known[36..52])?).ok()?;
        let flags = u8::try_from(hex(&known[53..])?).ok()?;
        (trace_id != 0 && parent_id != 0).then_some(TraceContext { trace_id, parent_id, flags })
    }

    /// As a header, in version 00 whatever it came in.
    pub(crate) fn to_header(self) -> HeaderValue {
        HeaderValue::try_from(self.to_string()).expect("hexadecimal digits and dashes are visible ASCII")
    }

    /// The span that a request's log lines belong to.
    pub(crate) fn span(self) -> tracing::Span {
        tracing::info_span!(
            "request",
            trace_id = %format_args!("{:032x}", self.trace_id),
            parent_id = %format_args!("{:016x}", self.parent_id)
        )
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}

/// Lower-case hexadecimal digits, at most 32.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn takes_what_the_specification_takes() {
        let parse = |text: &str| TraceContext::parse(text.as_bytes()).map(|context| context.to_string());
        assert_eq!(parse(GOOD).as_deref(), Some(GOOD));
        let later = GOOD.replacen("00", "cc", 1);
        assert_eq!(parse(&later).as_deref(), Some(GOOD));
        assert_eq!(parse(&format!("{later}-what-comes")).as_deref(), Some(GOOD));
        for bad in [
            "",
            &GOOD[..54],
            &format!("{GOOD}-x"),
            &format!("{later}x"),
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace('-', "_"),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn two_headers_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceContext::from_headers(&headers), None);
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(TraceContext::from_headers(&headers).unwrap().to_header(), GOOD);
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(TraceContext::from_headers(&headers), None);
    }

    proptest! {
        #[test]
        fn round_trip(trace_id in 1u128.., parent_id in 1u64.., flags: u8) {
            let context = TraceContext { trace_id, parent_id, flags };
            prop_assert_eq!(TraceContext::parse(context.to_string().as_bytes()), Some(context));
        }

        #[test]
        fn any_bytes_parse_to_what_they_say_or_not_at_all(
            text in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..80),
                "00-[0-9a-fA-F]{31,33}-[0-9a-f]{16}-[0-9a-f]{2}".prop_map(String::into_bytes),
            ]
        ) {
            if let Some(context) = TraceContext::parse(&text) {
                let written = context.to_string();
                prop_assert_eq!(&written.as_bytes()[2..], &text[2..LENGTH]);
            }
        }
    }
}
