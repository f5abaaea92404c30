// SPDX-License-Identifier: Apache-2.0
//! How much of each tenant waits and runs, and how much may. Tenants of which nothing does are not kept.

use std::collections::HashMap;

use diolkos_types::BuildSpread;
use slab::Slab;

use super::{Share, TenantKey};

/// One tenant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tenant {
    pub(super) key: TenantKey,
    pub(super) waiting: usize,
    pub(super) running: usize,
    pub(super) share: Share,
}

impl Tenant {
    /// How many jobs more it may run.
    pub(super) fn room(&self) -> usize {
        self.share.running_max.saturating_sub(self.running)
    }

    /// Whether it may run another job.
    pub(super) fn has_room(&self) -> bool {
        self.room() > 0
    }
}

/// Tenants that have something here, each with a number that is its own meanwhile.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    numbers: HashMap<TenantKey, u32, BuildSpread>,
    tenants: Slab<Tenant>,
}

impl Tenants {
    /// Says what a tenant may have from now on, and gives its number and what it was.
    pub(super) fn allow(&mut self, key: TenantKey, share: Share) -> (usize, Tenant) {
        let share = Share { running_max: share.running_max.max(1), weight: share.weight.max(1), ..share };
        let tenants = &mut self.tenants;
        let number = *self.numbers.entry(key).or_insert_with(|| {
            let new = tenants.insert(Tenant { key, waiting: 0, running: 0, share });
            u32::try_from(new).expect("there are fewer tenants than jobs")
        });
        let number = number as usize;
        let before = tenants[number];
        tenants[number].share = share;
        (number, before)
    }

    /// One of them.
    pub(super) fn of(&self, number: usize) -> &Tenant {
        &self.tenants[number]
    }

    /// How many jobs of a tenant wait.
    pub(super) fn waiting(&self, key: TenantKey) -> usize {
        self.numbers.get(&key).map_or(0, |number| self.tenants[*number as usize].waiting)
    }

    /// One more of its jobs waits.
    pub(super) fn waits(&mut self, number: usize) {
        self.tenants[number].waiting += 1;
    }

    /// One less of its jobs waits.
    pub(super) fn waits_no_more(&mut self, number: usize) {
        self.tenants[number].waiting -= 1;
    }

    /// One more of its jobs runs.
    pub(super) fn runs(&mut self, number: usize) {
        self.tenants[number].running += 1;
    }

    /// One of its jobs that ran has ended.
    pub(super) fn finished(&mut self, number: usize) {
        self.tenants[number].running -= 1;
    }

    /// Forgets a tenant of which nothing waits or runs.
    pub(super) fn forget_idle(&mut self, number: usize) {
        let Tenant { key, waiting, running, .. } = self.tenants[number];
        if waiting == 0 && running == 0 {
            self.tenants.remove(number);
            self.numbers.remove(&key);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.tenants.len()
    }
}
