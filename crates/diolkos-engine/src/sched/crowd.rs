// SPDX-License-Identifier: Apache-2.0
//! How many jobs of one kind there usually are, so that a run that could be larger waits a moment for those who will come.
//!
//! Clients that wait for answers send again when they have them: right after a large run there is nobody, and a moment later
//! everybody. Whoever comes first would run alone, and all others after that. So while many are usual, a run is held up until it
//! has its part of them, but no longer than half of what a run costs whatever its rows (or what the pool's policy says): then nothing is lost even if nobody comes. With one
//! client, one job is usual, and nothing is ever held up; and what was usual is forgotten when nobody came for a while.

use std::collections::HashMap;

use diolkos_types::BuildSpread;

use super::{BatchKey, Batching, Class, Nanos};

/// Longest that a run is held up, unless throughput is all that counts.
pub const HOLD_MAX: Nanos = 1_000_000;

/// The newest number has this part in what is usual.
const NEWEST: u64 = 16;

/// After so long without a job what was usual is forgotten.
const FORGET: Nanos = 50 * HOLD_MAX;

/// Kinds without jobs that are kept before they are forgotten.
const IDLE_MIN: usize = 256;

#[derive(Clone, Copy, Debug, Default)]
struct Crowd {
    /// Jobs that wait or run.
    jobs: u64,
    /// What was found when jobs came, on average, times [`NEWEST`].
    usual: u64,
    /// When the last one came.
    last: Nanos,
}

/// Jobs by class and key.
#[derive(Debug, Default)]
pub(super) struct Crowds(HashMap<(Class, BatchKey), Crowd, BuildSpread>);

/// A run that waits for company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// No longer than that.
    pub(super) until: Nanos,
    /// Nor once so many jobs are in it.
    pub(super) jobs: usize,
}

impl Crowds {
    /// A job came.
    pub(super) fn comes(&mut self, now: Nanos, class: Class, batch: Option<Batching>) {
        let Some(batch) = batch else { return };
        let crowd = self.0.entry((class, batch.key)).or_default();
        if now.saturating_sub(crowd.last) > FORGET {
            crowd.usual = 0;
        }
        crowd.last = now;
        crowd.jobs += 1;
        crowd.usual = crowd.usual - crowd.usual / NEWEST + crowd.jobs;
    }

    /// A job ended.
    pub(super) fn goes(&mut self, class: Class, batch: Option<Batching>) {
        let Some(batch) = batch else { return };
        let crowd = self.0.get_mut(&(class, batch.key)).expect("it came");
        crowd.jobs -= 1;
        if crowd.jobs == 0 && self.0.len() > IDLE_MIN {
            self.0.retain(|_, crowd| crowd.jobs > 0);
        }
    }

    /// Whether a run with so many jobs is held up, for so long at most, where so many slots share those that are usual.
    pub(super) fn hold(
        &self,
        now: Nanos,
        hold_max: Nanos,
        class: Class,
        batch: Batching,
        jobs: usize,
        slots: usize,
    ) -> Option<Hold> {
        let crowd = self.0.get(&(class, batch.key))?;
        let part = usize::try_from(crowd.usual / NEWEST / slots as u64).unwrap_or(usize::MAX);
        // More than that are not in a run anyway.
        let wanted = part.min(batch.rows_max as usize);
        let until = now.saturating_add(hold_max);
        (jobs < wanted && until > now).then_some(Hold { until, jobs: wanted })
    }

    #[cfg(test)]
    pub(super) fn jobs(&self) -> u64 {
        self.0.values().map(|crowd| crowd.jobs).sum()
    }
}
