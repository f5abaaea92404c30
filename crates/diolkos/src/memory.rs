// SPDX-License-Identifier: Apache-2.0
//! How much freed memory the process keeps for later: the executable's allocator asks, and `serve` says.

use std::sync::atomic::{AtomicU64, Ordering};

pub use diolkos_server::resident_bytes;

/// What is freed until it is given back to the system, where nobody says.
const DEFAULT: u64 = 256 << 20;

/// At least so much: below it, giving back costs more than it is worth.
const LEAST: u64 = 16 << 20;

/// What the process has without any tensor, about; with this and what may be kept there is nothing to give back.
pub const BESIDE_BYTES: u64 = 64 << 20;

/// The part of what requests may need that may be kept beside it.
const PART: u64 = 8;

static KEPT_MAX: AtomicU64 = AtomicU64::new(DEFAULT);

/// Bytes that may have been freed and not given back yet.
#[must_use]
pub fn kept_max() -> u64 {
    KEPT_MAX.load(Ordering::Relaxed)
}

/// Keeps a part of what requests may need.
pub(crate) fn keep_part_of(requests_memory_max: u64) {
    KEPT_MAX.store(part_of(requests_memory_max), Ordering::Relaxed);
}

/// What the process may have beyond what it uses: without a tensor it is given back only past [`BESIDE_BYTES`] and the part
/// that is kept.
pub(crate) fn beyond_use(requests_memory_max: u64) -> u64 {
    BESIDE_BYTES + part_of(requests_memory_max)
}

/// The part that is kept.
pub(crate) fn part_of(requests_memory_max: u64) -> u64 {
    (requests_memory_max / PART).clamp(LEAST, DEFAULT)
}
