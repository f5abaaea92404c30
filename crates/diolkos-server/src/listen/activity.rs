// SPDX-License-Identifier: Apache-2.0
//! What one connection is doing, and when that takes too long. Pure: every time comes in as an argument.
//!
//! ```text
//!            head bytes                request           last reply sent
//! idle ─────────────────> head begun ─────────> busy ──────────────────────> idle
//!  │ idle_timeout             │ header_timeout    │ nothing taken for body_timeout
//!  └──────────────────────────┴───────────────────┴──> expired
//! ```
//!
//! A connection counts as idle while no request is in flight and no reply waits in its buffers, even if
//! half a header has arrived: those are the first to make room.
//!
//! A gRPC stream counts as in flight only while something happens on it: a message is half received, was
//! not answered yet, or its answer waits to be taken. Between messages it is quiet, and a connection with
//! nothing but quiet streams is idle. For that, streams here answer each message once, or (the health
//! service's `Watch`) one message as often as they like.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The timeouts of one connection, from the settings in force when it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// For a header, from its first byte.
    pub(super) header: Duration,
    /// Without a request.
    pub(super) idle: Duration,
    /// For the next part of a body, or of a reply.
    pub(super) body: Duration,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// No request came.
    Idle,
    /// A header began and did not end.
    Header,
    /// The client did not take its reply.
    Reply,
}

/// What one request is doing.
#[derive(Debug, Default)]
struct Call {
    /// gRPC, and its reply began: messages may go both ways.
    streams: bool,
    /// Messages that came, and that were answered.
    asked: u64,
    answered: u64,
    /// A message began and has not ended.
    half: bool,
    /// A part of the reply was handed over and nobody asked for the next one, since then.
    handed_over: Option<Instant>,
}

impl Call {
    fn is_quiet(&self) -> bool {
        self.streams && !self.half && self.answered >= self.asked && self.handed_over.is_none()
    }
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    calls: HashMap<u64, Call>,
    /// Those of them that are not quiet.
    busy: usize,
    idle_since: Instant,
    head_began: Option<Instant>,
    /// The socket takes nothing more, since then.
    write_blocked: Option<Instant>,
}

impl Activity {
    pub(super) fn new(now: Instant) -> Activity {
        Activity { calls: HashMap::new(), busy: 0, idle_since: now, head_began: None, write_blocked: None }
    }

    /// Changes what is known of a call, unless it ended.
    fn update(&mut self, now: Instant, number: u64, change: impl FnOnce(&mut Call)) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        let was_quiet = call.is_quiet();
        change(call);
        match (was_quiet, call.is_quiet()) {
            (false, true) => {
                self.busy -= 1;
                self.idle_since = now;
            }
            (true, false) => self.busy += 1,
            _ => {}
        }
    }

    /// Bytes came in. Between requests they begin a header.
    pub(super) fn bytes_arrived(&mut self, now: Instant) {
        if self.calls.is_empty() && self.head_began.is_none() {
            self.head_began = Some(now);
        }
    }

    /// The bytes that came in were HTTP/2's preface, which begins no header.
    pub(super) fn preface_ended(&mut self, now: Instant) {
        self.head_began = None;
        self.idle_since = now;
    }

    /// A request's header is complete. Each has a number of its own.
    pub(super) fn request_began(&mut self, number: u64) {
        let known = self.calls.insert(number, Call::default());
        debug_assert!(known.is_none(), "request {number} began twice");
        self.busy += 1;
        self.head_began = None;
    }

    /// The reply to a gRPC request begins.
    pub(super) fn stream_began(&mut self, now: Instant, number: u64) {
        self.update(now, number, |call| call.streams = true);
    }

    /// Messages of a gRPC request came, so many whole ones, and perhaps half of one.
    pub(super) fn messages_arrived(&mut self, now: Instant, number: u64, whole: u64, half: bool) {
        self.update(now, number, |call| {
            call.asked += whole;
            call.half = half;
        });
    }

    /// A request and its reply ended.
    pub(super) fn request_ended(&mut self, now: Instant, number: u64) {
        if let Some(call) = self.calls.remove(&number) {
            self.busy -= usize::from(!call.is_quiet());
        }
        self.idle_since = now;
    }

    /// A part of a reply was handed over, so many whole messages; the transport asks for the next when
    /// there is room.
    pub(super) fn reply_handed_over(&mut self, now: Instant, number: u64, whole: u64) {
        self.update(now, number, |call| {
            call.answered += whole;
            call.handed_over = Some(now);
        });
    }

    /// The next part of a reply was asked for.
    pub(super) fn reply_wanted(&mut self, now: Instant, number: u64) {
        self.update(now, number, |call| call.handed_over = None);
    }

    /// Whether a request is in flight, quiet or not.
    pub(super) fn has_requests(&self) -> bool {
        !self.calls.is_empty()
    }

    /// The socket took bytes, or all there were.
    pub(super) fn write_moved(&mut self, now: Instant) {
        if self.write_blocked.take().is_some() {
            self.idle_since = now;
        }
    }

    /// The socket takes nothing.
    pub(super) fn write_blocks(&mut self, now: Instant) {
        self.write_blocked.get_or_insert(now);
    }

    /// Since when the connection is idle.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.busy == 0 && self.write_blocked.is_none()).then_some(self.idle_since)
    }

    /// Whether bytes wait for the socket.
    pub(super) fn is_write_blocked(&self) -> bool {
        self.write_blocked.is_some()
    }

    /// The next moment at which something is too late, and what, unless something happens before.
    /// `None`: a request runs, and that takes as long as it takes.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Option<(Instant, Expired)> {
        let idle = self.idle_since().map(|since| (since + timeouts.idle, Expired::Idle));
        let head = self.head_began.map(|began| (began + timeouts.header, Expired::Header));
        let blocked = self.write_blocked.map(|since| (since + timeouts.body, Expired::Reply));
        let handed_over = self.calls.values().filter_map(|call| call.handed_over).min();
        let reply = handed_over.map(|since| (since + timeouts.body, Expired::Reply));
        [idle, head, blocked, reply].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const TIMEOUTS: Timeouts = Timeouts {
        header: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        body: Duration::from_secs(20),
    };

    #[test]
    fn each_state_has_its_deadline() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        assert_eq!(activity.deadline(&TIMEOUTS), Some((start + 60 * S, Expired::Idle)));
        activity.bytes_arrived(start + 3 * S);
        // A byte now and then does not move the deadline.
        activity.bytes_arrived(start + 9 * S);
        assert_eq!(activity.deadline(&TIMEOUTS), Some((start + 13 * S, Expired::Header)));
        activity.request_began(1);
        assert_eq!(activity.deadline(&TIMEOUTS), None, "a running request has no timeout here");
        assert_eq!(activity.idle_since(), None);
        activity.reply_handed_over(start + 30 * S, 1, 0);
        assert_eq!(activity.deadline(&TIMEOUTS), Some((start + 50 * S, Expired::Reply)));
        activity.reply_wanted(start + 31 * S, 1);
        assert_eq!(activity.deadline(&TIMEOUTS), None);
        activity.request_ended(start + 40 * S, 1);
        assert_eq!(activity.deadline(&TIMEOUTS), Some((start + 100 * S, Expired::Idle)));
    }

    #[test]
    fn a_reply_that_the_socket_does_not_take_is_not_idle() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        activity.request_began(1);
        activity.write_blocks(start + S);
        activity.request_ended(start + 2 * S, 1);
        assert_eq!(activity.idle_since(), None);
        assert_eq!(activity.deadline(&TIMEOUTS), Some((start + 21 * S, Expired::Reply)));
        activity.write_moved(start + 5 * S);
        assert_eq!(activity.deadline(&TIMEOUTS), Some((start + 65 * S, Expired::Idle)));
    }

    #[test]
    fn a_stream_is_idle_between_its_messages() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        activity.request_began(1);
        assert_eq!(activity.idle_since(), None, "it may be a long job");
        activity.stream_began(start + S, 1);
        assert_eq!(activity.idle_since(), Some(start + S));
        activity.messages_arrived(start + 2 * S, 1, 0, true);
        assert_eq!(activity.idle_since(), None, "half a message");
        activity.messages_arrived(start + 3 * S, 1, 2, false);
        activity.reply_handed_over(start + 4 * S, 1, 1);
        activity.reply_wanted(start + 5 * S, 1);
        assert_eq!((activity.idle_since(), activity.deadline(&TIMEOUTS)), (None, None), "one is owed");
        activity.reply_handed_over(start + 6 * S, 1, 1);
        assert_eq!(activity.deadline(&TIMEOUTS), Some((start + 26 * S, Expired::Reply)));
        activity.reply_wanted(start + 7 * S, 1);
        assert_eq!(activity.deadline(&TIMEOUTS), Some((start + 67 * S, Expired::Idle)));
        // A second request, which is no stream, keeps the connection busy until it ends.
        activity.request_began(2);
        assert_eq!(activity.idle_since(), None);
        activity.request_ended(start + 9 * S, 2);
        assert_eq!(activity.idle_since(), Some(start + 9 * S));
        activity.request_ended(start + 10 * S, 1);
        assert!(!activity.has_requests() && activity.idle_since() == Some(start + 10 * S));
    }
}
