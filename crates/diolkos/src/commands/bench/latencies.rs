// SPDX-License-Identifier: Apache-2.0
//! Latencies, counted in a histogram of bounded size and bounded relative error (HdrHistogram).

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest time that is told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(3600);

/// Significant decimal digits: a value is at most 0.1 % off. One histogram then takes about 250 kB.
const DIGITS: u8 = 3;

/// Points of a distribution per halving of the distance to 100 %.
const POINTS_PER_HALVING: u32 = 4;

/// A distribution of latencies.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

/// The usual numbers about a distribution, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// How many.
    pub(crate) count: u64,
    /// Arithmetic mean.
    pub(crate) mean_ns: f64,
    /// Standard deviation.
    pub(crate) stdev_ns: f64,
    /// Least.
    pub(crate) min_ns: u64,
    /// Median.
    pub(crate) p50_ns: u64,
    /// 9 of 10 took no longer.
    pub(crate) p90_ns: u64,
    /// 99 of 100 took no longer.
    pub(crate) p99_ns: u64,
    /// 999 of 1000 took no longer.
    pub(crate) p999_ns: u64,
    /// Greatest.
    pub(crate) max_ns: u64,
}

/// One point of a distribution: this part of all took no longer than that.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Part of all, 0 to 1.
    pub(crate) quantile: f64,
    /// Latency in nanoseconds.
    pub(crate) ns: u64,
}

/// One bar of a histogram for people: latencies from `from_ns` up to and without `to_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
    pub(crate) count: u64,
}

impl Latencies {
    /// None yet.
    pub(crate) fn new() -> Latencies {
        let histogram = Histogram::new_with_bounds(1, nanoseconds(LONGEST), DIGITS);
        Latencies(histogram.expect("the constants above are within what the library takes"))
    }

    /// Counts one. Zero counts as one nanosecond, and what is too long as [`LONGEST`].
    pub(crate) fn record(&mut self, latency: Duration) {
        self.record_many(latency, 1);
    }

    /// Counts several alike.
    pub(crate) fn record_many(&mut self, latency: Duration, count: u64) {
        self.0.saturating_record_n(nanoseconds(latency).max(1), count);
    }

    /// Adds what another has counted.
    pub(crate) fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this part of all did not exceed; 0 if there are none.
    pub(crate) fn quantile_ns(&self, quantile: f64) -> u64 {
        // The library gives the upper end of the last bucket, which may lie above the greatest value.
        self.0.value_at_quantile(quantile).min(self.0.max())
    }

    /// The usual numbers; all zero if there are none.
    pub(crate) fn summary(&self) -> Summary {
        if self.count() == 0 {
            return Summary::default();
        }
        Summary {
            count: self.count(),
            mean_ns: self.0.mean(),
            stdev_ns: self.0.stdev(),
            min_ns: self.0.min(),
            p50_ns: self.quantile_ns(0.5),
            p90_ns: self.quantile_ns(0.9),
            p99_ns: self.quantile_ns(0.99),
            p999_ns: self.quantile_ns(0.999),
            max_ns: self.0.max(),
        }
    }

    /// The distribution, denser towards its end.
    pub(crate) fn curve(&self) -> Vec<Point> {
        let max = self.0.max();
        let points = self.0.iter_quantiles(POINTS_PER_HALVING);
        points
            .map(|step| Point {
                quantile: step.quantile_iterated_to(),
                ns: step.value_iterated_to().min(max),
            })
            .collect()
    }

    /// `count` bars of equal width on a logarithmic axis, from the least latency to the 99.9th percentile;
    /// what is above goes into the last bar.
    pub(crate) fn bars(&self, count: usize) -> Vec<Bar> {
        if self.count() == 0 || count == 0 {
            return Vec::new();
        }
        let low = self.0.min().max(1) as f64;
        let high = (self.quantile_ns(0.999) as f64).max(low * 1.001);
        let edge = |index: usize| (low * (high / low).powf(index as f64 / count as f64)).round() as u64;
        let bar = |index| Bar { from_ns: edge(index), to_ns: edge(index + 1), count: 0 };
        let mut bars: Vec<Bar> = (0..count).map(bar).collect();
        for step in self.0.iter_recorded() {
            let ns = step.value_iterated_to();
            let index = bars.partition_point(|bar| bar.to_ns <= ns).min(count - 1);
            bars[index].count += step.count_at_value();
        }
        bars
    }
}

/// As a whole number of nanoseconds, with a bound.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[u64]) -> Latencies {
        let mut latencies = Latencies::new();
        for &value in values {
            latencies.record(Duration::from_nanos(value));
        }
        latencies
    }

    #[test]
    fn nothing_is_nothing() {
        let none = Latencies::new();
        assert_eq!(none.summary(), Summary::default());
        assert!(none.bars(5).is_empty());
    }

    #[test]
    fn extremes_are_kept_in_bounds() {
        let summary = of(&[0, u64::MAX]).summary();
        assert_eq!((summary.count, summary.min_ns), (2, 1));
        let hour = nanoseconds(LONGEST) as f64;
        assert!((summary.max_ns as f64 / hour - 1.0).abs() < 0.01, "{}", summary.max_ns);
    }

    #[test]
    fn curves_rise_to_the_end() {
        let latencies = of(&(1..=100_000).collect::<Vec<u64>>());
        let curve = latencies.curve();
        assert!(curve.is_sorted_by(|a, b| a.quantile <= b.quantile && a.ns <= b.ns));
        let last = curve.last().unwrap();
        assert_eq!((last.quantile, last.ns), (1.0, latencies.summary().max_ns));
    }

    proptest! {
        /// Against the plain definition: sort, and take the value at the rank.
        #[test]
        fn quantiles_agree_with_sorting(mut values in prop::collection::vec(1u64..10_000_000_000, 1..500)) {
            let summary = of(&values).summary();
            values.sort_unstable();
            let rank = |quantile: f64| {
                values[((quantile * values.len() as f64).ceil() as usize).clamp(1, values.len()) - 1]
            };
            let pairs = [(summary.p50_ns, rank(0.5)), (summary.p90_ns, rank(0.9)), (summary.p99_ns, rank(0.99)),
                (summary.p999_ns, rank(0.999)), (summary.min_ns, values[0]), (summary.max_ns, rank(1.0))];
            for (told, plain) in pairs {
                prop_assert!((told as f64 - plain as f64).abs() <= plain as f64 / 1000.0 + 1.0, "{} {}", told, plain);
            }
        }

        #[test]
        fn parts_merge_to_the_whole(a in prop::collection::vec(1u64..1 << 40, 0..99),
                                    b in prop::collection::vec(1u64..1 << 40, 0..99)) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            prop_assert_eq!(merged.summary(), of(&[a, b].concat()).summary());
        }

        #[test]
        fn bars_hold_everything_once(values in prop::collection::vec(1u64..1 << 40, 1..200), bars in 1usize..20) {
            let bars = of(&values).bars(bars);
            prop_assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), values.len() as u64);
            prop_assert!(bars.is_sorted_by(|a, b| a.to_ns <= b.from_ns));
        }
    }
}
