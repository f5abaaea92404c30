// SPDX-License-Identifier: Apache-2.0
//! The timer of a connection.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

use super::activity::{Expired, Timeouts};
use super::table::ConnState;

/// Looks at a connection's activity whenever its task runs, and wakes it when something is too late.
/// The timer is moved only to earlier times; when it fires too early, it is set anew. So a request costs
/// no timer operation.
pub(super) struct Watchdog<'a> {
    connection: &'a ConnState,
    timeouts: &'a Timeouts,
    timer: Pin<Box<Sleep>>,
}

impl<'a> Watchdog<'a> {
    pub(super) fn new(connection: &'a ConnState, timeouts: &'a Timeouts) -> Watchdog<'a> {
        Watchdog { connection, timeouts, timer: Box::pin(tokio::time::sleep(timeouts.idle)) }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        loop {
            let now = Instant::now();
            let deadline = self.connection.activity().deadline(self.timeouts);
            let next = match deadline {
                Some((at, expired)) if at <= now => return Poll::Ready(expired),
                Some((at, _)) => at,
                // A request runs. Its reply may get stuck, or its stream fall silent, without this task
                // being woken, so look again.
                None => now + self.timeouts.body.min(self.timeouts.idle),
            };
            let next = tokio::time::Instant::from_std(next);
            if self.timer.is_elapsed() || next < self.timer.deadline() {
                self.timer.as_mut().reset(next);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
