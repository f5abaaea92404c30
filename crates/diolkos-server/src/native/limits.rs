// SPDX-License-Identifier: Apache-2.0
//! Every bound of the native channel that is not a setting, with its reason.

use std::time::Duration;

use diolkos_engine::limits as engine_limits;
use diolkos_wire::Limits;
use diolkos_wire::limits::MESSAGE_BYTES_MAX;

use crate::settings::Settings;

/// Requests of one connection that wait for their answer: what the engine lets its session have in flight.
pub(super) const IN_FLIGHT_MAX: usize = engine_limits::SESSION_JOBS_MAX;

/// Answers that wait to be written: those of all requests in flight, and one of a control call.
pub(super) const ANSWERS_MAX: usize = IN_FLIGHT_MAX + 1;

/// An answer of so many bytes is not charged while it waits to be written: every refusal fits, whose sentence has 1024 bytes at
/// most, and all that one connection may have waiting are less than its share, see docs/operations.md.
pub(super) const ANSWER_UNCHARGED_BYTES: usize = 1100;

/// A message of so many bytes is not charged while it is read and decoded: more than any request needs that has few parameters.
pub(super) const MESSAGE_UNCHARGED_BYTES: usize = 4 << 10;

/// Regions of one connection.
pub(super) const REGIONS_MAX: u16 = 64;

/// Entries of a ring, at least: one request at a time is a way to use it.
pub(super) const RING_ENTRIES_MIN: u32 = 1;

/// Entries of a ring, at most: no more than may be in flight.
pub(super) const RING_ENTRIES_MAX: u32 = 512;

/// A message slot, at least: every failure fits, whose sentence has 1024 bytes at most.
pub(super) const SLOT_BYTES_MIN: u32 = 2048;

/// A message slot, at most: with all the slots there may be, 32 MiB.
pub(super) const SLOT_BYTES_MAX: u32 = 64 << 10;

/// Bytes that are read from a socket at once, where more than a header is expected.
pub(super) const READ_BYTES: usize = 64 << 10;

/// Payload that nobody wants, of which so much is read before it is looked whether its tenant sends too much.
pub(super) const PASSED_OVER_BYTES: u64 = 1 << 20;

/// Payload for which room is made before it has come.
pub(super) const PAYLOAD_AHEAD_BYTES: usize = 1 << 20;

/// Time for the `Hello` to arrive behind the preface, and for a client to take a last word.
pub(super) const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// What a connection is granted.
pub(super) fn of(settings: &Settings) -> Limits {
    let request = settings.limits.request_memory_max.get();
    Limits {
        message_bytes_max: MESSAGE_BYTES_MAX,
        payload_bytes_max: settings.limits.body_bytes_max.get(),
        in_flight_max: IN_FLIGHT_MAX as u32,
        regions_max: REGIONS_MAX,
        region_bytes_max: request,
        regions_bytes_max: settings.limits.requests_memory_max.get(),
    }
}
