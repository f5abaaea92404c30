// SPDX-License-Identifier: Apache-2.0
//! The tenants of one class, and which of them is next: start-time fair queueing.
//!
//! Every tenant has a virtual time at which its next job starts. The one with the least is next; starting a job moves its
//! tenant on by cost / weight. The class's own virtual time moves on with every job as it would if the device served all
//! who wait at the same time, each by its weight, and is never behind the job that started last, but for what a tenant may be ahead (as in
//! WF2Q+: Bennett and Zhang 1997). A tenant that comes back after a pause starts there and not earlier, so that a pause is no credit; one that ran
//! ahead keeps its debt until virtual time is there. With start times alone it would not get there while ever new tenants
//! come, each with one job.
//!
//! ```text
//!              first job                    its tenant may not run more
//!  (no jobs) ────────────> in line ─────────────────────────────────────> aside
//!      ^                    │  ^                                            │
//!      └────last job────────┘  └──────────────── it may again ─────────────┘
//! ```

use std::collections::{BTreeMap, HashMap};

use diolkos_types::BuildSpread;
use slab::Slab;

use super::heap::Heap;
use super::{BatchKey, Nanos, TenantKey};

/// Virtual time: nanoseconds of device time by weight, in thousandths, so that weights up to a thousand lose nothing.
pub type Virtual = u128;

const SCALE: Nanos = 1000;

/// Where a job stands among its tenant's own: deadline first ([`Nanos::MAX`] = none), then arrival.
pub type Place = (Nanos, u64);

/// Jobs that are looked at to tell what stands before another one. Past it the wait is long anyway.
const LOOKED_AT_MAX: usize = 64;

/// Flows that are kept without jobs before anybody looks which of them have nothing to remember.
const IDLE_MIN: usize = 64;

/// A job that waits.
#[derive(Clone, Copy, Debug)]
struct Waits {
    /// Its number ([`super::jobs::Jobs`]).
    job: u32,
    /// Device time that it will take as far as one can tell while it waits: its part of a full batch, where it may be in one.
    cost: Nanos,
}

/// Jobs of a flow that may share a run.
#[derive(Debug)]
struct Mates {
    jobs: BTreeMap<Place, u32>,
    /// Where the flow stands in the list of those that have such jobs.
    at: usize,
}

/// What one tenant has in this class.
#[derive(Debug)]
struct Flow {
    tenant: TenantKey,
    jobs: BTreeMap<Place, Waits>,
    /// Those of them that may share runs.
    mates: BTreeMap<BatchKey, Mates>,
    /// Predicted device time of all.
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
    numbers: HashMap<TenantKey, u32, BuildSpread>,
    flows: Slab<Flow>,
    line: Heap<(Virtual, TenantKey)>,
    /// Flows with jobs that may share a run.
    mates: HashMap<BatchKey, Vec<u32>, BuildSpread>,
    /// Virtual time.
    now: Virtual,
    /// The latest start of a job that started, less what its tenant may be ahead: virtual time is never before it.
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

/// A tenant with jobs that may share a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// When its next job starts.
    pub(super) start: Virtual,
    pub(super) tenant: TenantKey,
    /// Number of its flow.
    pub(super) flow: usize,
}

impl Flow {
    fn new(tenant: TenantKey) -> Flow {
        Flow {
            tenant,
            jobs: BTreeMap::new(),
            mates: BTreeMap::new(),
            work: 0,
            start: 0,
            since: 0,
            in_line: false,
            aside: false,
            weight: 1,
            running: 0,
        }
    }

    /// It begins here, or where it is if that is later.
    fn begin_at(&mut self, at: Virtual) {
        if self.start < at {
            (self.start, self.since) = (at, at);
        }
    }
}

/// How far a tenant of this weight moves on for a job of this cost.
pub fn virtual_time(cost: Nanos, weight: u32) -> Virtual {
    by_weights(cost, u64::from(weight.max(1)))
}

fn by_weights(cost: Nanos, weights: u64) -> Virtual {
    // Nearly always small enough for one division of the CPU.
    match cost.checked_mul(SCALE) {
        Some(scaled) => Virtual::from(scaled / weights),
        None => Virtual::from(cost) * Virtual::from(SCALE) / Virtual::from(weights),
    }
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

    /// The number of the job that is next.
    #[must_use]
    pub fn next(&self) -> Option<usize> {
        let ((first, _), flow) = self.line.first()?;
        let flow = self.goes_on(first).unwrap_or(flow);
        self.flows[flow].jobs.first_key_value().map(|(_, waits)| waits.job as usize)
    }

    /// The flow of the tenant whose run started last, if it may go on although somebody's next job starts there.
    fn goes_on(&self, first: Virtual) -> Option<usize> {
        if self.slice == 0 {
            return None;
        }
        let flow = self.find(self.last?)?;
        let Flow { in_line, start, weight, .. } = self.flows[flow];
        (in_line && start < first + virtual_time(self.slice, weight)).then_some(flow)
    }

    /// A run of this tenant started.
    pub fn goes_on_with(&mut self, tenant: TenantKey) {
        self.last = Some(tenant);
    }

    /// Tenants with jobs of this key.
    pub(super) fn candidates(&self, key: BatchKey) -> impl Iterator<Item = Candidate> {
        self.mates.get(&key).into_iter().flatten().map(|&flow| {
            let Flow { start, tenant, .. } = self.flows[flow as usize];
            Candidate { start, tenant, flow: flow as usize }
        })
    }

    /// The numbers of a flow's jobs of this key, in their order.
    pub fn mates_of(&self, key: BatchKey, flow: usize) -> impl Iterator<Item = usize> {
        self.flows[flow]
            .mates
            .get(&key)
            .into_iter()
            .flat_map(|mates| mates.jobs.values())
            .map(|job| *job as usize)
    }

    fn find(&self, tenant: TenantKey) -> Option<usize> {
        self.numbers.get(&tenant).map(|flow| *flow as usize)
    }

    /// The number of a tenant's flow, which stays as long as jobs of it wait or run here.
    pub fn flow(&mut self, tenant: TenantKey) -> usize {
        let flows = &mut self.flows;
        let new = || u32::try_from(flows.insert(Flow::new(tenant))).expect("there are fewer flows than jobs");
        *self.numbers.entry(tenant).or_insert_with(new) as usize
    }

    /// A job waits. Whether its tenant is in line is said by [`ClassQueue::line_up`].
    pub fn push(
        &mut self,
        flow: usize,
        weight: u32,
        place: Place,
        job: usize,
        cost: Nanos,
        key: Option<BatchKey>,
    ) {
        let job = u32::try_from(job).expect("queues have bounds");
        let of = &mut self.flows[flow];
        if of.jobs.is_empty() {
            of.begin_at(self.now);
            of.weight = weight;
            self.weights += u64::from(weight);
        }
        of.jobs.insert(place, Waits { job, cost });
        of.work += cost;
        if of.in_line {
            self.line_work += cost;
        }
        if let Some(key) = key {
            let list = &mut self.mates;
            let mates = of.mates.entry(key).or_insert_with(|| {
                let list = list.entry(key).or_default();
                list.push(flow as u32);
                Mates { jobs: BTreeMap::new(), at: list.len() - 1 }
            });
            mates.jobs.insert(place, job);
        }
        self.waiting += 1;
    }

    /// The tenant has another weight.
    pub fn set_weight(&mut self, tenant: TenantKey, weight: u32) {
        let Some(flow) = self.find(tenant).filter(|flow| !self.flows[*flow].jobs.is_empty()) else { return };
        let flow = &mut self.flows[flow];
        self.weights = self.weights - u64::from(flow.weight) + u64::from(weight);
        if flow.in_line {
            self.line_weights = self.line_weights - u64::from(flow.weight) + u64::from(weight);
        }
        flow.weight = weight;
    }

    /// The tenant may run another job.
    pub fn line_up(&mut self, tenant: TenantKey) {
        if let Some(flow) = self.find(tenant) {
            self.line_up_flow(flow);
        }
    }

    /// The tenant of this flow may run another job.
    pub fn line_up_flow(&mut self, flow: usize) {
        let of = &mut self.flows[flow];
        if of.in_line {
            return;
        }
        let Some((_, first)) = of.jobs.first_key_value() else { return };
        if std::mem::take(&mut of.aside) {
            // What it could not use because of a bound of its own is no credit, but for one job, and what others may be ahead.
            let one = virtual_time(first.cost + self.slice, of.weight);
            of.begin_at(self.now.saturating_sub(one));
            self.latest = self.latest.max(of.start);
        }
        of.in_line = true;
        self.line.set(flow, (of.start, of.tenant));
        self.line_work += of.work;
        self.line_weights += u64::from(of.weight);
    }

    /// The tenant may not run more.
    pub fn step_out(&mut self, tenant: TenantKey) {
        if let Some(flow) = self.find(tenant) {
            let of = &mut self.flows[flow];
            of.aside = !of.jobs.is_empty();
            self.leave_line(flow);
        }
    }

    fn leave_line(&mut self, flow: usize) {
        let of = &mut self.flows[flow];
        if std::mem::take(&mut of.in_line) {
            self.line.remove(flow);
            self.line_work -= of.work;
            self.line_weights -= u64::from(of.weight);
        }
    }

    /// A job starts that never waited.
    pub fn start_at_once(&mut self, flow: usize, weight: u32, cost: Nanos) {
        let of = &mut self.flows[flow];
        // Whoever has jobs here has its place already.
        if of.jobs.is_empty() {
            of.begin_at(self.now);
        }
        self.start(flow, weight, cost);
    }

    /// A job starts that does not wait any more: it is charged, and virtual time moves on.
    pub fn start(&mut self, flow: usize, weight: u32, cost: Nanos) {
        self.running += 1;
        let of = &mut self.flows[flow];
        of.running += 1;
        let start = of.start;
        of.start += virtual_time(cost, weight);
        self.latest = self.latest.max(of.start);
        if of.in_line {
            self.line.set(flow, (of.start, of.tenant));
        }
        // Whoever may run ahead does not take virtual time along, or the others would lose what they are owed when they come back.
        let least = start.saturating_sub(virtual_time(self.slice, weight));
        self.started = self.started.max(least);
        self.now += self.passes(flow, weight, cost);
        self.now = self.now.max(least);
    }

    /// How far virtual time moves on for a job of a flow: as if all who have jobs were served at once, and it too.
    fn passes(&self, flow: usize, weight: u32, cost: Nanos) -> Virtual {
        let waits = !self.flows[flow].jobs.is_empty();
        let weights = if waits { self.weights } else { self.weights + u64::from(weight) };
        by_weights(cost, weights.max(1))
    }

    /// A job ended that was charged `cost` at this weight, and took `took`.
    pub fn correct(&mut self, flow: usize, weight: u32, cost: Nanos, took: Nanos) {
        self.running -= 1;
        // Where nobody is left who could owe or be owed, all begin anew.
        let idle = self.running == 0 && self.waiting == 0;
        let of = &mut self.flows[flow];
        of.running -= 1;
        if took != cost {
            // Where it would be if what the job took had been known. Whoever has no jobs begins at virtual time when it comes back, so
            // that what is given back is no credit for later.
            if took >= cost {
                of.start += virtual_time(took - cost, weight);
            } else {
                of.start = of.start.saturating_sub(virtual_time(cost - took, weight)).max(of.since);
            }
            self.latest = self.latest.max(of.start);
            if of.in_line {
                self.line.set(flow, (of.start, of.tenant));
            }
        }
        // And virtual time, or those who come would be sent behind all others by predictions that are too high.
        if took >= cost {
            self.now += self.passes(flow, weight, took - cost);
        } else {
            let passed = self.passes(flow, weight, cost - took);
            self.now = self.now.saturating_sub(passed).max(self.started);
        }
        if idle {
            self.now = self.latest;
            self.numbers.clear();
            self.flows.clear();
        } else if self.flows.len() > self.sweep_at {
            self.sweep();
        }
    }

    /// Forgets tenants that have no jobs and no debt. Virtual time may be corrected backwards, but never before the start of a job
    /// that started, so that is where a debt ends.
    fn sweep(&mut self) {
        let (paid, numbers) = (self.started, &mut self.numbers);
        self.flows.retain(|_, flow| {
            let stays = !flow.jobs.is_empty() || flow.running > 0 || flow.start > paid;
            if !stays {
                numbers.remove(&flow.tenant);
            }
            stays
        });
        self.sweep_at = 2 * self.flows.len() + IDLE_MIN;
    }

    /// Takes a job out, wherever it stands.
    pub fn take(&mut self, flow: usize, place: Place, key: Option<BatchKey>) {
        let of = &mut self.flows[flow];
        let Waits { cost, .. } = of.jobs.remove(&place).expect("the caller knows the job's place");
        of.work -= cost;
        self.waiting -= 1;
        if of.in_line {
            self.line_work -= cost;
        }
        let none = of.jobs.is_empty();
        if let Some(key) = key {
            self.forget_mate(key, flow, place);
        }
        if none {
            let of = &mut self.flows[flow];
            self.weights -= u64::from(of.weight);
            of.aside = false;
            self.leave_line(flow);
        }
    }

    fn forget_mate(&mut self, key: BatchKey, flow: usize, place: Place) {
        let of = &mut self.flows[flow].mates;
        let mates = of.get_mut(&key).expect("a job that may share a run is listed");
        mates.jobs.remove(&place);
        if !mates.jobs.is_empty() {
            return;
        }
        let at = mates.at;
        of.remove(&key);
        let list = self.mates.get_mut(&key).expect("and its flow");
        list.swap_remove(at);
        if let Some(&moved) = list.get(at) {
            self.flows[moved as usize].mates.get_mut(&key).expect("it is in the list").at = at;
        } else if list.is_empty() {
            self.mates.remove(&key);
        }
    }

    /// How many of a flow's jobs stand before this one, as far as that is counted, and what it is taken to cost.
    #[must_use]
    pub fn standing(&self, flow: usize, place: Place) -> Option<(usize, Nanos)> {
        let jobs = &self.flows[flow].jobs;
        Some((jobs.range(..place).take(LOOKED_AT_MAX).count(), jobs.get(&place)?.cost))
    }

    /// Predicted device time, on one slot, until a job at this place would start: what its tenant has before it, stretched
    /// by the weights of the others in line, and no more than everything there is.
    #[must_use]
    pub fn work_before(&self, tenant: TenantKey, weight: u32, place: Place) -> Nanos {
        let flow = self.find(tenant).map(|flow| &self.flows[flow]);
        let before = flow.map_or(0, |flow| {
            if flow.jobs.last_key_value().is_none_or(|(last, _)| *last < place) {
                return flow.work;
            }
            flow.jobs.range(..place).take(LOOKED_AT_MAX).map(|(_, waits)| waits.cost).sum()
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
