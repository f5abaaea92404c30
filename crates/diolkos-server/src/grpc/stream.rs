// SPDX-License-Identifier: Apache-2.0
//! `ModelStreamInfer`: many inferences on one call.
//!
//! ```text
//! requests ──decode──> in flight (each a task of its own) ──front first──> answers
//!              ^            │
//!              └── full ────┘   nothing more is read; the stream's window makes the client wait
//! ```
//!
//! Invariants:
//!
//! * Every request gets one answer, in the order of the requests. They run side by side all the same.
//! * A request that fails costs only itself: its answer carries the error, and the stream goes on.
//! * What can't be decoded ends the stream, after the answers to what came before it.
//! * When the client goes away the stream is dropped, and with it every task and its job.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use diolkos_types::{Code, Status};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::Streaming;
use tracing::{Instrument as _, Span};

use super::deadline::{self, CallDeadline};
use super::limits::{STREAM_BYTES_MAX, STREAM_REQUESTS_MAX};
use super::pb::{ModelInferRequest, ModelStreamInferResponse};
use super::response::{self, Asked};
use super::{error, request};
use crate::listen::Stop;
use crate::oip::{Failed, InferReply, infer, offload};
use crate::sessions::ClientSession;

/// One inference, from message to reply.
pub(crate) async fn infer_one(
    session: &ClientSession,
    message: ModelInferRequest,
    deadline: Option<CallDeadline>,
) -> Result<InferReply, Failed> {
    let typed = request::typed_bytes(&message);
    let call = offload::run(&session.turn, typed, move || request::to_call(message, deadline)).await?;
    infer(session, call).await
}

/// A request that was read and not answered.
struct InFlight {
    asked: Asked,
    bytes: usize,
    task: JoinHandle<Result<InferReply, Status>>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Does nothing to a task that ended; otherwise its job is cancelled with it.
        self.task.abort();
    }
}

/// Where the requests end.
enum Requests {
    Open(Box<Streaming<ModelInferRequest>>),
    /// `Some`: what to end the stream with after the last answer.
    Ended(Option<tonic::Status>),
}

/// The answers of one call.
pub(crate) struct InferStream {
    session: Arc<ClientSession>,
    requests: Requests,
    in_flight: VecDeque<InFlight>,
    bytes: usize,
    deadline: Option<(CallDeadline, Pin<Box<Sleep>>)>,
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The span of the call, for the log lines of its tasks.
    span: Span,
}

impl InferStream {
    /// Answers `requests` until the client ends them, the deadline passes, or the daemon drains.
    pub(crate) fn new(
        session: Arc<ClientSession>,
        requests: Streaming<ModelInferRequest>,
        deadline: Option<CallDeadline>,
        mut stop: watch::Receiver<Stop>,
    ) -> InferStream {
        let sleep = |deadline: CallDeadline| {
            let until = tokio::time::Instant::from_std(deadline.0);
            (deadline, Box::pin(tokio::time::sleep_until(until)))
        };
        InferStream {
            session,
            requests: Requests::Open(Box::new(requests)),
            in_flight: VecDeque::new(),
            bytes: 0,
            deadline: deadline.map(sleep),
            draining: Box::pin(async move {
                // A sender that is gone can't say any more that it stopped, so it has.
                let _ = stop.wait_for(|now| *now != Stop::No).await;
            }),
            span: Span::current(),
        }
    }

    fn is_full(&self) -> bool {
        self.in_flight.len() >= STREAM_REQUESTS_MAX || self.bytes >= STREAM_BYTES_MAX
    }

    /// Reads and starts what there is, as far as there is room.
    fn read(&mut self, context: &mut Context<'_>) {
        while !self.is_full() {
            let Requests::Open(requests) = &mut self.requests else { return };
            match Pin::new(&mut **requests).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => self.start(message),
                Poll::Ready(Some(Err(status))) => {
                    self.requests = Requests::Ended(Some(error::of_receiving(status)));
                }
                Poll::Ready(None) => self.requests = Requests::Ended(None),
                Poll::Pending => return,
            }
        }
    }

    fn start(&mut self, message: ModelInferRequest) {
        let asked = Asked {
            id: message.id.clone(),
            model: message.model_name.clone(),
            version: message.model_version.clone(),
        };
        // What lies in regions is counted as it was asked for, and that may be any number.
        let in_regions = request::region_bytes(&message).min(STREAM_BYTES_MAX);
        let bytes = request::payload_bytes(&message) + in_regions;
        let session = self.session.clone();
        let deadline = self.deadline.as_ref().map(|(deadline, _)| *deadline);
        // A task, because this stream is not polled while the client does not read, and a request that
        // waits for its turn to convert would then keep others from theirs.
        let answer =
            async move { infer_one(&session, message, deadline).await.map_err(|failed| failed.status) };
        let task = tokio::spawn(answer.instrument(self.span.clone()));
        self.bytes += bytes;
        self.in_flight.push_back(InFlight { asked, bytes, task });
    }

    /// The answer to the oldest request, once there is one.
    fn poll_front(&mut self, context: &mut Context<'_>) -> Poll<Option<ModelStreamInferResponse>> {
        let Some(front) = self.in_flight.front_mut() else { return Poll::Ready(None) };
        let ended = ready!(Pin::new(&mut front.task).poll(context));
        let result = ended.unwrap_or_else(|error| {
            tracing::error!(%error, "the task of a streamed request ended without an answer");
            Err(Status::new(
                Code::Internal,
                "the request was dropped inside the daemon; it is safe to send it again",
            ))
        });
        let asked = std::mem::take(&mut front.asked);
        self.bytes -= front.bytes;
        self.in_flight.pop_front();
        Poll::Ready(Some(response::to_stream_response(asked, result)))
    }

    fn end(
        &mut self,
        status: tonic::Status,
    ) -> Poll<Option<Result<ModelStreamInferResponse, tonic::Status>>> {
        self.requests = Requests::Ended(None);
        self.in_flight.clear();
        self.bytes = 0;
        self.deadline = None;
        Poll::Ready(Some(Err(status)))
    }
}

impl Stream for InferStream {
    type Item = Result<ModelStreamInferResponse, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some((_, sleep)) = &mut this.deadline
            && sleep.as_mut().poll(context).is_ready()
        {
            return this.end(deadline::exceeded());
        }
        if matches!(this.requests, Requests::Open(_)) && this.draining.as_mut().poll(context).is_ready() {
            let status =
                tonic::Status::unavailable("the daemon is shutting down; open a new stream elsewhere");
            this.requests = Requests::Ended(Some(status));
        }
        // Answering makes room, so read again after it: otherwise nothing would wake this task for a
        // request that arrived while there was none.
        this.read(context);
        match ready!(this.poll_front(context)) {
            Some(response) => Poll::Ready(Some(Ok(response))),
            None => match &mut this.requests {
                Requests::Ended(status) => Poll::Ready(status.take().map(Err)),
                Requests::Open(_) => Poll::Pending,
            },
        }
    }
}
