// SPDX-License-Identifier: Apache-2.0
//! A reply's body: when its parts are taken, and the memory of those that wait to be.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::body::{BodyError, Budget};
use super::framing::Framing;
use super::table::ConnState;
use crate::limits;

/// One request in flight: counts in its connection's activity until the reply is handed over or given up.
#[derive(Debug)]
pub(super) struct InFlight {
    connection: Arc<ConnState>,
    number: u64,
}

impl InFlight {
    pub(super) fn begin(connection: Arc<ConnState>, number: u64) -> InFlight {
        connection.activity().request_began(number);
        InFlight { connection, number }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.activity().request_ended(Instant::now(), self.number);
    }
}

/// A reply's body.
#[derive(Debug)]
pub(super) struct ReplyBody {
    inner: Body,
    in_flight: InFlight,
    budget: Arc<Budget>,
    /// For gRPC: answers are counted.
    framing: Option<Framing>,
}

impl ReplyBody {
    /// The reply begins; `messages`: it is one of gRPC.
    pub(super) fn new(inner: Body, in_flight: InFlight, budget: Arc<Budget>, messages: bool) -> ReplyBody {
        if messages {
            in_flight.connection.activity().stream_began(Instant::now(), in_flight.number);
        }
        ReplyBody { inner, in_flight, budget, framing: messages.then(Framing::default) }
    }

    fn handed_over(&mut self, frame: &Frame<Bytes>) {
        let ended = match (&mut self.framing, frame.data_ref()) {
            (Some(framing), Some(data)) => framing.pass(data),
            _ => 0,
        };
        let InFlight { connection, number } = &self.in_flight;
        connection.activity().reply_handed_over(Instant::now(), *number, ended);
    }

    /// Charges a large part until the transport drops it.
    fn charge(&self, data: Bytes) -> Result<Bytes, BodyError> {
        let bytes = data.len() as u64;
        if data.len() < limits::REPLY_CHARGED_BYTES {
            return Ok(data);
        }
        if !self.budget.charge(bytes) {
            return Err(BodyError::Reply);
        }
        Ok(Bytes::from_owner(Charged { data, budget: self.budget.clone() }))
    }
}

struct Charged {
    data: Bytes,
    budget: Arc<Budget>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.budget.release(self.data.len() as u64);
    }
}

impl HttpBody for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.handed_over(&frame);
                let frame = match frame.into_data() {
                    Ok(data) => this.charge(data).map(Frame::data),
                    Err(other) => Ok(other),
                };
                Poll::Ready(Some(frame))
            }
            other => {
                // Now the front is what is waited for, or nothing.
                let InFlight { connection, number } = &this.in_flight;
                connection.activity().reply_wanted(Instant::now(), *number);
                other.map_err(BodyError::Front)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
