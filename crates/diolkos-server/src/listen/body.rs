// SPDX-License-Identifier: Apache-2.0
//! Bodies of requests, metered: how fast they arrive, and how much memory they hold.
//!
//! Until its reply begins, a request's body must bring [`limits::BODY_PROGRESS_BYTES`] (or end) in every
//! `limits.body_timeout`, and all of it is charged to one budget, because fronts collect it.
//!
//! After that — a stream of gRPC messages both ways — messages may be rare, and each is handled by itself.
//! But one that began must go on, under the same timeout, and what came of it is charged until it is whole:
//! the front takes every whole message before it asks for more bytes, and then the engine charges the job.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;

use super::framing::Framing;
use super::table::ConnState;
use crate::limits;
use crate::sessions::ClientSession;

/// Memory that bodies may hold: all connections together, or those of one tenant. Atomics are relaxed: the number is a
/// sum of its own and orders nothing else.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicU64,
    max: AtomicU64,
    parent: Option<Arc<Budget>>,
}

impl Budget {
    /// A budget of so many bytes.
    pub(crate) fn new(max: u64) -> Arc<Budget> {
        Arc::new(Budget { used: AtomicU64::new(0), max: AtomicU64::new(max), parent: None })
    }

    /// A part of it, for one tenant. What is charged to the part is charged to the whole, too.
    pub(crate) fn part(self: &Arc<Budget>, max: u64) -> Arc<Budget> {
        let parent = Some(self.clone());
        Arc::new(Budget { used: AtomicU64::new(0), max: AtomicU64::new(max), parent })
    }

    /// Sets what may be charged from now on.
    pub(crate) fn limit(&self, max: u64) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Bytes charged now.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether there is room for so many more bytes at this moment.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let here = self.used().checked_add(bytes).is_some_and(|sum| sum <= max);
        here && self.parent.as_ref().is_none_or(|parent| parent.has_room(bytes))
    }

    /// Charges bytes, if there is room for them.
    pub(crate) fn charge(&self, bytes: u64) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let charge = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= max);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge).is_err() {
            return false;
        }
        let charged = self.parent.as_ref().is_none_or(|parent| parent.charge(bytes));
        if !charged {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        charged
    }

    /// Gives charged bytes back.
    pub(crate) fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.release(bytes);
        }
    }
}

/// What was wrong with the way a body came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fault {
    /// Too slow.
    Slow = 1,
    /// No memory for it now.
    Memory = 2,
}

/// What one request's body did; shared by the body and by the service that answers.
#[derive(Debug)]
pub(super) struct Meter {
    budget: Arc<Budget>,
    charged: AtomicU64,
    /// Set when the reply begins. Relaxed, like the rest: both sides run in one task or do not mind a
    /// part of the body more or less.
    replying: AtomicBool,
    fault: AtomicU8,
}

impl Meter {
    pub(super) fn new(budget: Arc<Budget>) -> Arc<Meter> {
        Arc::new(Meter {
            budget,
            charged: AtomicU64::new(0),
            replying: AtomicBool::new(false),
            fault: AtomicU8::new(0),
        })
    }

    /// The reply begins: what was collected is used up. Says what went wrong, if anything did.
    pub(super) fn reply_begins(&self) -> Option<Fault> {
        self.replying.store(true, Ordering::Relaxed);
        self.release();
        match self.fault.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Fault::Slow),
            _ => Some(Fault::Memory),
        }
    }

    fn release(&self) {
        self.budget.release(self.charged.swap(0, Ordering::Relaxed));
    }

    /// Gives back all but `bytes` of what was taken.
    fn keep(&self, bytes: u64) {
        let keep = |charged: u64| (charged > bytes).then_some(bytes);
        if let Ok(charged) = self.charged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, keep) {
            self.budget.release(charged - bytes);
        }
    }

    fn charge(&self, bytes: u64) -> bool {
        let charged = self.budget.charge(bytes);
        if charged {
            self.charged.fetch_add(bytes, Ordering::Relaxed);
        }
        charged
    }

    fn is_replying(&self) -> bool {
        self.replying.load(Ordering::Relaxed)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.release();
    }
}

/// Why a body ended early. Until the reply begins fronts show it to nobody: the service answers in their
/// place. A stream has to say it itself; see [`fault_of`].
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// See [`Fault::Slow`].
    #[error("the request's body came too slowly")]
    Slow,
    /// See [`Fault::Memory`].
    #[error("no memory for the request's body now")]
    Memory,
    /// The connection or the stream broke.
    #[error("the request's body broke off")]
    Transport(#[source] hyper::Error),
    /// No memory to keep a reply until the client takes it.
    #[error("no memory for replies that wait to be sent")]
    Reply,
    /// The front that made the reply failed.
    #[error("the reply broke off")]
    Front(#[source] axum::Error),
}

/// What was wrong with the way a body came in, if that is at the root of `error`.
pub(crate) fn fault_of(error: &(dyn std::error::Error + 'static)) -> Option<Fault> {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.into_iter().find_map(|error| match error.downcast_ref()? {
        BodyError::Slow => Some(Fault::Slow),
        BodyError::Memory => Some(Fault::Memory),
        BodyError::Transport(_) | BodyError::Reply | BodyError::Front(_) => None,
    })
}

/// The messages of a gRPC request.
#[derive(Debug)]
pub(super) struct Messages {
    framing: Framing,
    connection: Arc<ConnState>,
    /// Of the request.
    number: u64,
}

impl Messages {
    pub(super) fn new(connection: Arc<ConnState>, number: u64) -> Messages {
        Messages { framing: Framing::default(), connection, number }
    }

    fn pass(&mut self, data: &[u8]) -> u64 {
        let ended = self.framing.pass(data);
        let half = self.framing.half() > 0;
        self.connection.activity().messages_arrived(Instant::now(), self.number, ended, half);
        ended
    }
}

/// Who pays for the bytes of a body.
#[derive(Debug)]
pub(super) struct Payer {
    pub(super) session: Arc<ClientSession>,
    /// The body waits while its tenant is over its rate of bytes. Others were looked at before they were let in.
    pub(super) waits: bool,
}

/// A request's body.
#[derive(Debug)]
pub(super) struct RequestBody<B> {
    inner: B,
    meter: Arc<Meter>,
    messages: Option<Messages>,
    /// Who is charged for bytes as they come (`tenants.NAME.bytes_rate`), where nobody was for all of them at once.
    payer: Option<Payer>,
    /// Runs while a stream waits for its tenant to be within its rate again.
    pause: Option<Pin<Box<Sleep>>>,
    timeout: Duration,
    /// Armed while nothing is there to read.
    timer: Option<Pin<Box<Sleep>>>,
    since_progress: u64,
}

impl<B> RequestBody<B> {
    pub(super) fn new(
        inner: B,
        meter: Arc<Meter>,
        messages: Option<Messages>,
        payer: Option<Payer>,
        timeout: Duration,
    ) -> RequestBody<B> {
        RequestBody { inner, meter, messages, payer, pause: None, timeout, timer: None, since_progress: 0 }
    }

    fn fail<T>(&self, fault: Fault, error: BodyError) -> Poll<Option<Result<T, BodyError>>> {
        self.meter.fault.store(fault as u8, Ordering::Relaxed);
        Poll::Ready(Some(Err(error)))
    }

    /// Bytes of a message that the front has and can't take yet.
    fn half(&self) -> u64 {
        self.messages.as_ref().map_or(0, |messages| messages.framing.half())
    }

    fn progress(&mut self) {
        self.since_progress = 0;
        self.timer = None;
    }

    /// Whether there is memory for it.
    fn arrived(&mut self, data: &[u8]) -> bool {
        let replying = self.meter.is_replying();
        if let Some(payer) = &self.payer {
            payer.session.received(data.len() as u64);
        }
        self.since_progress += data.len() as u64;
        if self.since_progress >= limits::BODY_PROGRESS_BYTES {
            self.progress();
        }
        let Some(messages) = &mut self.messages else {
            return replying || self.meter.charge(data.len() as u64);
        };
        let ended = messages.pass(data);
        if replying && ended > 0 {
            self.progress();
        }
        self.meter.charge(data.len() as u64)
    }

    /// Waits until the tenant is within its rate of bytes, where the request was not refused for it. A message that has begun comes
    /// slowly then, but comes, whatever the rate is.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(payer) = self.payer.as_ref().filter(|payer| payer.waits) else {
            return Poll::Ready(());
        };
        let has_begun = self.messages.as_ref().is_some_and(|messages| messages.framing.half() > 0);
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
                if has_begun {
                    return Poll::Ready(());
                }
            }
            let Some(wait) = payer.session.over_bytes() else { return Poll::Ready(()) };
            // Short ones, since the rate may be another one meanwhile.
            self.pause = Some(Box::pin(tokio::time::sleep(wait.min(limits::BYTES_PAUSE_MAX))));
        }
    }

    fn waits(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.meter.is_replying() && self.half() == 0 {
            // The next message may take as long as it takes.
            self.progress();
            return Poll::Pending;
        }
        let timeout = self.timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        timer.as_mut().poll(cx)
    }
}

impl<B: HttpBody<Data = Bytes, Error = hyper::Error> + Unpin> HttpBody for RequestBody<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.meter.is_replying() {
            // Whoever asks for more has taken every whole message.
            this.meter.keep(this.half());
        }
        ready!(this.poll_pause(cx));
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let data = frame.data_ref().map_or(&[][..], |data| data);
                if this.arrived(data) {
                    Poll::Ready(Some(Ok(frame)))
                } else {
                    this.fail(Fault::Memory, BodyError::Memory)
                }
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyError::Transport(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match this.waits(cx) {
                Poll::Ready(()) => this.fail(Fault::Slow, BodyError::Slow),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_never_goes_over() {
        let budget = Budget::new(10);
        assert!(budget.charge(7) && !budget.charge(4) && budget.charge(3));
        assert!(!budget.charge(u64::MAX));
        budget.release(10);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_meter_gives_back_what_it_took() {
        let budget = Budget::new(10);
        let meter = Meter::new(budget.clone());
        assert!(meter.charge(6));
        assert_eq!(budget.used(), 6);
        assert_eq!(meter.reply_begins(), None);
        assert_eq!(budget.used(), 0);
        assert!(meter.charge(6));
        meter.keep(8);
        assert_eq!(budget.used(), 6);
        meter.keep(2);
        assert_eq!(budget.used(), 2);
        drop(meter);
        assert_eq!(budget.used(), 0);
    }
}
