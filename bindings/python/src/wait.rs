// SPDX-License-Identifier: Apache-2.0
//! Waiting without the interpreter's lock.
//!
//! A thread that comes back to an interpreter which is going away is ended by Python in the middle of our code. So the
//! package's exit handler first closes all clients, which ends all waits, and then waits for the threads to have left
//! ([`settle`]).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use diolkos_client::Client;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::{errors, process};

/// How long to wait before looking whether a signal came, such as Ctrl-C, or somebody cancelled. Nobody feels it, and
/// twenty looks a second cost nothing.
pub(crate) const SLICE: Duration = Duration::from_millis(50);

/// How many threads are in [`detached`].
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// The interpreter is about to end.
static LEAVING: AtomicBool = AtomicBool::new(false);

struct Inside;

impl Inside {
    fn enter() -> Inside {
        // Relaxed, here and below: `settle` only has to see it in the end.
        INSIDE.fetch_add(1, Ordering::Relaxed);
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Does something with the interpreter's lock let go.
pub(crate) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    let _inside = Inside::enter();
    py.detach(work)
}

/// Does something that may wait for long, on a thread of its own. If a signal's handler raises meanwhile, so does this;
/// the work then goes on by itself, and what comes of it is dropped.
pub(crate) fn interruptible<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> T + Send + 'static,
) -> PyResult<T> {
    let (sender, mut receiver) = mpsc::sync_channel(1);
    let name = "diolkos-call".to_owned();
    std::thread::Builder::new().name(name).spawn(move || sender.send(work()))?;
    loop {
        let received;
        (receiver, received) = detached(py, move || {
            let received = receiver.recv_timeout(SLICE);
            (receiver, received)
        });
        match received {
            Ok(done) => return Ok(done),
            Err(RecvTimeoutError::Timeout) => look(py)?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err("a call of the client panicked"));
            }
        }
    }
}

/// Does something that waits only if the client says so beforehand; then it can be interrupted.
pub(crate) fn soon<A: Send + 'static, T: Send + 'static>(
    py: Python<'_>,
    client: &Client,
    arguments: A,
    would_wait: impl FnOnce(&A) -> bool + Send,
    work: impl FnOnce(&Client, A) -> T + Copy + Send + 'static,
) -> PyResult<T> {
    let tried =
        detached(
            py,
            move || if would_wait(&arguments) { Err(arguments) } else { Ok(work(client, arguments)) },
        );
    match tried {
        Ok(done) => Ok(done),
        Err(arguments) => {
            let client = client.clone();
            interruptible(py, move || work(&client, arguments))
        }
    }
}

/// Drops something whose end may write to a socket, with the interpreter's lock let go.
pub(crate) fn drop_detached<T: Send>(value: T) {
    // Without an interpreter there is no lock to let go; the value is dropped with the closure.
    Python::try_attach(|py| detached(py, move || drop(value)));
}

/// To be called every [`SLICE`] by who waits: raises if a signal's handler does, or the interpreter ends.
pub(crate) fn look(py: Python<'_>) -> PyResult<()> {
    // Relaxed: a slice later is soon enough.
    if LEAVING.load(Ordering::Relaxed) {
        return Err(errors::leaving());
    }
    py.check_signals()
}

/// Ends all waits. Waits until no thread is within a call any more, for so many seconds at most. Says whether it is so.
#[pyfunction]
pub(crate) fn settle(py: Python<'_>, seconds: f64) -> bool {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    LEAVING.store(true, Ordering::Relaxed);
    py.detach(|| {
        let until = Instant::now() + time;
        while INSIDE.load(Ordering::Relaxed) > 0 {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    })
}

/// To be called in a process that was just forked off: nothing of its parent's is its own.
#[pyfunction]
pub(crate) fn after_fork() {
    process::forked();
    INSIDE.store(0, Ordering::Relaxed);
}
