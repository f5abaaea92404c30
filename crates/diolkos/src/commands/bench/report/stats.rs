// SPDX-License-Identifier: Apache-2.0
//! Medians over rounds, how far the rounds spread, and how sure the median is.
//!
//! Rounds are few and now and then one is far off, so nothing here assumes a normal distribution: the
//! interval for the median is the one from order statistics (each round is above or below the true median
//! like a coin's toss).

use serde::{Deserialize, Serialize};

/// How sure an interval for the median is, at least.
pub(in crate::commands::bench) const CONFIDENCE: f64 = 0.95;

/// Values of several rounds in short.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::commands::bench) struct Spread {
    /// How many there were.
    pub(in crate::commands::bench) count: usize,
    /// Least.
    pub(in crate::commands::bench) min: f64,
    /// Middle.
    pub(in crate::commands::bench) median: f64,
    /// Greatest.
    pub(in crate::commands::bench) max: f64,
    /// With [`CONFIDENCE`] the median of all rounds that could have been lies in here; `None` if there are
    /// too few rounds to say so.
    pub(in crate::commands::bench) interval: Option<(f64, f64)>,
}

impl Spread {
    /// `None` of nothing.
    pub(in crate::commands::bench) fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        let interval = outside(sorted.len()).map(|cut| (sorted[cut], sorted[sorted.len() - 1 - cut]));
        Some(Spread { count: sorted.len(), min, median, max, interval })
    }
}

/// How many of the least and of the greatest of `count` values may be left out so that the rest still spans
/// the median with [`CONFIDENCE`].
fn outside(count: usize) -> Option<usize> {
    // Chance that all tosses but `k` fall on one side, and that on either of two sides.
    let mut one = 0.5f64.powi(i32::try_from(count).ok()?);
    let mut sum = 0.0;
    let mut cut = None;
    for k in 0..count / 2 {
        sum += 2.0 * one;
        if sum > 1.0 - CONFIDENCE {
            break;
        }
        cut = Some(k);
        one *= (count - k) as f64 / (k + 1) as f64;
    }
    cut
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn intervals_are_those_of_the_tables() {
        // From the binomial distribution with p = 1/2: with 5 values even the whole range is only 93.75 % sure.
        assert_eq!(outside(0), None);
        assert_eq!(outside(5), None);
        assert_eq!(outside(6), Some(0));
        assert_eq!(outside(9), Some(1));
        assert_eq!(outside(15), Some(3));
        assert_eq!(outside(25), Some(7));
    }

    #[test]
    fn medians() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN]), None);
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max, spread.interval), (1.0, 2.0, 3.0, None));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
    }

    proptest! {
        #[test]
        fn everything_is_in_order(values in prop::collection::vec(-1e9f64..1e9, 1..60)) {
            let spread = Spread::of(values).unwrap();
            prop_assert!(spread.min <= spread.median && spread.median <= spread.max);
            if let Some((low, high)) = spread.interval {
                prop_assert!(spread.min <= low && low <= spread.median && spread.median <= high && high <= spread.max);
            }
        }
    }
}
