// SPDX-License-Identifier: Apache-2.0
//! What happened to one version of one model, tenant by tenant.
//!
//! A request is counted once, in its tenant's account. What everybody did is the sum of all accounts, made when somebody
//! asks for it: requests pay for one account, and tenants don't fight over the same counters.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::by_tenant::ByTenant;
use super::{Histogram, ModelStats};
use crate::sched::TenantKey;

/// What happened to one version of one model. Survives a reload of the version.
#[derive(Debug, Default)]
pub struct VersionStats {
    /// Of those who used it.
    tenants: ByTenant<ModelStats>,
    service: Service,
}

impl VersionStats {
    /// The account that requests of the tenant are counted in.
    pub(crate) fn of(&self, tenant: TenantKey) -> &ModelStats {
        self.tenants.of(tenant)
    }

    /// What happened to requests of the tenant until now. Asking for it makes no account.
    pub(crate) fn own(&self, tenant: TenantKey) -> ModelStats {
        ModelStats::sum(self.tenants.find(tenant))
    }

    /// What happened to everybody's requests until now.
    #[must_use]
    pub fn everybody(&self) -> ModelStats {
        ModelStats::sum(self.tenants.all())
    }

    /// Counts one run of the operation for the tenant; it took `time` on its device.
    pub(crate) fn executed(&self, tenant: TenantKey, time: Duration) {
        self.of(tenant).executed();
        self.service.add(time);
    }

    /// Whether enough runs were seen to say that nearly all are short (see [`crate::limits::RUN_HERE_P99`]).
    pub(crate) fn is_short(&self) -> bool {
        self.service.short.load(Ordering::Relaxed)
    }
}

/// Service times on the device, whoever asked for it. Only the scheduler uses them, and it wants to know the operation.
///
/// Remembers whether the 99th percentile is short, and looks again now and then, because walking a histogram for
/// every request would cost more than a short run.
#[derive(Debug, Default)]
struct Service {
    times: Histogram,
    runs: AtomicU64,
    short: AtomicBool,
}

impl Service {
    /// Runs between two looks, and before the first.
    const INTERVAL: u64 = 64;

    fn add(&self, time: Duration) {
        self.times.add(time);
        let runs = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        if runs.is_multiple_of(Self::INTERVAL) {
            let p99 = self.times.quantile_bound(0.99).unwrap_or(Duration::MAX);
            self.short.store(p99 <= crate::limits::RUN_HERE_P99, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use diolkos_types::Code;

    use super::*;

    const A: TenantKey = TenantKey(0);
    const B: TenantKey = TenantKey(7);

    #[test]
    fn everybody_is_the_sum_and_asking_makes_no_account() {
        let stats = VersionStats::default();
        stats.of(A).failed(Code::Busy, Duration::from_nanos(3));
        stats.of(B).failed(Code::Busy, Duration::from_nanos(4));
        stats.executed(B, Duration::ZERO);
        assert_eq!((stats.own(A).fail.nanoseconds(), stats.own(B).fail.nanoseconds()), (3, 4));
        assert_eq!((stats.everybody().fail.count(), stats.everybody().fail.nanoseconds()), (2, 7));
        assert_eq!(stats.own(A).executions.into_inner(), 0);
        assert_eq!(stats.own(TenantKey(3)).fail.count(), 0);
        assert_eq!(stats.tenants.all().count(), 2);
    }

    #[test]
    fn short_only_after_enough_runs() {
        let stats = VersionStats::default();
        for _ in 0..63 {
            stats.executed(A, Duration::from_micros(1));
        }
        assert!(!stats.is_short());
        // Whose it is does not matter: it is the operation that is short.
        stats.executed(B, Duration::from_micros(1));
        assert!(stats.is_short());
        for _ in 0..64 {
            stats.executed(A, Duration::from_millis(1));
        }
        assert!(!stats.is_short());
    }
}
