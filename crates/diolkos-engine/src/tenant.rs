// SPDX-License-Identifier: Apache-2.0
//! Tenants: whom everything is charged to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diolkos_types::{Code, TenantId};

use crate::account::{Failures, Gauge, Total, saturating_ns};
use crate::sched::TenantKey;

/// What one tenant has and used.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    /// The scheduler's name for it.
    pub(crate) key: TenantKey,
    pub(crate) requests: Total,
    pub(crate) failures: Failures,
    pub(crate) in_flight: Gauge,
    pub(crate) sessions: Gauge,
    device_ns: AtomicU64,
}

impl Tenant {
    pub(crate) fn new(id: TenantId, key: TenantKey) -> Tenant {
        Tenant {
            id,
            key,
            requests: Total::default(),
            failures: Failures::default(),
            in_flight: Gauge::default(),
            sessions: Gauge::default(),
            device_ns: AtomicU64::new(0),
        }
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
    /// Device time charged, in nanoseconds.
    pub device_ns: u64,
}
