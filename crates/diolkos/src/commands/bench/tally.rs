// SPDX-License-Identifier: Apache-2.0
//! What a load counted: latencies, and failures by kind.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use super::caller::Outcome;
use super::latencies::Latencies;

/// Kinds of failure that are told apart; what comes later counts as `other`.
const KINDS_MAX: usize = 64;

/// Counts.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    latencies: Latencies,
    ok: u64,
    errors: BTreeMap<Cow<'static, str>, u64>,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new() -> Tally {
        Tally { latencies: Latencies::new(), ok: 0, errors: BTreeMap::new() }
    }

    /// Counts one call. Failures have latencies, too: leaving them out would make a server look faster that
    /// refuses quickly or times out.
    pub(crate) fn count(&mut self, outcome: &Outcome, latency: Duration) {
        self.latencies.record(latency);
        match outcome {
            Outcome::Ok => self.ok += 1,
            Outcome::Failed(kind) => {
                let known = self.errors.len() < KINDS_MAX || self.errors.contains_key(kind);
                let kind = if known { kind.clone() } else { Cow::Borrowed("other") };
                *self.errors.entry(kind).or_default() += 1;
            }
        }
    }

    /// Adds what another counted.
    pub(crate) fn merge(&mut self, other: &Tally) {
        self.latencies.merge(&other.latencies);
        self.ok += other.ok;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }

    /// Calls that were answered well.
    pub(crate) fn ok(&self) -> u64 {
        self.ok
    }

    /// Failures by kind.
    pub(crate) fn errors(&self) -> &BTreeMap<Cow<'static, str>, u64> {
        &self.errors
    }

    /// All failures.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The latencies of all calls.
    pub(crate) fn latencies(&self) -> &Latencies {
        &self.latencies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_by_kind_and_are_bounded() {
        let mut tally = Tally::new();
        tally.count(&Outcome::Ok, Duration::from_micros(5));
        for index in 0..2 * KINDS_MAX {
            tally.count(&Outcome::Failed(index.to_string().into()), Duration::from_micros(7));
        }
        assert_eq!((tally.ok(), tally.failed()), (1, 2 * KINDS_MAX as u64));
        assert!(tally.errors().len() <= KINDS_MAX + 1);
        assert_eq!(tally.errors()["other"], KINDS_MAX as u64);
        let mut twice = tally.clone();
        twice.merge(&tally);
        assert_eq!((twice.ok(), twice.failed()), (2, 4 * KINDS_MAX as u64));
    }
}
