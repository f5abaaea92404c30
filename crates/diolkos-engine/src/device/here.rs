// SPDX-License-Identifier: Apache-2.0
//! Jobs that the thread runs which brought them.

use std::fmt;
use std::sync::Arc;

use super::run_guarded;
use super::shared::{Run, Shared, Thread};
use crate::job::Job;

/// What the thread that brings a job offers to run itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Nothing: it may not be held up at all.
    Nothing,
    /// What is known to be short (see [`RUN_HERE_P99`](crate::limits::RUN_HERE_P99)).
    Short,
    /// Whatever it is. The thread needs as much stack as a device's own ones, and must be missed by nobody meanwhile.
    Any,
}

/// A job that the scheduler gave to the thread that brought it. It holds a slot, so it is to be run at once; one that
/// is dropped is run by a thread of its device.
#[must_use = "the job holds a slot until it has run"]
pub struct Here {
    pub(super) shared: Arc<Shared>,
    pub(super) job: Option<Job>,
    /// The pool whose slot it holds.
    pub(super) slot: usize,
    pub(super) short: bool,
}

impl Here {
    /// Whether the job is known to be short. One that is not may take any time.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// Runs the job and answers it.
    ///
    /// After one that was not short, goes on with jobs that its device has ready meanwhile: the thread is as good as
    /// any other for them, and need not wake one.
    pub fn run(mut self) {
        let Some(job) = self.job.take() else { return };
        if self.short {
            return run_guarded(&self.shared, Run::of_one(job), Thread::Other);
        }
        let mut next = Some(Run::of_one(job));
        while let Some(run) = next {
            run_guarded(&self.shared, run, Thread::OfPool(self.slot));
            next = self.shared.take_ready(&mut self.shared.lock(), self.slot);
        }
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
        let mut state = self.shared.lock();
        if state.stopping {
            drop(state);
            // The device's threads may be gone.
            return run_guarded(&self.shared, Run::of_one(job), Thread::Other);
        }
        state.ready[self.slot].push_back(Run::of_one(job));
        drop(state);
        self.shared.pools[self.slot].work.notify_one();
    }
}

impl fmt::Debug for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Here({:?} on {})", self.job.as_ref().map(Job::id), self.shared.name)
    }
}
