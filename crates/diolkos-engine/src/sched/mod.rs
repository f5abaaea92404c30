// SPDX-License-Identifier: Apache-2.0
//! Who runs next on one device. Pure: `step(now, event) -> actions`, with no lock, clock, thread or I/O.
//!
//! The currency is device time. A job comes with what it is predicted to cost, is charged that when it starts, and the
//! difference to what it took when it ends, so that a wrong guess is nobody's gain.
//!
//! * **Between classes** `interactive` goes before `standard` before `batch`, but each class that waits has a floor: a share
//!   of device time that the others leave it ([`floors`]).
//! * **Between tenants of a class** device time is divided by weight: start-time fair queueing (Goyal, Vin, Cheng 1996;
//!   [`class`]). It was chosen before deficit round robin because it needs no quantum, which would have to be larger than
//!   the longest job, and because a charge can be corrected afterwards.
//! * **Inside a tenant and class** the earliest deadline goes first, then the order of arrival.
//!
//! Jobs that wait for the same operation may share a run ([`batch`]). A device's slots may be divided into pools, each with a
//! scheduler and a policy of its own, that lend each other what is idle ([`pools`], [`policy`]).
//!
//! A job that is cancelled or late while it waits never starts, and one whose deadline would pass while it waits for what is
//! before it is refused when it comes.
//!
//! ```text
//!            Arrive
//!              │ queue full, or too late ──> Refuse
//!              ▼
//!           waiting ── Cancel ──> Cancelled
//!              │    └─ deadline ─> Expire
//!              ▼ turn and free slot
//!  Start / RunHere ──> running ── Finish ──> (slot free again, charge corrected)
//!     Join ──────────────^  Start may be followed by Hold: no thread takes the run before Go, and those who come join it
//! ```
//!
//! Invariants, checked by the property tests against a plainer model and by the simulator:
//!
//! * Every job that arrives gets exactly one of `Start`, `Join`, `RunHere`, `Refuse`, `Expire`, `Cancelled`.
//! * Never are there more runs than slots, nor run more jobs of one tenant than it may run at once; and no slot is free, or held up,
//!   while a job waits whose tenant may run another.
//! * What is kept does not grow with tenants or jobs that are gone.

pub mod batch;
pub mod class;
pub mod crowd;
pub mod floors;
mod heap;
mod jobs;
#[cfg(test)]
mod model;
pub mod policy;
pub mod pools;
#[cfg(test)]
mod pools_tests;
mod scheduler;
pub mod sim;
#[cfg(test)]
mod sim_tests;
mod tenants;
#[cfg(test)]
mod tests;

pub use diolkos_backend::endpoint::Class;
use diolkos_types::JobId;

pub use batch::{BatchKey, Batching};
pub use floors::FloorShares;
pub use policy::PoolPolicy;
pub use pools::{Planned, Pools};
pub use scheduler::Scheduler;

/// Nanoseconds: of device time, or since an origin that the caller chose.
pub type Nanos = u64;

/// All classes, the most urgent first.
pub const CLASSES: [Class; 3] = [Class::Interactive, Class::Standard, Class::Batch];

/// No job is charged less: a prediction of nothing must not be a way to run for nothing.
pub const COST_MIN: Nanos = 1000;

/// The scheduler's name for a tenant; no other tenant ever gets the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantKey(pub u64);

/// A job as the scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Which.
    pub job: JobId,
    /// Whose.
    pub tenant: TenantKey,
    /// How urgent.
    pub class: Class,
    /// Must have begun by then.
    pub deadline: Option<Nanos>,
    /// Device time that it will take alone, as far as one can tell.
    pub cost: Nanos,
    /// What it may share a run with.
    pub batch: Option<Batching>,
    /// The thread that brings it offers to run it.
    pub run_here: bool,
    /// What its tenant may have here, from now on.
    pub share: Share,
}

/// What a tenant may have on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Jobs that may run at once; at least one.
    pub running_max: usize,
    /// Jobs that may wait.
    pub waiting_max: usize,
    /// Its part of the device time beside others of the same class: twice the weight, twice the time. At least 1.
    pub weight: u32,
}

impl Share {
    /// As much as the device has.
    pub const ALL: Share = Share { running_max: usize::MAX, waiting_max: usize::MAX, weight: 1 };
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A job was admitted.
    Arrive(Arrival),
    /// A thread begins with a run, so nobody joins it any more.
    Taken(JobId),
    /// A job that ran has ended, after so much time on the device; where several shared a run, its part of it. The slot is free
    /// when the one that was started has ended.
    Finish(JobId, Nanos),
    /// Nobody wants this job any more. Ignored for a job that runs or is unknown.
    Cancel(JobId),
    /// Time passed (a `WakeAt` came due).
    Tick,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give this job a slot's thread.
    Start(JobId),
    /// Let the first job share the run of the second, which was started and not taken yet.
    Join(JobId, JobId),
    /// Don't take this run, which was just started, until it goes: others may join it.
    Hold(JobId),
    /// Let a run be taken that was held up.
    Go(JobId),
    /// Run this job, which just arrived, on the thread that brought it. It holds a slot all the same.
    RunHere(JobId),
    /// Answer that there is no room for it.
    Refuse(JobId, Full),
    /// Answer that the deadline passed.
    Expire(JobId),
    /// Answer that it was cancelled.
    Cancelled(JobId),
    /// Send `Tick` at this time. Replaces an earlier `WakeAt`.
    WakeAt(Nanos),
}

/// Which bound a job met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The device's queue.
    Device,
    /// The tenant's part of it.
    Tenant,
    /// Its deadline: it would wait so long.
    Late(Nanos),
}

/// Sizes and policy of one scheduler.
#[derive(Clone, Copy, Debug)]
pub struct SchedConfig {
    /// Jobs that may run at once; at least one.
    pub slots: usize,
    /// Jobs that may wait.
    pub queue_max: usize,
    /// Jobs of one tenant that may wait.
    pub tenant_queue_max: usize,
    /// What the less urgent classes get whatever the others want.
    pub floors: FloorShares,
    /// What the slots are for.
    pub policy: PoolPolicy,
    /// Other pools of the device may use slots that are idle. Means nothing to a scheduler alone.
    pub lends: bool,
}
