// SPDX-License-Identifier: Apache-2.0
//! Fronts, listeners, settings and metrics of the Diolkos daemon: the rim around [`diolkos_engine`].
//!
//! ```text
//!  socket ─> listen ─> conn ─┬─ content-type application/grpc ─> grpc ─┐
//!           (limits, peer)   ├─ /metrics ─> metrics                    ├─> oip ─> Engine
//!                            └─ everything else ─────────────> rest ───┘
//! ```
//!
//! | module | its one job |
//! |---|---|
//! | [`settings`] | one struct tree, read from TOML, checked without starting anything |
//! | [`listen`] | addresses, sockets, connections and their limits |
//! | `sessions` | who a connection belongs to, and which session serves it |
//! | `oip` | the Open Inference Protocol without a transport |
//! | `rest`, `grpc` | its two transports |
//! | `system_memory` | tensors in shared memory that clients registered |
//! | `loading` | models at start and on reload |
//! | `reloading` | what SIGHUP asks for, one at a time and aside |
//! | `metrics` | what happened, as Prometheus text |
//! | `trace` | `traceparent`, in and out |
//! | [`logging`] | log lines, and how often a tenant can cause one |
//! | `tenancy` | tenants that come and go while the daemon runs |
//! | `app` | what all of the above share |
//! | [`daemon`] | start, serve, reload, drain |
//! | `systemd` | readiness, watchdog, sockets from the service manager |
//! | [`limits`] | every bound of this crate that is no setting, with its reason |

#![forbid(unsafe_code)]

mod app;
mod audit;
mod chunks;
pub mod daemon;
pub mod fuzz;
pub mod grpc;
mod identity;
pub mod limits;
pub mod listen;
mod loading;
pub mod logging;
mod metrics;
mod native;
mod oip;
mod reloading;
mod rest;
mod sessions;
pub mod settings;
mod system_memory;
mod systemd;
mod tenancy;
mod trace;

pub use audit::AuditError;
pub use daemon::{Builtin, Daemon, DaemonError, Deps};
pub use identity::{
    CertificateName, CgroupPattern, Cid, NoCertificate, NoCgroup, NoCid, NoTokenHash, TokenHash, new_token,
};
pub use listen::{Address, BoundAddress};
pub use metrics::{DOCUMENTED as METRICS, Kind as MetricKind, Metric, resident_bytes};
pub use settings::{Settings, SettingsError};
pub use tenancy::{ChangeError, KeptError};
