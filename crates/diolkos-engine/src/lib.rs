// SPDX-License-Identifier: Apache-2.0
//! The one waist of Diolkos.
//!
//! Whoever wants something done — a socket front, an in-process caller, a benchmark — opens a
//! [`Session`] and submits a [`Request`]. It then goes one way:
//!
//! ```text
//! Request ──admission──> Admitted ──device──> Job ──backend──> Reply
//!            handles,                 queue,                     exactly one,
//!            tensors, memory          slots                      to the ReplySink
//! ```
//!
//! From `Admitted` on, a value can be made only from the one before it, so a check that is skipped does
//! not compile. The engine knows no socket, no codec, no async runtime and no vendor library.
//!
//! | module | its one job |
//! |---|---|
//! | `engine` | the waist: owns devices, store and sessions |
//! | `session` | a tenant's handle table, and what it has in flight |
//! | `endpoint` | engine and session as a caller in this process sees them |
//! | `admission` | `Request` → `Admitted`: every check of tensors and memory |
//! | `tenant`, `lease` | whom everything is charged to, and what it may have |
//! | `rate`, `memory` | so many requests per second, so many bytes |
//! | [`sched`] | who runs next; pure |
//! | `device` | pools, slots, threads and queues around their schedulers |
//! | `cpus` | which CPUs threads run on |
//! | `batch` | runs that several requests share |
//! | `explain` | what the scheduler did with jobs, and why |
//! | `used` | device time: what a run used of its device |
//! | `job` | `Admitted` → `Job` → `Reply`: exactly one end |
//! | `control` | loading and unloading, off the request path |
//! | [`store`] | models on disk and in memory |
//! | [`account`] | what happened, in numbers |
//! | `status` | the one map from errors to `Status` |
//! | [`limits`] | every bound, with its reason |

#![forbid(unsafe_code)]

pub mod account;
mod admission;
mod batch;
mod control;
mod cpus;
mod device;
mod endpoint;
mod engine;
mod explain;
mod job;
mod lease;
pub mod limits;
mod memory;
mod predict;
mod rate;
mod request;
pub mod sched;
mod session;
mod status;
pub mod store;
mod tenant;
mod timer;
mod used;

pub use control::{ControlReply, ControlRequest};
pub use cpus::{CpuSet, CpuSetError};
pub use device::{DeviceConfig, DeviceSnapshot, Here, Offer, PoolConfig, PoolSnapshot};
pub use endpoint::LocalEndpoint;
pub use engine::{Engine, EngineConfig, StartError, Strangers};
pub use explain::{Explained, Past, Scheduled, Standing, Waited};
pub use lease::{Lease, Patterns, Policy, matches};
pub use rate::{ByteRate, Meter, Rate};
pub use request::{NamedTensor, Outputs, Reply, ReplySink, Request, Timing};
pub use sched::{Class, FloorShares, PoolPolicy, Share};
pub use session::{CancelOnDrop, RegionCharge, Session, Ticket};
pub use tenant::TenantSnapshot;
