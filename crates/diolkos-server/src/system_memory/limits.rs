// SPDX-License-Identifier: Apache-2.0
//! Every bound of regions that is no setting, with its reason. Their sizes are one, `shared_memory.bytes_max`.

/// Regions in one table. Stock clients have one for each tensor.
pub(super) const REGIONS_PER_TABLE_MAX: usize = 64;

/// Regions of one tenant in all its tables: a few client processes. Each holds a descriptor.
pub(super) const REGIONS_PER_OWNER_MAX: usize = 4 * REGIONS_PER_TABLE_MAX;

/// Regions of everybody. Fewer where few files may be open; see [`FILES_SHARE`].
pub(super) const REGIONS_MAX: usize = 4 * REGIONS_PER_OWNER_MAX;

/// Regions take at most one in so many of the files that may be open, so that connections can still come.
pub(super) const FILES_SHARE: u64 = 8;

/// Longest name of a region: it comes back in messages.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// Longest key without its slash: `NAME_MAX`, which no file's name can be longer than.
pub(super) const KEY_BYTES_MAX: usize = 255;

/// How much of a process's list of mounts is read: some thousands of them.
pub(super) const MOUNTS_BYTES_MAX: u64 = 1 << 20;

const _: () = assert!(REGIONS_PER_TABLE_MAX <= REGIONS_PER_OWNER_MAX && REGIONS_PER_OWNER_MAX < REGIONS_MAX);
