// SPDX-License-Identifier: Apache-2.0
//! When an open loop intends to send, decided before anything is sent.
//!
//! Requests are due at fixed times, whatever the answers do. A slow answer therefore makes the ones behind it
//! late, and their lateness counts: latency is measured from the time that was intended. (Measured from the
//! time of sending, a stall of one second would show as one slow request instead of a thousand:
//! coordinated omission.)

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How arrivals are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// At equal distances.
    Constant,
    /// Independent of each other, as many independent clients are: exponential distances.
    #[default]
    Poisson,
}

/// The due times of an open loop, from its start, in rising order.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    gap_s: f64,
    next_s: f64,
    end_s: f64,
    random: Random,
}

impl Schedule {
    /// `rate` requests per second for `length`. The same seed gives the same times.
    pub(crate) fn new(arrivals: Arrivals, rate: f64, length: Duration, seed: u64) -> Schedule {
        debug_assert!(rate > 0.0, "the command line refuses other rates");
        let (gap_s, end_s) = (1.0 / rate, length.as_secs_f64());
        Schedule { arrivals, gap_s, next_s: 0.0, end_s, random: Random(seed) }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let due = self.next_s;
        if due >= self.end_s {
            return None;
        }
        self.next_s += match self.arrivals {
            Arrivals::Constant => self.gap_s,
            // The inverse of the exponential distribution; `1 - unit` is never zero.
            Arrivals::Poisson => -(1.0 - self.random.unit()).ln() * self.gap_s,
        };
        Some(Duration::from_secs_f64(due))
    }
}

/// A small generator of repeatable numbers (SplitMix64: a counter, and a mixing function over it).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// The next number from 0 up to and without 1.
    pub(crate) fn unit(&mut self) -> f64 {
        // As many bits as a double holds exactly.
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_are_evenly_spread() {
        let times: Vec<Duration> =
            Schedule::new(Arrivals::Constant, 4.0, Duration::from_secs(1), 7).collect();
        assert_eq!(times, [0, 250, 500, 750].map(Duration::from_millis));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread() {
        let length = Duration::from_secs(100);
        let times: Vec<f64> =
            Schedule::new(Arrivals::Poisson, 1000.0, length, 7).map(|time| time.as_secs_f64()).collect();
        // The count's standard deviation is its root, so this is eight of them.
        assert!((times.len() as f64 - 100_000.0).abs() < 2600.0, "{}", times.len());
        assert!(times.is_sorted());
        // Of exponential gaps, 1/e are longer than the mean.
        let long = times.windows(2).filter(|pair| pair[1] - pair[0] > 0.001).count();
        let share = long as f64 / times.len() as f64;
        assert!((share - (-1f64).exp()).abs() < 0.02, "{share}");
        let again = Schedule::new(Arrivals::Poisson, 1000.0, length, 7);
        assert!(again.map(|time| time.as_secs_f64()).eq(times));
    }

    #[test]
    fn units_stay_below_one() {
        let mut random = Random(1);
        assert!((0..10_000).map(|_| random.unit()).all(|unit| (0.0..1.0).contains(&unit)));
    }
}
