// SPDX-License-Identifier: Apache-2.0
//! How to make a device, and what one is like at a moment.

use crate::cpus::CpuSet;
use crate::limits;
use crate::sched::{FloorShares, PoolPolicy, SchedConfig};

/// How to make a device.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Name, used in metrics and thread names.
    pub name: String,
    /// Its slots; at least one pool. Leases that name none get the first.
    pub pools: Vec<PoolConfig>,
    /// Names of the backends whose operations it runs.
    pub backends: Vec<&'static str>,
    /// What the less urgent classes get whatever the others want, in each pool.
    pub floors: FloorShares,
}

/// Slots of a device that some tenants have for themselves.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Name; leases name it.
    pub name: String,
    /// Jobs that run at once, each on a thread of its own.
    pub slots: usize,
    /// What the slots are for.
    pub policy: PoolPolicy,
    /// Other pools may use slots that are idle.
    pub lends: bool,
    /// CPUs that its threads run on; `None` = all.
    pub cpus: Option<CpuSet>,
}

impl PoolConfig {
    /// A fair pool named `default` with so many slots.
    #[must_use]
    pub fn fair(slots: usize) -> PoolConfig {
        let name = PoolConfig::DEFAULT.into();
        PoolConfig { name, slots, policy: PoolPolicy::Fair, lends: false, cpus: None }
    }

    /// How to make its scheduler.
    #[must_use]
    pub fn scheduler(&self, floors: FloorShares) -> SchedConfig {
        SchedConfig {
            slots: self.slots,
            queue_max: limits::DEVICE_QUEUE_MAX,
            tenant_queue_max: limits::TENANT_QUEUE_MAX,
            floors,
            policy: self.policy,
            lends: self.lends,
        }
    }

    /// Name of the pool that leases have which name none.
    pub const DEFAULT: &str = "default";
}

impl DeviceConfig {
    /// A device named `cpu` with so many slots in one pool, for all backends.
    #[must_use]
    pub fn cpu(slots: usize) -> DeviceConfig {
        DeviceConfig {
            name: "cpu".into(),
            pools: vec![PoolConfig::fair(slots)],
            backends: Vec::new(),
            floors: FloorShares::DEFAULT,
        }
    }
}

/// A device at one moment.
#[derive(Clone, Debug)]
pub struct DeviceSnapshot {
    /// Name.
    pub name: String,
    /// Jobs that may run at once.
    pub slots: usize,
    /// Jobs that run.
    pub running: usize,
    /// Jobs that wait.
    pub waiting: usize,
    /// Jobs ever taken in, refused ones included.
    pub arrived: u64,
    /// Jobs that ran on the thread that brought them.
    pub ran_here: u64,
    /// Runs that ended: fewer than jobs, where several share one.
    pub runs: u64,
    /// Time that slots were busy, in nanoseconds, of jobs that ended.
    pub busy_ns: u64,
    /// What that was predicted to be.
    pub predicted_ns: u64,
    /// By how much the predictions were wrong, one by one, too much and too little alike.
    pub error_ns: u64,
    /// Its pools.
    pub pools: Vec<PoolSnapshot>,
}

/// A pool at one moment.
#[derive(Clone, Debug)]
pub struct PoolSnapshot {
    /// Name.
    pub name: String,
    /// What its slots are for.
    pub policy: PoolPolicy,
    /// CPUs that its threads run on; `None` = all.
    pub cpus: Option<CpuSet>,
    /// Its own slots.
    pub slots: usize,
    /// Those that other pools use now.
    pub lent: usize,
    /// Its jobs that run, wherever.
    pub running: usize,
    /// Its jobs that wait.
    pub waiting: usize,
    /// Runs of other pools that began on its slots.
    pub loans: u64,
    /// Time that its jobs had of any slots, in nanoseconds, of those that ended.
    pub busy_ns: u64,
}
