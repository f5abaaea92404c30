// SPDX-License-Identifier: Apache-2.0
//! How much of each tenant waits and runs, and how much may. Tenants of which nothing does are not kept.

use std::collections::HashMap;

use diolkos_types::BuildSpread;

use super::{Share, TenantKey};

#[derive(Clone, Copy, Debug)]
struct Counts {
    waiting: usize,
    running: usize,
    share: Share,
}

/// Tenants that have something here.
#[derive(Debug, Default)]
pub(super) struct Tenants(HashMap<TenantKey, Counts, BuildSpread>);

impl Tenants {
    fn counts(&self, tenant: TenantKey) -> Option<&Counts> {
        self.0.get(&tenant)
    }

    /// Says what a tenant may have from now on.
    pub(super) fn allow(&mut self, tenant: TenantKey, share: Share) {
        let share = Share { running_max: share.running_max.max(1), weight: share.weight.max(1), ..share };
        self.0.entry(tenant).or_insert(Counts { waiting: 0, running: 0, share }).share = share;
    }

    /// Whether it may run another job.
    pub(super) fn has_room(&self, tenant: TenantKey) -> bool {
        self.room(tenant) > 0
    }

    /// How many jobs more it may run.
    pub(super) fn room(&self, tenant: TenantKey) -> usize {
        let room = |counts: &Counts| counts.share.running_max.saturating_sub(counts.running);
        self.counts(tenant).map_or(usize::MAX, room)
    }

    pub(super) fn weight(&self, tenant: TenantKey) -> u32 {
        self.counts(tenant).map_or(1, |counts| counts.share.weight)
    }

    pub(super) fn waiting(&self, tenant: TenantKey) -> usize {
        self.counts(tenant).map_or(0, |counts| counts.waiting)
    }

    /// One more of its jobs waits.
    pub(super) fn waits(&mut self, tenant: TenantKey) {
        self.change(tenant, |counts| counts.waiting += 1);
    }

    /// One less of its jobs waits.
    pub(super) fn waits_no_more(&mut self, tenant: TenantKey) {
        self.change(tenant, |counts| counts.waiting -= 1);
    }

    /// One more of its jobs runs.
    pub(super) fn runs(&mut self, tenant: TenantKey) {
        self.change(tenant, |counts| counts.running += 1);
    }

    /// One of its jobs that ran has ended.
    pub(super) fn finished(&mut self, tenant: TenantKey) {
        self.change(tenant, |counts| counts.running -= 1);
    }

    fn change(&mut self, tenant: TenantKey, change: impl FnOnce(&mut Counts)) {
        change(self.0.get_mut(&tenant).expect("a tenant with jobs is known"));
    }

    /// Forgets a tenant of which nothing waits or runs.
    pub(super) fn forget_idle(&mut self, tenant: TenantKey) {
        if self.counts(tenant).is_some_and(|counts| counts.waiting == 0 && counts.running == 0) {
            self.0.remove(&tenant);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
