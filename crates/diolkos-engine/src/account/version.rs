// SPDX-License-Identifier: Apache-2.0
//! What happened to one version of one model, tenant by tenant.
//!
//! A request is counted once, in its tenant's account. What everybody did is the sum of all accounts, made when somebody
//! asks for it: requests pay for one account, and tenants don't fight over the same counters.
//!
//! Places of tenants that are gone are given on. The first request of the new tenant finds the account of the old one there,
//! adds it to what all who are gone did, and begins at zero. By then nobody else looks at it: a place is free when the last
//! session and the last job of its tenant are gone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::by_tenant::ByTenant;
use super::model::Account;
use super::seat::AccountKey;
use super::{Histogram, ModelStats};
use crate::predict::Predictor;
use crate::sched::Nanos;

/// What happened to one version of one model. Survives a reload of the version.
#[derive(Debug, Default)]
pub struct VersionStats {
    /// Of those who used it.
    tenants: ByTenant<Place>,
    /// What tenants did that are gone. Locked while an account changes hands, and by whoever wants the sum of all, so
    /// that nothing is in it twice.
    departed: Mutex<Account>,
    service: Service,
    predictor: Predictor,
}

/// An account, and whose it is.
#[derive(Debug)]
struct Place {
    /// A tenant's key, or [`Place::NOBODY`].
    owner: AtomicU64,
    account: Account,
}

impl Place {
    const NOBODY: u64 = u64::MAX;

    fn is_of(&self, account: AccountKey) -> bool {
        // Acquire: whoever sees the owner sees the counters at zero.
        self.owner.load(Ordering::Acquire) == account.owner().0
    }
}

impl Default for Place {
    fn default() -> Place {
        Place { owner: AtomicU64::new(Place::NOBODY), account: Account::default() }
    }
}

impl VersionStats {
    /// The account that requests of the tenant are counted in.
    pub(crate) fn of(&self, tenant: AccountKey) -> &Account {
        let place = self.tenants.of(tenant.seat());
        if !place.is_of(tenant) {
            self.hand_over(place, tenant);
        }
        &place.account
    }

    #[cold]
    fn hand_over(&self, place: &Place, tenant: AccountKey) {
        let departed = self.departed();
        if !place.is_of(tenant) {
            departed.absorb(&place.account);
            place.account.clear();
            place.owner.store(tenant.owner().0, Ordering::Release);
        }
    }

    fn departed(&self) -> MutexGuard<'_, Account> {
        // Nothing panics while it holds the lock.
        self.departed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened to requests of the tenant until now. Asking for it makes no account.
    pub(crate) fn own(&self, tenant: AccountKey) -> ModelStats {
        let place = self.tenants.find(tenant.seat()).filter(|place| place.is_of(tenant));
        ModelStats::sum(place.map(|place| &place.account))
    }

    /// What happened to everybody's requests until now.
    #[must_use]
    pub fn everybody(&self) -> ModelStats {
        let departed = self.departed();
        let accounts = self.tenants.all().map(|place| &place.account);
        ModelStats::sum(accounts.chain([&*departed]))
    }

    /// Counts one run of the operation for the tenant; it took `time` on its device.
    pub(crate) fn executed(&self, tenant: AccountKey, time: Duration) {
        self.of(tenant).executed();
        self.service.add(time);
    }

    /// Counts one run that several requests shared, once for each tenant that had some.
    pub(crate) fn executed_together(&self, tenants: impl Iterator<Item = AccountKey>, time: Duration) {
        let mut counted: Vec<AccountKey> = Vec::new();
        for tenant in tenants {
            if !counted.contains(&tenant) {
                counted.push(tenant);
                self.of(tenant).executed();
            }
        }
        self.service.add(time);
    }

    /// What a job with so many bytes of input will cost in device time; `warm_up` is what a run took when the version was
    /// loaded.
    pub(crate) fn predict(&self, bytes: u64, warm_up: Nanos) -> Nanos {
        self.predictor.predict(bytes, warm_up)
    }

    /// A job with so many bytes of input succeeded, and took so long.
    pub(crate) fn learn(&self, bytes: u64, time: Duration) {
        self.predictor.learn(bytes, time);
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
        self.times.count(time);
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
    use crate::sched::TenantKey;

    const fn key(seat: u32, owner: u64) -> AccountKey {
        AccountKey::new(seat, TenantKey(owner))
    }

    const A: AccountKey = key(0, 0);
    const B: AccountKey = key(7, 9);

    #[test]
    fn everybody_is_the_sum_and_asking_makes_no_account() {
        let stats = VersionStats::default();
        stats.of(A).failed(Code::Busy, Duration::from_nanos(3));
        stats.of(B).failed(Code::Busy, Duration::from_nanos(4));
        stats.executed(B, Duration::ZERO);
        assert_eq!((stats.own(A).fail.nanoseconds(), stats.own(B).fail.nanoseconds()), (3, 4));
        assert_eq!((stats.everybody().fail.count(), stats.everybody().fail.nanoseconds()), (2, 7));
        assert_eq!(stats.own(A).executions.into_inner(), 0);
        assert_eq!(stats.own(key(3, 3)).fail.count(), 0);
        assert_eq!(stats.tenants.all().count(), 2);
    }

    #[test]
    fn a_place_that_is_given_on_begins_at_zero_and_the_sum_keeps_everything() {
        let stats = VersionStats::default();
        stats.executed(A, Duration::ZERO);
        stats.of(A).failed(Code::Busy, Duration::from_nanos(3));
        let later = key(A.seat(), 100);
        assert_eq!(stats.own(later).fail.count(), 0, "before it asked for anything");
        stats.of(later).failed(Code::Busy, Duration::from_nanos(4));
        assert_eq!(stats.own(later).fail.nanoseconds(), 4);
        assert_eq!(stats.own(A).fail.count(), 0, "whoever is gone has nothing");
        let sum = stats.everybody();
        assert_eq!((sum.fail.nanoseconds(), sum.failures.get(Code::Busy)), (7, 2));
        assert_eq!(sum.executions.into_inner(), 1);
    }

    #[test]
    fn the_first_requests_of_a_new_tenant_race_and_none_is_lost() {
        let stats = VersionStats::default();
        for owner in 0..50 {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| stats.executed(key(0, owner), Duration::ZERO));
                }
            });
            assert_eq!(stats.own(key(0, owner)).executions.into_inner(), 4);
        }
        assert_eq!(stats.everybody().executions.into_inner(), 200);
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
