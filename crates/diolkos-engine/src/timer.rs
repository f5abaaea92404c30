// SPDX-License-Identifier: Apache-2.0
//! One thread that carries out the schedulers' `WakeAt` actions, and wakes the control device likewise.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// Wakes whoever set an alarm.
pub(crate) struct Timer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Per alarm: when it goes off.
    wake_at: Vec<Option<Instant>>,
    stopping: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics while it holds the lock, and a half-made change is not possible.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One alarm; setting it replaces what it was set to.
#[derive(Clone)]
pub(crate) struct Alarm {
    shared: Arc<Shared>,
    index: usize,
}

impl Alarm {
    pub(crate) fn set(&self, at: Instant) {
        self.shared.lock().wake_at[self.index] = Some(at);
        self.shared.changed.notify_one();
    }
}

impl Timer {
    /// A timer with this many alarms; `wake` is called with the index of the one that went off.
    pub(crate) fn start(
        alarms: usize,
        wake: impl Fn(usize) + Send + 'static,
    ) -> std::io::Result<(Timer, Vec<Alarm>)> {
        let state = State { wake_at: vec![None; alarms], stopping: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let alarms = (0..alarms).map(|index| Alarm { shared: shared.clone(), index }).collect();
        let for_thread = shared.clone();
        let thread =
            std::thread::Builder::new().name("dk-timer".into()).spawn(move || run(&for_thread, &wake))?;
        Ok((Timer { shared, thread: Mutex::new(Some(thread)) }, alarms))
    }

    pub(crate) fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The thread may be the one that drops the last reference to the engine.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("the timer thread panicked");
            }
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Shared, wake: &dyn Fn(usize)) {
    let mut state = shared.lock();
    while !state.stopping {
        let now = Instant::now();
        let due = state.wake_at.iter().position(|at| at.is_some_and(|at| at <= now));
        if let Some(index) = due {
            state.wake_at[index] = None;
            drop(state);
            // What is woken completes jobs, and a sink that panics must not end everybody's deadlines.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wake(index))).is_err() {
                tracing::error!("a panic while jobs expired");
            }
            state = shared.lock();
            continue;
        }
        let next = state.wake_at.iter().flatten().min().copied();
        state = match next {
            Some(at) => {
                let wait = at.saturating_duration_since(now);
                shared.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
            }
            None => shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
    }
}
