// SPDX-License-Identifier: Apache-2.0
//! Who runs next on one device. Pure: `step(now, event) -> actions`, with no lock, clock, thread or I/O.
//!
//! The policy is a fair first-in-first-out: tenants take turns, one job each; inside a tenant
//! the higher [`Class`] goes first and equals go in the order of arrival. A job that is cancelled or
//! late while it waits never starts.
//!
//! ```text
//!            Arrive
//!              │ queue full ──> Refuse
//!              ▼
//!           waiting ── Cancel ──> Cancelled
//!              │    └─ deadline ─> Expire
//!              ▼ turn and free slot
//!         Start / RunHere ──> running ── Finish ──> (slot free again)
//! ```
//!
//! Invariants, checked by the property tests against a plainer model:
//!
//! * Every job that arrives gets exactly one of `Start`, `RunHere`, `Refuse`, `Expire`, `Cancelled`.
//! * Never more jobs run than there are slots, nor more of one tenant than it may run at once; and no slot is free while
//!   a job waits whose tenant may run another.
//! * Between two starts of a tenant that keeps waiting and is not at its own bound, every other waiting tenant starts at
//!   most one job.

mod queue;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::collections::HashMap;

pub use diolkos_backend::endpoint::Class;
use diolkos_types::{BuildSpread, JobId};

use queue::TurnQueue;

/// Nanoseconds since an origin that the caller chose.
pub type Nanos = u64;

/// The scheduler's name for a tenant; no other tenant ever gets the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantKey(pub u64);

/// A job as the scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Which.
    pub job: JobId,
    /// Whose.
    pub tenant: TenantKey,
    /// How urgent among that tenant's own.
    pub class: Class,
    /// Must have begun by then.
    pub deadline: Option<Nanos>,
    /// The thread that brings it offers to run it.
    pub run_here: bool,
    /// What its tenant may have here, from now on.
    pub share: Share,
}

/// What a tenant may have on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Jobs that may run at once; at least one.
    pub running_max: usize,
    /// Jobs that may wait.
    pub waiting_max: usize,
}

impl Share {
    /// As much as the device has.
    pub const ALL: Share = Share { running_max: usize::MAX, waiting_max: usize::MAX };
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A job was admitted.
    Arrive(Arrival),
    /// A job of this tenant that ran has ended.
    Finish(JobId, TenantKey),
    /// Nobody wants this job any more. Ignored for a job that runs or is unknown.
    Cancel(JobId),
    /// Time passed (a `WakeAt` came due).
    Tick,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give this job a slot's thread.
    Start(JobId),
    /// Run this job, which just arrived, on the thread that brought it. It holds a slot all the same.
    RunHere(JobId),
    /// Answer `Busy`.
    Refuse(JobId, Full),
    /// Answer that the deadline passed.
    Expire(JobId),
    /// Answer that it was cancelled.
    Cancelled(JobId),
    /// Send `Tick` at this time. Replaces an earlier `WakeAt`.
    WakeAt(Nanos),
}

/// Which bound a job met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The device's queue.
    Device,
    /// The tenant's part of it.
    Tenant,
}

/// Sizes of one scheduler.
#[derive(Clone, Copy, Debug)]
pub struct SchedConfig {
    /// Jobs that may run at once; at least one.
    pub slots: usize,
    /// Jobs that may wait.
    pub queue_max: usize,
    /// Jobs of one tenant that may wait.
    pub tenant_queue_max: usize,
}

/// Where a waiting job stands, so that it can be taken out of the middle.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    tenant: TenantKey,
    place: queue::Place,
    deadline: Option<Nanos>,
}

/// The scheduler of one device.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedConfig,
    running: usize,
    queue: TurnQueue,
    waiting: HashMap<JobId, Waiting, BuildSpread>,
    deadlines: BTreeSet<(Nanos, JobId)>,
    wake_at: Option<Nanos>,
}

impl Scheduler {
    /// An idle scheduler.
    #[must_use]
    pub fn new(config: SchedConfig) -> Scheduler {
        assert!(config.slots > 0, "a device without slots can run nothing");
        Scheduler {
            config,
            running: 0,
            queue: TurnQueue::default(),
            waiting: HashMap::default(),
            deadlines: BTreeSet::new(),
            wake_at: None,
        }
    }

    /// Jobs that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Jobs that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// Whether some job that waits has a deadline.
    #[must_use]
    pub fn has_deadlines(&self) -> bool {
        !self.deadlines.is_empty()
    }

    /// Takes in what happened and appends what to do about it to `actions`.
    pub fn step(&mut self, now: Nanos, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Arrive(arrival) => self.arrive(now, arrival, actions),
            Event::Finish(_, tenant) => {
                self.queue.finished(tenant);
                self.running -= 1;
            }
            Event::Cancel(job) => {
                if self.remove(job) {
                    actions.push(Action::Cancelled(job));
                }
            }
            // The alarm went off, so it is set no more, whichever time it was set to.
            Event::Tick => self.wake_at = None,
        }
        self.expire(now, actions);
        self.fill_slots(actions);
        self.set_timer(actions);
    }

    fn arrive(&mut self, now: Nanos, arrival: Arrival, actions: &mut Vec<Action>) {
        let Arrival { job, tenant, class, deadline, run_here, share } = arrival;
        if self.queue.allow(tenant, share.running_max.max(1)) {
            // The bound was just raised: those who wait go first.
            self.expire(now, actions);
            self.fill_slots(actions);
        }
        if deadline.is_some_and(|deadline| deadline <= now) {
            return actions.push(Action::Expire(job));
        }
        if self.running < self.config.slots && self.queue.would_be_next(tenant) {
            self.running += 1;
            self.queue.started(tenant);
            return actions.push(if run_here { Action::RunHere(job) } else { Action::Start(job) });
        }
        if self.waiting.len() >= self.config.queue_max {
            return actions.push(Action::Refuse(job, Full::Device));
        }
        if self.queue.len_of(tenant) >= self.config.tenant_queue_max.min(share.waiting_max) {
            return actions.push(Action::Refuse(job, Full::Tenant));
        }
        let place = self.queue.push(tenant, class, job);
        let known = self.waiting.insert(job, Waiting { tenant, place, deadline });
        assert!(known.is_none(), "job {job} arrived twice");
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, job));
        }
    }

    fn expire(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        while let Some(&(deadline, job)) = self.deadlines.first() {
            if deadline > now {
                return;
            }
            let removed = self.remove(job);
            debug_assert!(removed, "a deadline outlived its job");
            actions.push(Action::Expire(job));
        }
    }

    fn fill_slots(&mut self, actions: &mut Vec<Action>) {
        while self.running < self.config.slots {
            let Some(job) = self.queue.pop() else { return };
            let waited = self.waiting.remove(&job).expect("every queued job is in the table of waiting jobs");
            if let Some(deadline) = waited.deadline {
                self.deadlines.remove(&(deadline, job));
            }
            self.running += 1;
            actions.push(Action::Start(job));
        }
    }

    fn set_timer(&mut self, actions: &mut Vec<Action>) {
        let next = self.deadlines.first().map(|&(deadline, _)| deadline);
        if next != self.wake_at {
            self.wake_at = next;
            actions.extend(next.map(Action::WakeAt));
        }
    }

    fn remove(&mut self, job: JobId) -> bool {
        let Some(Waiting { tenant, place, deadline }) = self.waiting.remove(&job) else { return false };
        self.queue.remove(tenant, place);
        if let Some(deadline) = deadline {
            self.deadlines.remove(&(deadline, job));
        }
        true
    }
}
