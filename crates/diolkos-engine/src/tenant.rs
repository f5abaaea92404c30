// SPDX-License-Identifier: Apache-2.0
//! Tenants: whom everything is charged to.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use diolkos_types::{Code, Status, TenantId};

use crate::account::{AccountKey, Failures, Gauge, Seat, Total, saturating_ns};
use crate::explain::History;
use crate::lease::Policy;
use crate::memory::Memory;
use crate::rate::{ByteRate, Meter};
use crate::sched::TenantKey;
use crate::store::{Behalf, Loaded};

/// Told of limits and permissions that a tenant ran into.
pub(crate) type Refusals = Box<dyn Fn(&TenantId, &Status) + Send + Sync>;

/// What one tenant has and used.
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    seat: Seat,
    pub(crate) requests: Total,
    pub(crate) failures: Failures,
    pub(crate) in_flight: Gauge,
    pub(crate) sessions: Gauge,
    /// Requests that wait for a model to be loaded.
    pub(crate) parked: Gauge,
    /// Its part of the memory for requests.
    pub(crate) memory: Arc<Memory>,
    /// Bytes of the regions that it registered.
    pub(crate) regions: Arc<Memory>,
    device_ns: AtomicU64,
    pub(crate) history: History,
    meter: Meter,
    /// Weights that were loaded because it asked.
    loaded: Arc<Loaded>,
    /// Of bytes, and how many per second there may be (0 = any number): beside the policy, because every request asks.
    bytes: Meter,
    bytes_rate: AtomicU64,
    /// What the meter's time counts from.
    born: Instant,
    refusals: Arc<OnceLock<Refusals>>,
    /// A lock that no other tenant's requests take.
    policy: RwLock<Arc<Policy>>,
}

impl Tenant {
    /// A tenant with a part of the memory for requests.
    pub(crate) fn new(
        id: TenantId,
        seat: Seat,
        policy: Policy,
        requests: &Arc<Memory>,
        refusals: &Arc<OnceLock<Refusals>>,
    ) -> Tenant {
        let tenant = Tenant {
            id,
            seat,
            requests: Total::default(),
            failures: Failures::default(),
            in_flight: Gauge::default(),
            sessions: Gauge::default(),
            parked: Gauge::default(),
            memory: requests.part(),
            regions: Memory::new(u64::MAX, u64::MAX).part(),
            device_ns: AtomicU64::new(0),
            history: History::default(),
            meter: Meter::default(),
            loaded: Arc::default(),
            bytes: Meter::default(),
            bytes_rate: AtomicU64::new(0),
            refusals: refusals.clone(),
            born: Instant::now(),
            policy: RwLock::new(Arc::new(Policy::nothing())),
        };
        tenant.set_policy(policy);
        tenant
    }

    /// The scheduler's name for it.
    pub(crate) fn key(&self) -> TenantKey {
        self.seat.key().owner()
    }

    /// What to look its accounts up with.
    pub(crate) fn account(&self) -> AccountKey {
        self.seat.key()
    }

    /// Counts a request that never became one.
    pub(crate) fn count_refusal(&self, status: &Status) {
        self.requests.add(Duration::ZERO);
        self.failures.add(status.code());
        self.refused(status);
    }

    /// Tells whoever watches that it was refused something.
    pub(crate) fn refused(&self, status: &Status) {
        if let Some(watch) = self.refusals.get() {
            watch(&self.id, status);
        }
    }

    /// What it may have now.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        // Nothing panics while it holds the lock.
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets what it may have from now on. What it has stays until it lets go.
    pub(crate) fn set_policy(&self, policy: Policy) {
        self.memory.limit(policy.requests_memory_max);
        self.regions.limit(policy.regions_memory_max);
        let bytes_rate = policy.bytes_rate.map_or(0, |rate| rate.per_second().get());
        if self.bytes_rate.swap(bytes_rate, Ordering::Relaxed) != bytes_rate {
            self.bytes.reset();
        }
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// For loading a model because it asked.
    pub(crate) fn behalf(&self) -> Behalf {
        Behalf { loaded: self.loaded.clone(), memory_max: self.policy().models_memory_max }
    }

    /// Charges one request to its rate, or says how long to wait.
    pub(crate) fn meter(&self, policy: &Policy, now: Instant) -> Result<(), Duration> {
        let Some(rate) = policy.rate else { return Ok(()) };
        self.meter.admit(self.at(now), rate)
    }

    /// How long the next request would have to wait.
    pub(crate) fn over_rate(&self, now: Instant) -> Option<Duration> {
        let rate = self.policy().rate?;
        self.meter.peek(self.at(now), rate)
    }

    /// Charges bytes of requests.
    pub(crate) fn received(&self, bytes: u64) {
        if let Some(rate) = self.bytes_rate() {
            self.bytes.debit(self.at(Instant::now()), rate, bytes);
        }
    }

    /// How long the next bytes would have to wait.
    pub(crate) fn over_bytes(&self) -> Option<Duration> {
        self.bytes_rate()?;
        self.bytes.owes(self.at(Instant::now()))
    }

    fn bytes_rate(&self) -> Option<ByteRate> {
        // Relaxed: the number stands for itself.
        NonZeroU64::new(self.bytes_rate.load(Ordering::Relaxed)).map(ByteRate::new)
    }

    fn at(&self, now: Instant) -> u64 {
        saturating_ns(now.saturating_duration_since(self.born))
    }

    /// Charges time on a device.
    pub(crate) fn charge(&self, time: Duration) {
        self.device_ns.fetch_add(saturating_ns(time), Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> TenantSnapshot {
        TenantSnapshot {
            id: self.id.clone(),
            requests: self.requests.count(),
            failures: Code::ALL
                .iter()
                .map(|&code| (code, self.failures.get(code)))
                .filter(|&(_, count)| count > 0)
                .collect(),
            in_flight: self.in_flight.get(),
            sessions: self.sessions.get(),
            requests_memory: self.memory.used(),
            regions_memory: self.regions.used(),
            models_memory: self.loaded.bytes(),
            device_ns: self.device_ns.load(Ordering::Relaxed),
        }
    }
}

/// What one tenant has and used, at one moment.
#[derive(Clone, Debug)]
pub struct TenantSnapshot {
    /// Who.
    pub id: TenantId,
    /// Requests that ended, however they ended.
    pub requests: u64,
    /// Those that failed, by code; codes that never happened are left out.
    pub failures: Vec<(Code, u64)>,
    /// Jobs admitted and not ended.
    pub in_flight: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Bytes reserved for its requests in flight.
    pub requests_memory: u64,
    /// Bytes of the regions that it registered.
    pub regions_memory: u64,
    /// Bytes of weights that are in memory because it asked for them.
    pub models_memory: u64,
    /// Device time charged, in nanoseconds.
    pub device_ns: u64,
}
