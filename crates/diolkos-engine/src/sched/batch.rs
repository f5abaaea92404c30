// SPDX-License-Identifier: Apache-2.0
//! Which jobs share a run.
//!
//! A run of an operation on many rows can cost less than as many runs on one: weights are read once for all of them. So when
//! a job is next, jobs of its class that wait for the same operation may join it. Who joins is who would be next of them: fair
//! queueing goes on among their tenants, so that a tenant's part of a run is bounded by its weight while others have jobs that
//! fit. Nobody waits for company: what waits when a slot is free is what there is, so that runs are of one job
//! when there is little to do, and grow with the load.
//!
//! A run of `r` rows is predicted to cost `fixed + r * per_row`, and each job is charged for its rows.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use diolkos_types::{BuildSpread, JobId};

use super::class::{ClassQueue, Place, Queued, Virtual, virtual_time};
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

/// Runs that were started and that no thread took yet: who comes until then joins.
#[derive(Debug, Default)]
pub(super) struct OpenRuns(HashMap<(Class, BatchKey), Open, BuildSpread>);

#[derive(Clone, Copy, Debug)]
struct Open {
    head: JobId,
    rows: u32,
    rows_max: u32,
}

impl OpenRuns {
    /// A run was started with so many rows. Of two with the same key only the newer one is joined.
    pub(super) fn open(&mut self, class: Class, head: JobId, batch: Batching, rows: u32) {
        if rows < batch.rows_max {
            self.0.insert((class, batch.key), Open { head, rows, rows_max: batch.rows_max });
        }
    }

    /// The run that a job joins, and the rows that it has then.
    pub(super) fn join(&mut self, class: Class, batch: Batching) -> Option<(JobId, u32)> {
        let open = self.0.get_mut(&(class, batch.key))?;
        let rows = open.rows.checked_add(batch.rows).filter(|&rows| rows <= open.rows_max)?;
        open.rows = rows;
        Some((open.head, rows))
    }

    /// Nobody joins the run of this job any more. There are never more of them than slots.
    pub(super) fn close(&mut self, head: JobId) {
        if !self.0.is_empty() {
            self.0.retain(|_, open| open.head != head);
        }
    }
}

/// The jobs that join one that is next and was taken out of the queue, in the order in which they would be next.
pub(super) fn mates(
    class: &ClassQueue,
    tenants: &Tenants,
    head: TenantKey,
    batch: Batching,
) -> Vec<(TenantKey, Place, Queued)> {
    let mut rows_left = batch.rows_max.saturating_sub(batch.rows);
    let mut chosen = Vec::new();
    if rows_left == 0 {
        return chosen;
    }
    // What each would have after the jobs that are chosen so far.
    let mut taken: HashMap<TenantKey, usize, BuildSpread> = HashMap::default();
    taken.insert(head, 1);
    let moved = |tenant, cost| virtual_time(cost, tenants.weight(tenant));
    let mut next: BinaryHeap<Reverse<(Virtual, TenantKey)>> = class
        .mates(batch.key)
        .map(|(start, tenant)| match tenant == head {
            true => Reverse((start + moved(head, batch.part_of_full()), head)),
            false => Reverse((start, tenant)),
        })
        .collect();
    let mut lists: HashMap<TenantKey, _, BuildSpread> = HashMap::default();
    while rows_left > 0
        && let Some(Reverse((start, tenant))) = next.pop()
    {
        let taken = taken.entry(tenant).or_insert(0);
        if *taken >= tenants.room(tenant) {
            continue;
        }
        let list = lists.entry(tenant).or_insert_with(|| class.mates_of(batch.key, tenant));
        // One that is too large for what is left waits; it is the first in the next run.
        let Some((place, queued)) = list.next() else { continue };
        let Some(mate) = queued.batch.filter(|mate| mate.rows <= rows_left) else { continue };
        rows_left -= mate.rows;
        *taken += 1;
        chosen.push((tenant, place, queued));
        next.push(Reverse((start + moved(tenant, mate.part_of_full()), tenant)));
    }
    chosen
}
