// SPDX-License-Identifier: Apache-2.0
//! What happened, in numbers: counters that devices and admission bump and fronts read.
//!
//! All orderings are relaxed: every counter is a sum of its own, and readers want no relation between two.
//!
//! | module | its one job |
//! |---|---|
//! | `model` | one account: requests to one version of one model; and what accounts say together |
//! | `version` | the accounts of a version, one for each tenant that used it |
//! | `by_tenant` | a table by tenants that needs no lock |
//! | `seat` | where a tenant's accounts stand in the tables |

mod by_tenant;
mod model;
mod seat;
mod version;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diolkos_types::Code;

pub use model::ModelStats;
pub(crate) use seat::{AccountKey, Seat, Seats};
pub use version::VersionStats;

/// Whose requests somebody asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those of the tenant that asks.
    Own,
    /// All tenants' together.
    Everybody,
}

/// How often something happened, and how long it took in all.
#[derive(Debug, Default)]
pub struct Total {
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Total {
    /// Adds one that took `time`.
    pub fn add(&self, time: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(saturating_ns(time), Ordering::Relaxed);
    }

    fn absorb(&self, other: &Total) {
        self.count.fetch_add(other.count(), Ordering::Relaxed);
        self.nanoseconds.fetch_add(other.nanoseconds(), Ordering::Relaxed);
    }

    fn clear(&self) {
        self.count.store(0, Ordering::Relaxed);
        self.nanoseconds.store(0, Ordering::Relaxed);
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How long in all, in nanoseconds.
    pub fn nanoseconds(&self) -> u64 {
        self.nanoseconds.load(Ordering::Relaxed)
    }
}

/// Nanoseconds of `time`; 584 years at most.
#[must_use]
pub fn saturating_ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds one.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds one if there are fewer than `max`, and says whether.
    pub fn increment_below(&self, max: u64) -> bool {
        let next = |number: u64| (number < max).then(|| number + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Takes one away.
    pub fn decrement(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a gauge went below zero");
    }

    fn absorb(&self, other: &Gauge) {
        self.0.fetch_add(other.get(), Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How requests ended, by [`Code`].
#[derive(Debug, Default)]
pub struct Failures([AtomicU64; Code::ALL.len()]);

impl Failures {
    /// Adds one.
    pub fn add(&self, code: Code) {
        self.0[code as usize - 1].fetch_add(1, Ordering::Relaxed);
    }

    fn absorb(&self, other: &Failures) {
        for code in Code::ALL {
            self.0[code as usize - 1].fetch_add(other.get(code), Ordering::Relaxed);
        }
    }

    fn clear(&self) {
        self.0.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
    }

    /// How many ended with `code`.
    pub fn get(&self, code: Code) -> u64 {
        self.0[code as usize - 1].load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of [`Histogram`], in nanoseconds: powers of two from 1 µs to about 69 s.
pub const BUCKETS_NS: [u64; 27] = {
    let mut bounds = [0; 27];
    let mut index = 0;
    while index < bounds.len() {
        bounds[index] = 1024 << index;
        index += 1;
    }
    bounds
};

/// A histogram of durations with the bounds of [`BUCKETS_NS`] and one bucket above them.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_NS.len() + 1],
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Adds one duration.
    pub fn add(&self, time: Duration) {
        self.count(time);
        self.sum_ns.fetch_add(saturating_ns(time), Ordering::Relaxed);
    }

    /// Adds one duration to its bucket, for who does not want the sum.
    fn count(&self, time: Duration) {
        let nanoseconds = saturating_ns(time);
        let index = BUCKETS_NS.partition_point(|&bound| bound < nanoseconds);
        self.buckets[index].fetch_add(1, Ordering::Relaxed);
    }

    fn absorb(&self, other: &Histogram) {
        for (bucket, count) in self.buckets.iter().zip(other.counts()) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(other.sum_ns(), Ordering::Relaxed);
    }

    fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
        self.sum_ns.store(0, Ordering::Relaxed);
    }

    /// Counts per bucket, the last one above all bounds.
    pub fn counts(&self) -> [u64; BUCKETS_NS.len() + 1] {
        std::array::from_fn(|index| self.buckets[index].load(Ordering::Relaxed))
    }

    /// Sum of all durations in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns.load(Ordering::Relaxed)
    }

    /// A bound that `quantile` of the durations stay under, or `None` if there were none.
    pub fn quantile_bound(&self, quantile: f64) -> Option<Duration> {
        let counts = self.counts();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = (total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (count, bound) in counts.iter().zip(BUCKETS_NS) {
            seen += count;
            if seen >= rank {
                return Some(Duration::from_nanos(bound));
            }
        }
        Some(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_upper_bounds() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile_bound(0.99), None);
        for _ in 0..99 {
            histogram.add(Duration::from_nanos(1500));
        }
        histogram.add(Duration::from_secs(1));
        assert_eq!(histogram.quantile_bound(0.5), Some(Duration::from_nanos(2048)));
        assert_eq!(histogram.quantile_bound(0.99), Some(Duration::from_nanos(2048)));
        assert!(histogram.quantile_bound(1.0) >= Some(Duration::from_secs(1)));
        histogram.add(Duration::from_secs(100_000));
        assert_eq!(histogram.quantile_bound(1.0), Some(Duration::MAX));
    }
}
