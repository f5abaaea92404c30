// SPDX-License-Identifier: Apache-2.0
//! How many rows of one kind there usually are, so that a run that could be larger waits a moment for those who will come.
//!
//! Clients that wait for answers send again when they have them: right after a large run there is nobody, and a moment later
//! everybody. Whoever comes first would run alone, and all others after that. So while many are usual, a run is held up until it
//! has its part of them, but no longer than half of what a run costs whatever its rows: then nothing is lost even if nobody comes. With one
//! client, one row is usual, and nothing is ever held up.

use std::collections::HashMap;

use diolkos_types::BuildSpread;

use super::{BatchKey, Batching, Class, Nanos};

/// Longest that a run is held up.
pub const HOLD_MAX: Nanos = 1_000_000;

/// The newest number has this part in what is usual.
const NEWEST: u64 = 16;

/// Kinds without rows that are kept before they are forgotten.
const IDLE_MIN: usize = 256;

#[derive(Clone, Copy, Debug, Default)]
struct Crowd {
    /// Rows that wait or run.
    rows: u64,
    /// What was found when jobs came, on average, times [`NEWEST`].
    usual: u64,
}

/// Rows by class and key.
#[derive(Debug, Default)]
pub(super) struct Crowds(HashMap<(Class, BatchKey), Crowd, BuildSpread>);

/// A run that waits for company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// No longer than that.
    pub(super) until: Nanos,
    /// Nor once it has so many rows.
    pub(super) rows: u32,
}

impl Crowds {
    /// A job came.
    pub(super) fn comes(&mut self, class: Class, batch: Option<Batching>) {
        let Some(batch) = batch else { return };
        let crowd = self.0.entry((class, batch.key)).or_default();
        crowd.rows += u64::from(batch.rows);
        crowd.usual = crowd.usual - crowd.usual / NEWEST + crowd.rows;
    }

    /// A job ended.
    pub(super) fn goes(&mut self, class: Class, batch: Option<Batching>) {
        let Some(batch) = batch else { return };
        let crowd = self.0.get_mut(&(class, batch.key)).expect("it came");
        crowd.rows -= u64::from(batch.rows);
        if crowd.rows == 0 && self.0.len() > IDLE_MIN {
            self.0.retain(|_, crowd| crowd.rows > 0);
        }
    }

    /// Whether a run with so many rows is held up, where so many slots share those that are usual.
    pub(super) fn hold(
        &self,
        now: Nanos,
        class: Class,
        batch: Batching,
        rows: u32,
        slots: usize,
    ) -> Option<Hold> {
        let crowd = self.0.get(&(class, batch.key))?;
        let part = crowd.usual / NEWEST / slots as u64;
        let wanted = u32::try_from(part).unwrap_or(u32::MAX).min(batch.rows_max);
        let until = now.saturating_add((batch.fixed / 2).min(HOLD_MAX));
        (rows < wanted && until > now).then_some(Hold { until, rows: wanted })
    }

    #[cfg(test)]
    pub(super) fn rows(&self) -> u64 {
        self.0.values().map(|crowd| crowd.rows).sum()
    }
}
