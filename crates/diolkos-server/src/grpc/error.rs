// SPDX-License-Identifier: Apache-2.0
//! The one table from [`Status`] to gRPC.

use std::time::Duration;

use diolkos_types::{Code, Status};
use prost::Message as _;
use tonic::Code as GrpcCode;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::scan::Refusal;
use crate::listen;
use crate::oip::{Failed, schedule};

/// How long to wait before trying again, as gRPC's own retry policy reads it (gRFC A6).
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// `google.rpc.RetryInfo`, as libraries with typed error details read it.
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// Which gRPC code says what a code says.
pub(crate) fn grpc_code(code: Code) -> GrpcCode {
    match code {
        Code::InvalidArgument => GrpcCode::InvalidArgument,
        Code::NotFound => GrpcCode::NotFound,
        // Both are a resource that is used up; only one of them comes with a time to try again.
        Code::Busy | Code::TooLarge => GrpcCode::ResourceExhausted,
        Code::DeadlineExceeded => GrpcCode::DeadlineExceeded,
        Code::Cancelled => GrpcCode::Cancelled,
        Code::Unsupported => GrpcCode::Unimplemented,
        Code::Unavailable => GrpcCode::Unavailable,
        Code::PermissionDenied => GrpcCode::PermissionDenied,
        Code::Internal => GrpcCode::Internal,
        Code::Aborted => GrpcCode::Aborted,
        // `Code` may grow; the test below fails when it did and nobody decided here.
        _ => GrpcCode::Unknown,
    }
}

/// Longest sentence that is sent, in bytes. It travels in a header, there percent-encoded and twice where
/// details come with it, and stock clients take headers of 8 KiB.
const MESSAGE_BYTES_MAX: usize = 1024;

/// A status of ours on its way to the client.
pub(crate) fn of_status(status: &Status) -> tonic::Status {
    let code = grpc_code(status.code());
    let message = clip(status.message());
    match status.retry_after() {
        Some(hint) => busy(code, message, hint),
        None => tonic::Status::new(code, message),
    }
}

/// An inference that failed, on its way to a client that may have asked what was done with it.
pub(crate) fn of_failed(failed: &Failed, explain: bool) -> tonic::Status {
    let mut status = of_status(&failed.status);
    if let Some(told) = failed.told.as_ref().filter(|_| explain) {
        let mut headers = std::mem::take(status.metadata_mut()).into_headers();
        headers.insert(schedule::SCHEDULE, schedule::value(told));
        *status.metadata_mut() = MetadataMap::from_headers(headers);
    }
    status
}

/// As much of a sentence as fits a header.
pub(crate) fn clip(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

fn busy(code: GrpcCode, message: &str, hint: Duration) -> tonic::Status {
    let mut metadata = MetadataMap::with_capacity(1);
    // Whole milliseconds, and 0 would invite to hammer.
    let pushback = u64::try_from(hint.as_millis()).unwrap_or(u64::MAX).max(1);
    metadata.insert(PUSHBACK, MetadataValue::from(pushback));
    let retry_delay = prost_types::Duration::try_from(hint).ok();
    let info =
        prost_types::Any { type_url: RETRY_INFO.into(), value: RetryInfo { retry_delay }.encode_to_vec() };
    let details = RpcStatus { code: code as i32, message: message.into(), details: vec![info] };
    tonic::Status::with_details_and_metadata(code, message, details.encode_to_vec().into(), metadata)
}

/// A message that was refused before it was decoded.
pub(crate) fn of_refusal(refusal: &Refusal) -> tonic::Status {
    match refusal {
        Refusal::Malformed => tonic::Status::invalid_argument(refusal.to_string()),
        Refusal::TooMany { .. } => tonic::Status::resource_exhausted(refusal.to_string()),
    }
}

/// A status that tonic made while it received a message. It calls a message over the limit out of range,
/// other implementations of gRPC call it an exhausted resource, and so does the table above.
pub(crate) fn of_receiving(status: tonic::Status) -> tonic::Status {
    match listen::fault_of(&status) {
        Some(listen::Fault::Slow) => {
            return tonic::Status::deadline_exceeded(
                "a message came too slowly: limits.body_timeout passed without 64 KiB of it or its end",
            );
        }
        Some(listen::Fault::Memory) => {
            return tonic::Status::resource_exhausted("no memory for the message now; try again");
        }
        None => {}
    }
    match status.code() {
        GrpcCode::OutOfRange => tonic::Status::resource_exhausted(status.message()),
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own() {
        let table: Vec<i32> = Code::ALL.into_iter().map(|code| grpc_code(code) as i32).collect();
        assert_eq!(table, [3, 5, 8, 4, 1, 12, 14, 7, 8, 13, 10]);
        assert!(!table.contains(&(GrpcCode::Unknown as i32)));
    }

    #[test]
    fn long_sentences_fit_a_header() {
        let status = of_status(&Status::invalid("é".repeat(5000)));
        assert_eq!(status.message(), "é".repeat(512));
    }

    #[test]
    fn busy_says_when_to_come_back() {
        let status = of_status(&Status::busy("full", Duration::from_millis(50)));
        assert_eq!(status.metadata().get(PUSHBACK).unwrap(), "50");
        let details = RpcStatus::decode(status.details()).unwrap();
        assert_eq!((details.code, &*details.message), (8, "full"));
        let info = RetryInfo::decode(&details.details[0].value[..]).unwrap();
        assert_eq!(info.retry_delay.unwrap().nanos, 50_000_000);
        let shortest = of_status(&Status::busy("full", Duration::from_micros(1)));
        assert_eq!(shortest.metadata().get(PUSHBACK).unwrap(), "1");
        let too_large = of_status(&Status::new(Code::TooLarge, "no"));
        assert!(too_large.metadata().is_empty() && too_large.details().is_empty());
    }
}
