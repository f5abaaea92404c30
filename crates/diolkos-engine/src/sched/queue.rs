// SPDX-License-Identifier: Apache-2.0
//! Who is next: tenants take turns, each within its own bound of jobs that run at once. A job can be taken from the
//! middle.
//!
//! ```text
//!              first job                      bound reached
//!  (no jobs) ───────────> in line ──its turn──────────────> blocked
//!      ^                   │  ^                               │
//!      └────last job───────┘  └──── one of its jobs ends ─────┘
//! ```

use std::collections::{BTreeMap, VecDeque};

use diolkos_types::JobId;

use super::{Class, TenantKey};

/// Where a job stands among its tenant's own: class first, then arrival.
pub(super) type Place = (Class, u64);

/// What one tenant has here.
#[derive(Debug)]
struct Line {
    jobs: BTreeMap<Place, JobId>,
    running: usize,
    /// Jobs of it that may run at once, as the last one that arrived said.
    running_max: usize,
    /// It has jobs, and is not in line because as many run as may.
    blocked: bool,
}

impl Line {
    fn has_room(&self) -> bool {
        self.running < self.running_max
    }
}

/// Waiting jobs of all tenants, and how many of each run. A tenant is in `turns` exactly while it has a job here and is
/// not blocked.
#[derive(Debug, Default)]
pub(super) struct TurnQueue {
    /// By the number in the key: keys are given out from 0 up.
    tenants: Vec<Line>,
    turns: VecDeque<TenantKey>,
    arrivals: u64,
}

impl TurnQueue {
    fn line(&mut self, tenant: TenantKey) -> &mut Line {
        let index = tenant.0 as usize;
        while self.tenants.len() <= index {
            let jobs = BTreeMap::new();
            self.tenants.push(Line { jobs, running: 0, running_max: usize::MAX, blocked: false });
        }
        &mut self.tenants[index]
    }

    /// Says how many jobs of a tenant may run at once from now on, and returns whether that lets one go that was blocked.
    pub(super) fn allow(&mut self, tenant: TenantKey, running_max: usize) -> bool {
        self.line(tenant).running_max = running_max;
        self.unblock(tenant)
    }

    pub(super) fn len_of(&mut self, tenant: TenantKey) -> usize {
        self.line(tenant).jobs.len()
    }

    /// Whether a job of this tenant that arrives now would be next.
    pub(super) fn would_be_next(&mut self, tenant: TenantKey) -> bool {
        self.turns.is_empty() && self.line(tenant).has_room()
    }

    pub(super) fn push(&mut self, tenant: TenantKey, class: Class, job: JobId) -> Place {
        let place = (class, self.arrivals);
        self.arrivals += 1;
        let line = self.line(tenant);
        let first = line.jobs.is_empty();
        line.jobs.insert(place, job);
        if first {
            self.turns.push_back(tenant);
        }
        place
    }

    /// The first job of the tenant whose turn it is, which counts as running from now on. That tenant goes to the end of
    /// the line.
    pub(super) fn pop(&mut self) -> Option<JobId> {
        loop {
            let tenant = self.turns.pop_front()?;
            let line = self.line(tenant);
            if !line.has_room() {
                line.blocked = true;
                continue;
            }
            let (_, job) = line.jobs.pop_first().expect("a tenant in line has jobs");
            line.running += 1;
            if !line.jobs.is_empty() {
                self.turns.push_back(tenant);
            }
            return Some(job);
        }
    }

    /// A job that never waited began to run.
    pub(super) fn started(&mut self, tenant: TenantKey) {
        self.line(tenant).running += 1;
    }

    /// A job of this tenant that ran has ended.
    pub(super) fn finished(&mut self, tenant: TenantKey) {
        let line = self.line(tenant);
        assert!(line.running > 0, "a job finished that never started");
        line.running -= 1;
        self.unblock(tenant);
    }

    fn unblock(&mut self, tenant: TenantKey) -> bool {
        let line = self.line(tenant);
        let unblocked = line.blocked && line.has_room();
        if unblocked {
            line.blocked = false;
            self.turns.push_back(tenant);
        }
        unblocked
    }

    pub(super) fn remove(&mut self, tenant: TenantKey, place: Place) {
        let line = self.line(tenant);
        let removed = line.jobs.remove(&place);
        debug_assert!(removed.is_some(), "the caller knows the job's place");
        if !line.jobs.is_empty() {
            return;
        }
        if line.blocked {
            line.blocked = false;
        } else {
            // Linear in tenants that wait, which is rare enough: it happens only when a cancelled or late
            // job was its tenant's last.
            self.turns.retain(|&other| other != tenant);
        }
    }
}
