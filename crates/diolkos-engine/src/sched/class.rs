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

use super::{Nanos, TenantKey};

/// Virtual time: nanoseconds of device time by weight, in thousandths, so that weights up to a thousand lose nothing.
pub type Virtual = u128;

const SCALE: Virtual = 1000;

/// Where a job stands among its tenant's own: deadline first ([`Nanos::MAX`] = none), then arrival.
pub type Place = (Nanos, u64);

/// Jobs that are looked at to tell what stands before another one. Past it the wait is long anyway.
const LOOKED_AT_MAX: usize = 64;

/// Flows that are kept without jobs before anybody looks which of them have nothing to remember.
const IDLE_MIN: usize = 64;

/// What one tenant has in this class.
#[derive(Debug, Default)]
struct Flow {
    jobs: BTreeMap<Place, (JobId, Nanos)>,
    /// Predicted device time of these.
    work: Nanos,
    /// When the next one starts.
    start: Virtual,
    in_line: bool,
    /// It has jobs and its tenant may not run more.
    aside: bool,
    weight: u32,
    running: usize,
}

/// A job that is next.
#[derive(Clone, Copy, Debug)]
pub struct Popped {
    /// Whose.
    pub tenant: TenantKey,
    /// Which.
    pub job: JobId,
    /// What it is charged.
    pub cost: Nanos,
    /// When it starts, in virtual time.
    pub start: Virtual,
}

/// One class.
#[derive(Debug, Default)]
pub struct ClassQueue {
    flows: HashMap<TenantKey, Flow, BuildSpread>,
    line: BTreeSet<(Virtual, TenantKey)>,
    /// Virtual time.
    now: Virtual,
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
}

fn virtual_time(cost: Nanos, weight: u32) -> Virtual {
    Virtual::from(cost) * SCALE / Virtual::from(weight.max(1))
}

impl ClassQueue {
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

    /// Predicted device time of the job that is next.
    #[must_use]
    pub fn next_cost(&self) -> Option<Nanos> {
        let (_, tenant) = self.line.first()?;
        self.flows[tenant].jobs.first_key_value().map(|(_, &(_, cost))| cost)
    }

    /// A job waits. Whether its tenant is in line is said by [`ClassQueue::line_up`].
    pub fn push(&mut self, tenant: TenantKey, weight: u32, place: Place, job: JobId, cost: Nanos) {
        let now = self.now;
        let flow = self.flows.entry(tenant).or_default();
        if flow.jobs.is_empty() {
            flow.start = flow.start.max(now);
            flow.weight = weight;
            self.weights += u64::from(weight);
        }
        flow.jobs.insert(place, (job, cost));
        flow.work += cost;
        if flow.in_line {
            self.line_work += cost;
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
            && let Some((_, &(_, cost))) = flow.jobs.first_key_value()
        {
            if std::mem::take(&mut flow.aside) {
                // What it could not use because of a bound of its own is no credit, but for one job.
                flow.start = flow.start.max(self.now.saturating_sub(virtual_time(cost, flow.weight)));
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

    /// Takes the job that is next, and charges it. Its tenant is out of line until somebody lines it up again.
    pub fn pop(&mut self) -> Option<Popped> {
        let (start, tenant) = self.line.pop_first()?;
        let flow = self.flows.get_mut(&tenant).expect("a tenant in line has a flow");
        flow.in_line = false;
        self.line_work -= flow.work;
        self.line_weights -= u64::from(flow.weight);
        let (_, (job, cost)) = flow.jobs.pop_first().expect("a tenant in line has jobs");
        flow.work -= cost;
        flow.running += 1;
        flow.start += virtual_time(cost, flow.weight);
        self.latest = self.latest.max(flow.start);
        if flow.jobs.is_empty() {
            self.weights -= u64::from(flow.weight);
        }
        self.waiting -= 1;
        self.running += 1;
        Some(Popped { tenant, job, cost, start })
    }

    /// Charges a job that never waited, and says when it starts.
    pub fn charge(&mut self, tenant: TenantKey, weight: u32, cost: Nanos) -> Virtual {
        let now = self.now;
        let flow = self.flows.entry(tenant).or_default();
        debug_assert!(!flow.in_line, "whoever is in line goes first");
        let start = flow.start.max(now);
        flow.start = start + virtual_time(cost, weight);
        flow.running += 1;
        self.latest = self.latest.max(flow.start);
        self.running += 1;
        start
    }

    /// A job of this tenant started, so virtual time moves on.
    pub fn passed(&mut self, tenant: TenantKey, weight: u32, cost: Nanos, start: Virtual) {
        let waits = self.flows.get(&tenant).is_some_and(|flow| !flow.jobs.is_empty());
        let weights = if waits { self.weights } else { self.weights + u64::from(weight) };
        self.now += Virtual::from(cost) * SCALE / Virtual::from(weights.max(1));
        self.now = self.now.max(start);
    }

    /// A job ended that was charged `cost` and took `took`.
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
            if took >= cost {
                flow.start += virtual_time(took - cost, weight);
            } else {
                // What was charged too much is given back, but not as a credit for later: not before now. Whoever is behind
                // now already, because its jobs are short and others' long, stays where it is.
                let least = self.now.min(flow.start);
                flow.start = flow.start.saturating_sub(virtual_time(cost - took, weight)).max(least);
            }
            self.latest = self.latest.max(flow.start);
            if flow.in_line {
                self.line.insert((flow.start, tenant));
            }
        }
        if idle {
            self.now = self.latest;
            self.flows.clear();
        } else if self.flows.len() > self.sweep_at {
            self.sweep();
        }
    }

    /// Forgets tenants that have no jobs and no debt.
    fn sweep(&mut self) {
        let now = self.now;
        self.flows.retain(|_, flow| !flow.jobs.is_empty() || flow.running > 0 || flow.start > now);
        self.sweep_at = 2 * self.flows.len() + IDLE_MIN;
    }

    /// Takes a job out of the middle.
    pub fn remove(&mut self, tenant: TenantKey, place: Place) {
        let flow = self.flows.get_mut(&tenant).expect("a waiting job has a flow");
        let (_, cost) = flow.jobs.remove(&place).expect("the caller knows the job's place");
        flow.work -= cost;
        self.waiting -= 1;
        if flow.in_line {
            self.line_work -= cost;
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
            flow.jobs.range(..place).take(LOOKED_AT_MAX).map(|(_, &(_, cost))| cost).sum()
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
}
