// SPDX-License-Identifier: Apache-2.0
//! How often tenants connect. Accepting costs the daemon more than connecting costs a client, so a tenant may have a rate
//! of its own (`tenants.NAME.connection_rate`). On its own sockets the daemon just does not accept more often: whoever connects waits in the
//! kernel's queue, which costs nothing. Where several tenants come, one that comes too often is refused.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diolkos_engine::{Meter, Rate};
use diolkos_types::TenantId;

/// When tenants connected.
#[derive(Debug)]
pub(super) struct Paces {
    meters: Mutex<HashMap<TenantId, Meter>>,
    /// What the meters' time counts from.
    born: Instant,
}

impl Default for Paces {
    fn default() -> Paces {
        Paces { meters: Mutex::default(), born: Instant::now() }
    }
}

impl Paces {
    fn meters(&self) -> MutexGuard<'_, HashMap<TenantId, Meter>> {
        // Nothing panics while it holds the lock.
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A tenant connected; says whether it may.
    pub(super) fn connects(&self, tenant: &TenantId, rate: Option<Rate>) -> bool {
        let Some(rate) = rate else { return true };
        let now = self.now();
        self.meters().entry(tenant.clone()).or_default().admit(now, rate).is_ok()
    }

    /// How long it is until the tenant may connect again; `None`: it may.
    pub(super) fn wait(&self, tenant: &TenantId, rate: Option<Rate>) -> Option<Duration> {
        let (rate, now) = (rate?, self.now());
        self.meters().get(tenant)?.peek(now, rate)
    }

    /// The tenant is gone.
    pub(super) fn forget(&self, tenant: &TenantId) {
        self.meters().remove(tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_has_a_pace_of_its_own() {
        let paces = Paces::default();
        let (a, b) = (TenantId::new("a"), TenantId::new("b"));
        let rate = Some(Rate::new(Duration::from_secs(3600), 2));
        assert!(paces.wait(&a, rate).is_none());
        assert!(paces.connects(&a, rate) && paces.connects(&a, rate) && !paces.connects(&a, rate));
        assert!(paces.wait(&a, rate).is_some() && paces.wait(&b, rate).is_none());
        assert!(paces.connects(&a, None) && paces.connects(&b, rate));
        paces.forget(&a);
        assert!(paces.connects(&a, rate), "one of the same name is another one");
    }
}
