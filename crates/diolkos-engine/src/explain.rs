// SPDX-License-Identifier: Apache-2.0
//! What the scheduler did with jobs, and why, for whoever asks afterwards.
//!
//! Each tenant remembers its own last jobs, so that nobody's requests take a lock that another tenant can hold, and nobody
//! sees another's. Jobs that are known to be short are not remembered: that would cost a good part of what they take.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diolkos_types::{Code, JobId};

use crate::limits;
use crate::request::Timing;
use crate::sched::Class;

/// Why a job did not begin when it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waited {
    /// It did.
    #[default]
    Nothing,
    /// All slots that its pool may use were taken.
    Slots,
    /// And some of its pool's own were lent to another one.
    Lent,
    /// Its tenant had as many jobs running as it may (`concurrency_max`).
    OwnLimit,
}

/// What the scheduler did with a job.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scheduled {
    /// Jobs of its own tenant that waited for its device when it came. Others' are nobody's business.
    pub ahead: u32,
    /// What it waited for.
    pub waited_for: Waited,
    /// Device time that it was predicted to take, alone.
    pub predicted: Duration,
    /// Device time that its tenant was charged.
    pub device: Duration,
    /// Jobs that shared its run, itself included; 0 = it never ran.
    pub together: u32,
}

/// A job that ended.
#[derive(Clone, Debug)]
pub struct Past {
    /// Which.
    pub job: JobId,
    /// Name of the model or operation.
    pub model: Box<str>,
    /// Version of it.
    pub version: u64,
    /// How urgent it was.
    pub class: Class,
    /// What the scheduler did with it.
    pub scheduled: Scheduled,
    /// Where its time went.
    pub timing: Timing,
    /// From submission to reply.
    pub latency: Duration,
    /// Why it failed; `None` = it succeeded.
    pub failed: Option<Code>,
}

/// Where a job stands that waits.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// How urgent it is.
    pub class: Class,
    /// How long it waits already.
    pub since: Duration,
    /// Jobs of its own tenant and class that go before it; at most 64 are counted.
    pub own_before: u32,
    /// How long it will still wait, if nobody else comes and predictions hold.
    pub wait: Duration,
    /// Device time that it is predicted to take, alone.
    pub predicted: Duration,
    /// What it waits for.
    pub waits_for: Waited,
}

/// What can be said of a job.
#[derive(Clone, Debug)]
pub enum Explained {
    /// It waits.
    Waits(Standing),
    /// It runs, and was predicted to take so much device time.
    Runs(Duration),
    /// It ended.
    Ended(Past),
}

/// The last jobs of one tenant, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<VecDeque<Past>>);

impl History {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Past>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remember(&self, past: Past) {
        let mut jobs = self.lock();
        let forgotten = if jobs.len() >= limits::HISTORY_JOBS { jobs.pop_front() } else { None };
        jobs.push_back(past);
        drop(jobs);
        drop(forgotten);
    }

    pub(crate) fn find(&self, job: JobId) -> Option<Past> {
        self.lock().iter().rev().find(|past| past.job == job).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Past> {
        self.lock().iter().cloned().collect()
    }
}
