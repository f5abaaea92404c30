// SPDX-License-Identifier: Apache-2.0
//! The tenants of one class, and which of them is next: start-time fair queueing.
//!
//! Every tenant has a virtual time at which its next job starts. The one with the least is next; starting a job moves its
//! tenant on by cost / weight. The class's own virtual time moves on with every job as it would if the device served all
//! who wait at the same time, each by its weight, and is never behind the job that started last (as in WF2Q+: Bennett and
//! Zhang 1997). A tenant that comes back after a pause starts there and not earlier, so that a pause is no credit; one that ran
//! ahead keeps its debt until virtual time is there. With start times alone it would not get there while ever new tenants
//! come, each with one job.
//!
//! ```text
//!              first job                    its tenant may not run more
//!  (no jobs) ────────────> in line ─────────────────────────────────────> aside
//!      ^                    │  ^                                            │
//!      └────last job────────┘  └──────────────── it may again ─────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use diolkos_types::{BuildSpread, JobId};

use super::{BatchKey, Batching, Nanos, TenantKey};

/// Virtual time: nanoseconds of device time by weight, in thousandths, so that weights up to a thousand lose nothing.
pub type Virtual = u128;

const SCALE: Virtual = 1000;

/// Where a job stands among its tenant's own: deadline first ([`Nanos::MAX`] = none), then arrival.
pub type Place = (Nanos, u64);

/// Jobs that are looked at to tell what stands before another one. Past it the wait is long anyway.
const LOOKED_AT_MAX: usize = 64;

/// Flows that are kept without jobs before anybody looks which of them have nothing to remember.
const IDLE_MIN: usize = 64;

/// A job that waits.
#[derive(Clone, Copy, Debug)]
pub struct Queued {
    /// Which.
    pub job: JobId,
    /// Device time that it will take if it runs alone.
    pub alone: Nanos,
    /// Device time that it will take as far as one can tell while it waits: its part of a full batch, where it may be in one.
    pub cost: Nanos,
    /// What it may share a run with.
    pub batch: Option<Batching>,
}

/// What one tenant has in this class.
#[derive(Debug, Default)]
struct Flow {
    jobs: BTreeMap<Place, Queued>,
    /// Predicted device time of these.
    work: Nanos,
    /// When the next one starts.
    start: Virtual,
    /// Where it began when it came back last, in virtual time: nothing that is given back leads before that.
    since: Virtual,
    in_line: bool,
    /// It has jobs and its tenant may not run more.
    aside: bool,
    weight: u32,
    running: usize,
}

/// One class.
#[derive(Debug, Default)]
pub struct ClassQueue {
    flows: HashMap<TenantKey, Flow, BuildSpread>,
    line: BTreeSet<(Virtual, TenantKey)>,
    /// Where the jobs stand that may share a run.
    mates: HashMap<BatchKey, BTreeMap<TenantKey, BTreeSet<Place>>, BuildSpread>,
    /// Virtual time.
    now: Virtual,
    /// The latest start of a job that started: virtual time is never before it.
    started: Virtual,
    /// The latest start of any flow: where virtual time goes when nobody is busy.
    latest: Virtual,
    /// Predicted device time of the jobs of those who are in line.
    line_work: Nanos,
    /// Weights of those who are in line.
    line_weights: u64,
    /// Weights of the flows that have jobs.
    weights: u64,
    waiting: usize,
    running: usize,
    sweep_at: usize,
    /// Device time that a tenant may be ahead of the first in line, to go on.
    slice: Nanos,
    /// Whose run started last.
    last: Option<TenantKey>,
}

impl Flow {
    /// It begins here, or where it is if that is later.
    fn begin_at(&mut self, at: Virtual) {
        if self.start < at {
            (self.start, self.since) = (at, at);
        }
    }
}

/// How far a tenant of this weight moves on for a job of this cost.
pub fn virtual_time(cost: Nanos, weight: u32) -> Virtual {
    Virtual::from(cost) * SCALE / Virtual::from(weight.max(1))
}

impl ClassQueue {
    /// Nobody waits. Whoever ran last goes on until it is `slice` of device time ahead.
    #[must_use]
    pub fn new(slice: Nanos) -> ClassQueue {
        ClassQueue { slice, ..ClassQueue::default() }
    }

    /// Predicted device time of what waits and could run.
    #[must_use]
    pub fn line_work(&self) -> Nanos {
        self.line_work
    }

    /// Whether somebody may be next.
    #[must_use]
    pub fn has_line(&self) -> bool {
        !self.line.is_empty()
    }

    /// The job that is next: whose, where it stands, and what it is.
    #[must_use]
    pub fn next(&self) -> Option<(TenantKey, Place, Queued)> {
        let &(first, tenant) = self.line.first()?;
        let tenant = self.last.filter(|last| self.may_go_on(*last, first)).unwrap_or(tenant);
        self.flows[&tenant].jobs.first_key_value().map(|(&place, &queued)| (tenant, place, queued))
    }

    /// Whether a tenant whose run started last may go on although somebody's next job starts there.
    fn may_go_on(&self, last: TenantKey, first: Virtual) -> bool {
        let ahead = |flow: &Flow| flow.in_line && flow.start < first + virtual_time(self.slice, flow.weight);
        self.slice > 0 && self.flows.get(&last).is_some_and(ahead)
    }

    /// A run of this tenant started.
    pub fn goes_on_with(&mut self, tenant: TenantKey) {
        self.last = Some(tenant);
    }

    /// Tenants with jobs of this key, and when the next job of each starts.
    pub fn mates(&self, key: BatchKey) -> impl Iterator<Item = (Virtual, TenantKey)> {
        let tenants = self.mates.get(&key).into_iter().flat_map(BTreeMap::keys);
        tenants.map(|&tenant| (self.flows[&tenant].start, tenant))
    }

    /// The tenant's jobs of this key, in their order.
    pub fn mates_of(&self, key: BatchKey, tenant: TenantKey) -> impl Iterator<Item = (Place, Queued)> {
        let places = self.mates.get(&key).and_then(|tenants| tenants.get(&tenant)).into_iter().flatten();
        places.map(move |&place| (place, self.flows[&tenant].jobs[&place]))
    }

    /// A job waits. Whether its tenant is in line is said by [`ClassQueue::line_up`].
    pub fn push(&mut self, tenant: TenantKey, weight: u32, place: Place, queued: Queued) {
        let now = self.now;
        let flow = self.flows.entry(tenant).or_default();
        if flow.jobs.is_empty() {
            flow.begin_at(now);
            flow.weight = weight;
            self.weights += u64::from(weight);
        }
        flow.jobs.insert(place, queued);
        flow.work += queued.cost;
        if flow.in_line {
            self.line_work += queued.cost;
        }
        if let Some(batch) = queued.batch {
            self.mates.entry(batch.key).or_default().entry(tenant).or_default().insert(place);
        }
        self.waiting += 1;
    }

    /// The tenant has another weight.
    pub fn set_weight(&mut self, tenant: TenantKey, weight: u32) {
        if let Some(flow) = self.flows.get_mut(&tenant)
            && !flow.jobs.is_empty()
        {
            self.weights = self.weights - u64::from(flow.weight) + u64::from(weight);
            if flow.in_line {
                self.line_weights = self.line_weights - u64::from(flow.weight) + u64::from(weight);
            }
            flow.weight = weight;
        }
    }

    /// The tenant may run another job.
    pub fn line_up(&mut self, tenant: TenantKey) {
        if let Some(flow) = self.flows.get_mut(&tenant)
            && !flow.in_line
            && let Some((_, first)) = flow.jobs.first_key_value()
        {
            if std::mem::take(&mut flow.aside) {
                // What it could not use because of a bound of its own is no credit, but for one job.
                let one = virtual_time(first.cost, flow.weight);
                flow.begin_at(self.now.saturating_sub(one));
                self.latest = self.latest.max(flow.start);
            }
            flow.in_line = true;
            self.line.insert((flow.start, tenant));
            self.line_work += flow.work;
            self.line_weights += u64::from(flow.weight);
        }
    }

    /// The tenant may not run more.
    pub fn step_out(&mut self, tenant: TenantKey) {
        let Some(flow) = self.flows.get_mut(&tenant) else { return };
        flow.aside = !flow.jobs.is_empty();
        if flow.in_line {
            flow.in_line = false;
            self.line.remove(&(flow.start, tenant));
            self.line_work -= flow.work;
            self.line_weights -= u64::from(flow.weight);
        }
    }

    /// A job starts that waited, and was taken out before.
    pub fn start_waited(&mut self, tenant: TenantKey, weight: u32, cost: Nanos) {
        let start = self.flows.get(&tenant).expect("a tenant whose job waited has a flow").start;
        self.start(tenant, weight, cost, start);
    }

    /// A job starts that never waited.
    pub fn start_at_once(&mut self, tenant: TenantKey, weight: u32, cost: Nanos) {
        let now = self.now;
        let flow = self.flows.entry(tenant).or_default();
        // Whoever has jobs here has its place already.
        if flow.jobs.is_empty() {
            flow.begin_at(now);
        }
        let start = flow.start;
        self.start(tenant, weight, cost, start);
    }

    /// Charges a job, and moves virtual time on.
    fn start(&mut self, tenant: TenantKey, weight: u32, cost: Nanos, start: Virtual) {
        self.running += 1;
        let flow = self.flows.get_mut(&tenant).expect("the caller looked at it");
        flow.running += 1;
        let before = std::mem::replace(&mut flow.start, start + virtual_time(cost, weight));
        self.latest = self.latest.max(flow.start);
        if flow.in_line {
            self.line.remove(&(before, tenant));
            self.line.insert((flow.start, tenant));
        }
        self.started = self.started.max(start);
        self.now += self.passes(tenant, weight, cost);
        self.now = self.now.max(start);
    }

    /// How far virtual time moves on for a job of the tenant: as if all who have jobs were served at once, and it too.
    fn passes(&self, tenant: TenantKey, weight: u32, cost: Nanos) -> Virtual {
        let waits = self.flows.get(&tenant).is_some_and(|flow| !flow.jobs.is_empty());
        let weights = if waits { self.weights } else { self.weights + u64::from(weight) };
        virtual_time(cost, 1) / Virtual::from(weights.max(1))
    }

    /// A job ended that was charged `cost` at this weight, and took `took`.
    pub fn correct(&mut self, tenant: TenantKey, weight: u32, cost: Nanos, took: Nanos) {
        self.running -= 1;
        // Where nobody is left who could owe or be owed, all begin anew.
        let idle = self.running == 0 && self.waiting == 0;
        let flow = self.flows.get_mut(&tenant).expect("a job that ran has a flow");
        flow.running -= 1;
        if took != cost {
            if flow.in_line {
                self.line.remove(&(flow.start, tenant));
            }
            // Where it would be if what the job took had been known. Whoever has no jobs begins at virtual time when it comes back, so
            // that what is given back is no credit for later.
            if took >= cost {
                flow.start += virtual_time(took - cost, weight);
            } else {
                flow.start = flow.start.saturating_sub(virtual_time(cost - took, weight)).max(flow.since);
            }
            self.latest = self.latest.max(flow.start);
            if flow.in_line {
                self.line.insert((flow.start, tenant));
            }
        }
        // And virtual time, or those who come would be sent behind all others by predictions that are too high.
        if took >= cost {
            self.now += self.passes(tenant, weight, took - cost);
        } else {
            let passed = self.passes(tenant, weight, cost - took);
            self.now = self.now.saturating_sub(passed).max(self.started);
        }
        if idle {
            self.now = self.latest;
            self.flows.clear();
        } else if self.flows.len() > self.sweep_at {
            self.sweep();
        }
    }

    /// Forgets tenants that have no jobs and no debt. Virtual time may be corrected backwards, but never before the start of a job
    /// that started, so that is where a debt ends.
    fn sweep(&mut self) {
        let paid = self.started;
        self.flows.retain(|_, flow| !flow.jobs.is_empty() || flow.running > 0 || flow.start > paid);
        self.sweep_at = 2 * self.flows.len() + IDLE_MIN;
    }

    /// Takes a job out, wherever it stands.
    pub fn take(&mut self, tenant: TenantKey, place: Place) -> Queued {
        let flow = self.flows.get_mut(&tenant).expect("a waiting job has a flow");
        let queued = flow.jobs.remove(&place).expect("the caller knows the job's place");
        flow.work -= queued.cost;
        self.waiting -= 1;
        if flow.in_line {
            self.line_work -= queued.cost;
        }
        if flow.jobs.is_empty() {
            self.weights -= u64::from(flow.weight);
            flow.aside = false;
            if flow.in_line {
                flow.in_line = false;
                self.line.remove(&(flow.start, tenant));
                self.line_weights -= u64::from(flow.weight);
            }
        }
        if let Some(batch) = queued.batch {
            self.forget_mate(batch.key, tenant, place);
        }
        queued
    }

    fn forget_mate(&mut self, key: BatchKey, tenant: TenantKey, place: Place) {
        let tenants = self.mates.get_mut(&key).expect("a job that may share a run is listed");
        let places = tenants.get_mut(&tenant).expect("and under its tenant");
        places.remove(&place);
        if places.is_empty() {
            tenants.remove(&tenant);
        }
        if tenants.is_empty() {
            self.mates.remove(&key);
        }
    }

    /// How many of a tenant's jobs stand before this one, as far as that is counted, and what it is.
    #[must_use]
    pub fn standing(&self, tenant: TenantKey, place: Place) -> Option<(usize, Queued)> {
        let jobs = &self.flows.get(&tenant)?.jobs;
        Some((jobs.range(..place).take(LOOKED_AT_MAX).count(), *jobs.get(&place)?))
    }

    /// Predicted device time, on one slot, until a job at this place would start: what its tenant has before it, stretched
    /// by the weights of the others in line, and no more than everything there is.
    #[must_use]
    pub fn work_before(&self, tenant: TenantKey, weight: u32, place: Place) -> Nanos {
        let flow = self.flows.get(&tenant);
        let before = flow.map_or(0, |flow| {
            if flow.jobs.last_key_value().is_none_or(|(last, _)| *last < place) {
                return flow.work;
            }
            flow.jobs.range(..place).take(LOOKED_AT_MAX).map(|(_, queued)| queued.cost).sum()
        });
        let in_line = flow.is_some_and(|flow| flow.in_line);
        let (weights, work) = if in_line {
            (self.line_weights, self.line_work)
        } else {
            (self.line_weights + u64::from(weight), self.line_work.saturating_add(before))
        };
        let stretched = u128::from(before) * u128::from(weights) / u128::from(weight.max(1));
        u64::try_from(stretched).unwrap_or(u64::MAX).min(work)
    }

    /// Flows that are kept.
    #[cfg(test)]
    pub(super) fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Keys of jobs that may share a run.
    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        self.mates.len()
    }
}
