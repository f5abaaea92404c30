// SPDX-License-Identifier: Apache-2.0
//! Every bound of the engine, with its reason.
//!
//! Full means [`diolkos_types::Code::Busy`] now, never a queue that grows.

use std::time::Duration;

/// Jobs that wait for one pool of a device. At 1 ms each, the last one waits four seconds: past that a caller is
/// better served by `Busy` and another node.
pub const DEVICE_QUEUE_MAX: usize = 4096;

/// Jobs of one tenant that wait for one pool: half the queue, so that no tenant can fill it alone.
pub const TENANT_QUEUE_MAX: usize = DEVICE_QUEUE_MAX / 2;

/// Execution slots of one device; more threads than this on one node is a typing error in the settings.
pub const DEVICE_SLOTS_MAX: usize = 1024;

/// Pools of one device: each is looked at for every job.
pub const POOLS_MAX: usize = 16;

/// Devices of one engine.
pub const DEVICES_MAX: usize = 64;

/// Handles that one session may have open: a client that opens more leaks them.
pub const SESSION_HANDLES_MAX: usize = 1024;

/// Jobs that one session may have in flight: a quarter of its tenant's queue, so that one client process
/// can't take all of it.
pub const SESSION_JOBS_MAX: usize = TENANT_QUEUE_MAX / 4;

/// Sessions of the whole engine: one for each connection the server may accept, and as many again
/// that linger after their connection closed.
pub const SESSIONS_MAX: usize = 32_768;

/// Inputs or outputs of one request. The largest published ONNX model signatures have a few dozen.
pub const TENSORS_MAX: usize = 256;

/// Longest that a run of several requests may take: whoever comes waits for what runs.
pub const BATCH_TIME_MAX: Duration = Duration::from_millis(20);

/// Inputs and outputs of such a run: all of it is copied at once.
pub const BATCH_BYTES_MAX: u64 = 64 << 20;

/// Runs that may fail although each of their requests succeeds alone, before a version's requests run alone for good.
pub const BATCH_FAILURES_MAX: u64 = 3;

/// Requests of a tenant to a version that run alone after one of its own failed in a run with others.
pub const BATCH_APART: u64 = 1000;

/// Jobs that a tenant remembers after they ended, for whoever asks why they took so long. About 200 bytes each.
pub const HISTORY_JOBS: usize = 256;

/// Control requests (load, unload, rescan) that wait. They take seconds each.
pub const CONTROL_QUEUE_MAX: usize = 256;

/// Requests that wait for a model which is being loaded for the first of them.
pub const PARKED_MAX: usize = 1024;

/// Tenants whose shares of memory are tried for a model that several wait for: each try reads the model's files.
pub(crate) const ASKERS_MAX: usize = 4;

/// Those of one tenant: half of them, so that no tenant can take all.
pub const TENANT_PARKED_MAX: usize = PARKED_MAX / 2;

/// Memory that all admitted requests together may need, unless the settings say otherwise.
pub const REQUEST_MEMORY_MAX: u64 = 4 << 30;

/// Memory that one request may need, unless the settings say otherwise.
pub const ONE_REQUEST_MEMORY_MAX: u64 = 1 << 30;

/// A run this short may be done on the thread of an in-process caller or poll thread (see `sched`).
pub const RUN_HERE_P99: Duration = Duration::from_micros(20);

/// What `Busy` suggests to wait before the next try.
pub const RETRY_HINT: Duration = Duration::from_millis(50);

const _: () = assert!(TENANT_QUEUE_MAX <= DEVICE_QUEUE_MAX);
const _: () = assert!(TENANT_PARKED_MAX <= PARKED_MAX);
const _: () = assert!(SESSION_JOBS_MAX <= TENANT_QUEUE_MAX);
const _: () = assert!(ONE_REQUEST_MEMORY_MAX <= REQUEST_MEMORY_MAX);
