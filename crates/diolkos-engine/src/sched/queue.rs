// SPDX-License-Identifier: Apache-2.0
//! A queue in which tenants take turns, and from whose middle a job can be taken.

use std::collections::{BTreeMap, HashMap, VecDeque};

use diolkos_types::JobId;

use super::{Class, TenantKey};

/// Where a job stands among its tenant's own: class first, then arrival.
pub(super) type Place = (Class, u64);

/// Waiting jobs of all tenants. A tenant is in `turns` exactly while it has a job here.
#[derive(Debug, Default)]
pub(super) struct TurnQueue {
    tenants: HashMap<TenantKey, BTreeMap<Place, JobId>>,
    turns: VecDeque<TenantKey>,
    arrivals: u64,
}

impl TurnQueue {
    pub(super) fn len_of(&self, tenant: TenantKey) -> usize {
        self.tenants.get(&tenant).map_or(0, BTreeMap::len)
    }

    pub(super) fn push(&mut self, tenant: TenantKey, class: Class, job: JobId) -> Place {
        let place = (class, self.arrivals);
        self.arrivals += 1;
        let jobs = self.tenants.entry(tenant).or_default();
        if jobs.is_empty() {
            self.turns.push_back(tenant);
        }
        jobs.insert(place, job);
        place
    }

    /// The first job of the tenant whose turn it is. That tenant goes to the end of the line.
    pub(super) fn pop(&mut self) -> Option<JobId> {
        let tenant = self.turns.pop_front()?;
        let jobs = self.tenants.get_mut(&tenant).expect("a tenant in line has jobs");
        let (_, job) = jobs.pop_first().expect("a tenant in line has jobs");
        if jobs.is_empty() {
            self.tenants.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        Some(job)
    }

    pub(super) fn remove(&mut self, tenant: TenantKey, place: Place) {
        let jobs = self.tenants.get_mut(&tenant).expect("the caller knows the tenant's place");
        jobs.remove(&place);
        if jobs.is_empty() {
            self.tenants.remove(&tenant);
            // Linear in tenants that wait, which is rare enough: it happens only when a cancelled or late
            // job was its tenant's last.
            self.turns.retain(|&other| other != tenant);
        }
    }
}
