// SPDX-License-Identifier: Apache-2.0
//! What a job will cost in device time, from what jobs like it did.
//!
//! Alike are jobs of the same version whose inputs have about as many bytes: between two powers of two. Each such bucket has
//! an exponentially weighted mean, into which a time that is far out goes as eight times the mean, so that one that was
//! held up does not make all that follow look expensive. What was never seen is guessed from the nearest bucket, and before
//! anything was seen from the warm-up runs of the load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::account::saturating_ns;
use crate::sched::Nanos;

/// One for each power of two that a number of bytes can have.
const BUCKETS: usize = u64::BITS as usize;

/// The newest time has this part in the mean.
const NEWEST: u64 = 8;

/// A time counts as so many times the mean at most.
const OUTLIER: u64 = 8;

/// A guess for inputs that are larger than all that were seen grows with their size, but only so far.
const GUESS_UP_MAX: u32 = 4;

/// What a job is guessed to cost of which nothing is known: a built-in operation's first call.
const UNKNOWN: Nanos = 100_000;

/// What is known of one version. Atomics are relaxed: a sample that is lost to a race is one of many.
#[derive(Debug)]
pub(crate) struct Predictor([AtomicU64; BUCKETS]);

impl Default for Predictor {
    fn default() -> Predictor {
        Predictor([const { AtomicU64::new(0) }; BUCKETS])
    }
}

fn bucket(bytes: u64) -> usize {
    bytes.max(1).ilog2() as usize
}

impl Predictor {
    fn mean(&self, bucket: usize) -> Option<Nanos> {
        Some(self.0[bucket].load(Ordering::Relaxed)).filter(|&mean| mean > 0)
    }

    /// The cost of a job with so many bytes of input; `warm_up` is a run's time when the version was loaded, 0 = unknown.
    pub(crate) fn predict(&self, bytes: u64, warm_up: Nanos) -> Nanos {
        let at = bucket(bytes);
        let smaller = || {
            let (distance, mean) =
                (0..at).rev().find_map(|below| Some(((at - below) as u32, self.mean(below)?)))?;
            Some(mean.saturating_mul(1 << distance.min(GUESS_UP_MAX)))
        };
        let larger = || (at + 1..BUCKETS).find_map(|above| self.mean(above));
        let guess = if warm_up > 0 { warm_up } else { UNKNOWN };
        self.mean(at).or_else(smaller).or_else(larger).unwrap_or(guess)
    }

    /// A job with so many bytes of input took `time`.
    pub(crate) fn learn(&self, bytes: u64, time: Duration) {
        let (at, time) = (bucket(bytes), saturating_ns(time).max(1));
        let mean = match self.mean(at) {
            None => time,
            Some(mean) => {
                let time = time.min(mean.saturating_mul(OUTLIER));
                (mean - mean / NEWEST).saturating_add(time / NEWEST).max(1)
            }
        };
        self.0[at].store(mean, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn learn(predictor: &Predictor, bytes: u64, nanoseconds: Nanos) {
        predictor.learn(bytes, Duration::from_nanos(nanoseconds));
    }

    #[test]
    fn it_learns_and_forgets_what_was_far_out() {
        let predictor = Predictor::default();
        assert_eq!((predictor.predict(1000, 7 * MS), predictor.predict(1000, 0)), (7 * MS, UNKNOWN));
        for _ in 0..50 {
            learn(&predictor, 1000, MS);
        }
        assert!(predictor.predict(1000, 7 * MS).abs_diff(MS) < MS / 100);
        learn(&predictor, 1000, 1000 * MS);
        assert!(predictor.predict(1000, 0) < 2 * MS, "one that was held up says little");
        for _ in 0..60 {
            learn(&predictor, 1000, 4 * MS);
        }
        assert!(predictor.predict(1000, 0).abs_diff(4 * MS) < MS / 20, "what goes on is believed");
    }

    #[test]
    fn what_was_never_seen_is_guessed_from_what_is_near() {
        let predictor = Predictor::default();
        learn(&predictor, 1 << 10, MS);
        assert_eq!(predictor.predict((1 << 10) + 5, 0), MS, "the same bucket");
        assert_eq!(predictor.predict(1 << 12, 0), 4 * MS, "larger inputs take longer");
        assert_eq!(predictor.predict(1 << 30, 0), 16 * MS, "but a guess is a guess");
        assert_eq!(predictor.predict(0, 0), MS, "and smaller ones no longer");
    }
}
