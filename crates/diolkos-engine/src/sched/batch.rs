// SPDX-License-Identifier: Apache-2.0
//! Which jobs share a run.
//!
//! A run of an operation on many rows can cost less than as many runs on one: weights are read once for all of them. So when
//! a job is next, jobs of its class that wait for the same operation may join it. Who joins is who would be next of them: fair
//! queueing goes on among their tenants, so that a tenant's part of a run is bounded by its weight while others have jobs that
//! fit. With little to do runs are of one job, and they grow with the load: what waits when a slot is free is what there is, who comes before
//! a thread took a run joins it, and while many are usual a run is held up for a moment ([`super::crowd`]), if nobody else waits for the slot.
//!
//! A run of `r` rows is predicted to cost `fixed + r * per_row`, and each job is charged for its rows.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use diolkos_types::{BuildSpread, JobId};

use super::class::{Candidate, ClassQueue, Virtual, virtual_time};
use super::crowd::Hold;
use super::jobs::{Job, Jobs};
use super::tenants::Tenants;
use super::{Class, Nanos, TenantKey};

/// Jobs with the same key may share a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchKey {
    /// What they run.
    pub operation: u64,
    /// The only tenant whose jobs may be in the run; `None` = anybody's who has the same key.
    pub tenant: Option<TenantKey>,
}

/// What a job may share a run with, and what such a run costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Jobs with the same one.
    pub key: BatchKey,
    /// Rows that it has; at least one.
    pub rows: u32,
    /// Rows that a run may have together.
    pub rows_max: u32,
    /// Device time of a run, whatever its rows.
    pub fixed: Nanos,
    /// Device time for each row, on top of that.
    pub per_row: Nanos,
}

impl Batching {
    /// What this job is charged in a run of so many rows.
    #[must_use]
    pub fn part_of(&self, rows: u32) -> Nanos {
        let fixed = u128::from(self.fixed) * u128::from(self.rows) / u128::from(rows.max(1));
        let own = u128::from(self.per_row) * u128::from(self.rows);
        u64::try_from(fixed + own).unwrap_or(u64::MAX)
    }

    /// What it is charged in a run that is full.
    #[must_use]
    pub fn part_of_full(&self) -> Nanos {
        self.part_of(self.rows_max.max(self.rows))
    }
}

/// Runs that were started and that no thread took yet: who comes until then joins. There are never more of them than slots.
#[derive(Debug, Default)]
pub(super) struct OpenRuns(HashMap<(Class, BatchKey), Open, BuildSpread>);

#[derive(Clone, Copy, Debug)]
struct Open {
    head: JobId,
    rows: u32,
    rows_max: u32,
    jobs: usize,
    /// No thread takes it yet.
    hold: Option<Hold>,
}

/// A run that a job joins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined {
    /// The job that it began with.
    pub(super) head: JobId,
    /// Rows that it has now.
    pub(super) rows: u32,
    /// It was held up, and has enough now, or one that can't wait.
    pub(super) goes: bool,
}

impl OpenRuns {
    /// A run was started with so many rows and jobs. Of two with the same key only the newer one is joined, so an older one that is
    /// held up goes; it is returned.
    #[must_use]
    pub(super) fn open(
        &mut self,
        class: Class,
        head: JobId,
        batch: Batching,
        (rows, jobs): (u32, usize),
        hold: Option<Hold>,
    ) -> Option<JobId> {
        if rows >= batch.rows_max {
            return None;
        }
        let open = Open { head, rows, rows_max: batch.rows_max, jobs, hold };
        let older = self.0.insert((class, batch.key), open)?;
        older.hold.map(|_| older.head)
    }

    /// Whether a run is held up that a job may join.
    pub(super) fn is_held(&self, class: Class, batch: Batching) -> bool {
        self.0.get(&(class, batch.key)).is_some_and(|open| open.hold.is_some())
    }

    /// Lets a job join, if there is a run with room for it.
    pub(super) fn join(&mut self, class: Class, batch: Batching, deadline: Option<Nanos>) -> Option<Joined> {
        let open = self.0.get_mut(&(class, batch.key))?;
        let rows = open.rows.checked_add(batch.rows).filter(|&rows| rows <= open.rows_max)?;
        open.rows = rows;
        open.jobs += 1;
        let (jobs, hurries) =
            (open.jobs, |hold: &Hold| deadline.is_some_and(|deadline| deadline <= hold.until));
        let goes = open.hold.take_if(|hold| jobs >= hold.jobs || hurries(hold)).is_some();
        Some(Joined { head: open.head, rows, goes })
    }

    /// When the first run is due that is held up.
    pub(super) fn first_due(&self) -> Option<Nanos> {
        self.0.values().filter_map(|open| open.hold).map(|hold| hold.until).min()
    }

    /// Lets runs go that were held up, until now; `None` = all of them. In the order of their jobs.
    pub(super) fn let_go(&mut self, now: Option<Nanos>, mut goes: impl FnMut(JobId)) {
        let is_due = |hold: &mut Hold| now.is_none_or(|now| hold.until <= now);
        if self.first_due().is_none_or(|due| now.is_some_and(|now| now < due)) {
            return;
        }
        let held = self.0.values_mut().filter_map(|open| open.hold.take_if(is_due).map(|_| open.head));
        let mut going: Vec<JobId> = held.collect();
        going.sort_unstable();
        going.into_iter().for_each(&mut goes);
    }

    /// Whether this run is held up.
    #[cfg(test)]
    pub(super) fn holds(&self, head: JobId) -> bool {
        self.0.values().any(|open| open.head == head && open.hold.is_some())
    }

    /// Nobody joins the run of this job any more.
    pub(super) fn close(&mut self, head: JobId) {
        if !self.0.is_empty() {
            self.0.retain(|_, open| open.head != head);
        }
    }
}

/// The jobs that join one that is next and was taken out of its class, in the order in which they would be next.
pub(super) fn mates(
    class: &ClassQueue,
    jobs: &Jobs,
    tenants: &Tenants,
    head: &Job,
    batch: Batching,
) -> Vec<usize> {
    let mut rows_left = batch.rows_max.saturating_sub(batch.rows);
    let mut chosen = Vec::new();
    if rows_left == 0 {
        return chosen;
    }
    let moved =
        |job: &Job, batch: Batching| virtual_time(batch.part_of_full(), tenants.of(job.tenant).share.weight);
    let next = class.candidates(batch.key).map(|Candidate { start, tenant, flow }| {
        let start = if flow == head.flow { start + moved(head, batch) } else { start };
        Reverse((start, tenant, flow as u64))
    });
    let mut next: BinaryHeap<Reverse<(Virtual, TenantKey, u64)>> = next.collect();
    // Of each flow: its jobs, and how many are in the run.
    let mut flows: HashMap<u64, _, BuildSpread> = HashMap::default();
    while rows_left > 0
        && let Some(Reverse((start, tenant, flow))) = next.pop()
    {
        let number = flow as usize;
        let (list, taken) = flows
            .entry(flow)
            .or_insert_with(|| (class.mates_of(batch.key, number), usize::from(number == head.flow)));
        let Some(mate) = list.next() else { continue };
        let job = &jobs[mate];
        if *taken >= tenants.of(job.tenant).room() {
            continue;
        }
        // One that is too large for what is left waits; it is the first in the next run.
        let Some(own) = job.batch.filter(|own| own.rows <= rows_left) else { continue };
        rows_left -= own.rows;
        *taken += 1;
        chosen.push(mate);
        next.push(Reverse((start + moved(job, own), tenant, flow)));
    }
    chosen
}
