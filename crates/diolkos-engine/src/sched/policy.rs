// SPDX-License-Identifier: Apache-2.0
//! What the slots of a pool are for. Guests that wait for answers and guests that want work done are served best by opposite
//! rules, so each pool has its own (coexisting scheduling policies: Aragiorgis, Nanos, Koziris 2011).
//!
//! | | `latency` | `fair` | `throughput` |
//! |---|---|---|---|
//! | a run is held up for company | never | for half of its fixed cost, 1 ms at most | for its fixed cost, 10 ms at most |
//! | a shared run takes | at most twice what its first job takes alone | as long as it was measured to pay | the same |
//! | tenants of a class take turns | job by job | job by job | when one is 50 ms of device time ahead |
//!
//! Classes, floors, weights, deadlines and bounds are the same in all of them.

use super::crowd::HOLD_MAX;
use super::{Batching, Nanos};

/// Device time that a tenant may be ahead of the next, where throughput counts. It begins its turn as much behind, so that between
/// two a turn is twice as long: long enough that what a model keeps in
/// caches is used many times, and short beside what anybody notices who does not wait for single answers.
pub const SLICE: Nanos = 50_000_000;

/// What the slots of a pool are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolPolicy {
    /// Answers as soon as possible, whatever it costs.
    Latency,
    /// Both.
    #[default]
    Fair,
    /// As much work as possible; single answers may wait.
    Throughput,
}

impl PoolPolicy {
    /// As it is written everywhere.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            PoolPolicy::Latency => "latency",
            PoolPolicy::Fair => "fair",
            PoolPolicy::Throughput => "throughput",
        }
    }

    /// How long a run may be held up for company that costs so much whatever its rows.
    pub(super) fn hold_max(self, fixed: Nanos) -> Nanos {
        match self {
            PoolPolicy::Latency => 0,
            PoolPolicy::Fair => (fixed / 2).min(HOLD_MAX),
            PoolPolicy::Throughput => fixed.min(10 * HOLD_MAX),
        }
    }

    /// Device time that a tenant may be ahead of the others of its class, to go on with what it does.
    pub(super) fn slice(self) -> Nanos {
        match self {
            PoolPolicy::Latency | PoolPolicy::Fair => 0,
            PoolPolicy::Throughput => SLICE,
        }
    }

    /// What a job may share a run with here.
    pub(super) fn bound(self, batch: Batching) -> Batching {
        match self {
            PoolPolicy::Latency => {
                // The rows at which `fixed + rows * per_row` is twice what it is for its own.
                let fixed_rows = u32::try_from(batch.fixed / batch.per_row.max(1)).unwrap_or(u32::MAX);
                let twice = batch.rows.saturating_mul(2).saturating_add(fixed_rows);
                Batching { rows_max: batch.rows_max.min(twice), ..batch }
            }
            PoolPolicy::Fair | PoolPolicy::Throughput => batch,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sched::BatchKey;

    proptest! {
        #[test]
        fn where_latency_counts_a_shared_run_takes_twice_as_long_at_most(
            rows in 1u32..100, rows_max in 1u32..1000, fixed in 0u64..1_000_000, per_row in 1u64..100_000,
        ) {
            let key = BatchKey { operation: 0, tenant: None };
            let batch = Batching { key, rows, rows_max, fixed, per_row };
            let bound = PoolPolicy::Latency.bound(batch);
            let takes = |rows: u32| fixed + u64::from(rows) * per_row;
            prop_assert!(takes(bound.rows_max) <= 2 * takes(rows) || bound.rows_max == rows_max && rows_max <= rows);
            let one_more = takes(bound.rows_max.saturating_add(1));
            prop_assert!(bound.rows_max == rows_max || one_more > 2 * takes(rows), "more would do");
        }
    }
}
