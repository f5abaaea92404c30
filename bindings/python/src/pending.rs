// SPDX-License-Identifier: Apache-2.0
//! A request that was sent.
//!
//! ```text
//!  sent ── wait ──────────────────────────┬──> ended
//!   └──── watch ──> watched ── poll ──────┤
//!                                 cancel ─┘
//! ```
//!
//! A thread that waits has the state's lock, and not the interpreter's. A request that is watched is only ever polled,
//! which does not wait: so an event loop never waits for the lock either.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use diolkos_client::{Answer, Error};
use pyo3::prelude::*;

use crate::arrivals::Arrivals;
use crate::client::{Timing, duration, timing};
use crate::errors;
use crate::memory::Memory;
use crate::process::Own;
use crate::wait;

/// Version, timing, and the outputs by name.
type Reply = (u64, Timing, Vec<(String, Memory)>);

/// A request that was sent. Dropping it cancels the request.
#[pyclass(frozen, module = "diolkos._native")]
pub(crate) struct Pending {
    state: Own<Mutex<State>>,
    cancelled: AtomicBool,
    /// The client's number.
    number: u64,
}

enum State {
    Sent(diolkos_client::Pending),
    Watched(Answer, Waker),
    Ended,
}

impl State {
    fn wait(&mut self, time: Duration) -> Result<Option<diolkos_client::Reply>, Error> {
        let State::Sent(pending) = self else {
            return Err(Error::Invalid("this request has ended, or an event loop waits for it".into()));
        };
        let waited = pending.try_wait(time).map_err(Error::from);
        if !matches!(waited, Ok(None)) {
            *self = State::Ended;
        }
        waited
    }

    fn poll(&mut self) -> Result<Option<diolkos_client::Reply>, Error> {
        let State::Watched(answer, waker) = self else {
            return Err(Error::Invalid("this request has ended, or nobody watches it".into()));
        };
        match Pin::new(answer).poll(&mut Context::from_waker(waker)) {
            Poll::Pending => Ok(None),
            Poll::Ready(done) => {
                *self = State::Ended;
                done.map(Some)
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // After a panic within the client the state is still one of the three.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pending {
    pub(crate) fn new(pending: diolkos_client::Pending, number: u64) -> Pending {
        let state = Own::new(Mutex::new(State::Sent(pending)));
        Pending { state, cancelled: AtomicBool::new(false), number }
    }

    fn reply(&self, reply: diolkos_client::Reply) -> Reply {
        let (version, timing) = (reply.version, timing(&reply.timing));
        let outputs = reply.into_outputs();
        let outputs =
            outputs.iter().map(|output| (output.name().to_owned(), Memory::of_output(output, self.number)));
        (version, timing, outputs.collect())
    }

    fn done(&self, done: Result<Option<diolkos_client::Reply>, Error>) -> PyResult<Option<Reply>> {
        match done {
            Ok(reply) => Ok(reply.map(|reply| self.reply(reply))),
            Err(error) => Err(errors::exception(&error)),
        }
    }
}

#[pymethods]
impl Pending {
    /// Waits for the reply, for so many seconds at most. `None`: it has not come, and can still be waited for.
    fn wait(&self, py: Python<'_>, seconds: Option<f64>) -> PyResult<Option<Reply>> {
        let state = self.state.get()?;
        // A time past the end of the clock is none.
        let until = match seconds {
            None => None,
            Some(seconds) => Instant::now().checked_add(duration(seconds.max(0.0))?),
        };
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                wait::detached(py, || drop(std::mem::replace(&mut *lock(state), State::Ended)));
                return Err(errors::cancelled());
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let slice = left.map_or(wait::SLICE, |left| left.min(wait::SLICE));
            let waited = wait::detached(py, || lock(state).wait(slice));
            if !matches!(waited, Ok(None)) {
                return self.done(waited);
            }
            wait::look(py)?;
            if left.is_some_and(|left| left <= slice) {
                return Ok(None);
            }
        }
    }

    /// Has `arrivals` tell `token` when it is worth polling. Says at once if the reply is there already.
    fn watch(&self, arrivals: &Arrivals, token: u64) -> PyResult<Option<Reply>> {
        let mut state = lock(self.state.get()?);
        match std::mem::replace(&mut *state, State::Ended) {
            State::Sent(pending) => {
                *state = State::Watched(pending.into_future(), arrivals.waker(token));
            }
            other => *state = other,
        }
        let polled = state.poll();
        drop(state);
        self.done(polled)
    }

    /// The reply, if it has come.
    fn poll(&self) -> PyResult<Option<Reply>> {
        let polled = lock(self.state.get()?).poll();
        self.done(polled)
    }

    /// Cancels it. A thread that waits for it is told.
    fn cancel(&self, py: Python<'_>) {
        let Ok(state) = self.state.get() else { return };
        // Relaxed: it says nothing about other memory.
        self.cancelled.store(true, Ordering::Relaxed);
        // Whoever has the lock waits, and looks every now and then. It is let go before the interpreter's lock is.
        let taken = state.try_lock().ok().map(|mut state| std::mem::replace(&mut *state, State::Ended));
        if let Some(taken @ (State::Sent(_) | State::Watched(..))) = taken {
            wait::detached(py, || drop(taken));
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let state = self.state.take().map(|state| state.into_inner().unwrap_or_else(PoisonError::into_inner));
        if let Some(state @ (State::Sent(_) | State::Watched(..))) = state {
            wait::drop_detached(state);
        }
    }
}
