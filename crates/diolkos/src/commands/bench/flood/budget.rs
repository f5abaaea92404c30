// SPDX-License-Identifier: Apache-2.0
//! How much a flood may send: so many things per second at most, and no more than its share of a core. Pure.
//!
//! Both floods, the one at the daemon and the one at the server that drops, have the same budgets. Without the one of CPU
//! time, the flood that is answered slower would be the smaller one, and what is left of the machine would be compared.

use std::time::Duration;

/// What a pace may be behind: what could not be sent in this time is not sent later at once.
const BEHIND: Duration = Duration::from_millis(100);

/// CPU time that may be saved up.
const SAVED: Duration = Duration::from_millis(10);

/// So many per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    per_second: f64,
    /// Up to when everything was sent or given up, in things.
    done: f64,
}

impl Pace {
    pub(super) fn new(per_second: f64) -> Pace {
        Pace { per_second, done: 0.0 }
    }

    /// How many are due, so long after the start.
    pub(super) fn due(&mut self, elapsed: Duration) -> u64 {
        let all = elapsed.as_secs_f64() * self.per_second;
        self.done = self.done.max(all - BEHIND.as_secs_f64() * self.per_second);
        // Whole ones; less than none is none.
        (all - self.done) as u64
    }

    /// One was sent.
    pub(super) fn sent(&mut self) {
        self.done += 1.0;
    }
}

/// A share of a core.
#[derive(Clone, Copy, Debug)]
pub(super) struct CpuBudget {
    share: f64,
    saved_s: f64,
    elapsed: Duration,
    used: Duration,
}

impl CpuBudget {
    pub(super) fn new(share: f64) -> CpuBudget {
        CpuBudget { share, saved_s: 0.0, elapsed: Duration::ZERO, used: Duration::ZERO }
    }

    /// How long to rest, given the time since the start and the CPU time used since then.
    pub(super) fn rest(&mut self, elapsed: Duration, used: Duration) -> Duration {
        let gained = elapsed.saturating_sub(self.elapsed).as_secs_f64() * self.share;
        let spent = used.saturating_sub(self.used).as_secs_f64();
        (self.elapsed, self.used) = (elapsed, used);
        self.saved_s = (self.saved_s + gained - spent).min(SAVED.as_secs_f64());
        Duration::from_secs_f64((-self.saved_s).max(0.0) / self.share)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_pace_is_kept_and_not_made_up_for() {
        let mut pace = Pace::new(1000.0);
        assert_eq!(pace.due(Duration::ZERO), 0);
        assert_eq!(pace.due(5 * MS), 5);
        for _ in 0..5 {
            pace.sent();
        }
        assert_eq!(pace.due(5 * MS), 0);
        assert_eq!(pace.due(5000 * MS), 100, "a tenth of a second is what may be behind");
    }

    #[test]
    fn who_used_more_rests() {
        let mut budget = CpuBudget::new(0.5);
        assert_eq!(budget.rest(10 * MS, 4 * MS), Duration::ZERO);
        let rest = budget.rest(20 * MS, 14 * MS);
        assert!(rest.abs_diff(8 * MS) < Duration::from_micros(1), "{rest:?}");
        assert_eq!(budget.rest(20 * MS + rest, 14 * MS).as_micros(), 0);
    }

    proptest! {
        /// Whoever rests as told has used no more than its share, what may be saved, and one piece of work.
        #[test]
        fn the_share_is_kept(share in 0.1f64..1.0, work_us in prop::collection::vec(1u64..2000, 1..200)) {
            let mut budget = CpuBudget::new(share);
            let (mut elapsed, mut used) = (Duration::ZERO, Duration::ZERO);
            for work in work_us {
                let work = Duration::from_micros(work);
                elapsed += work;
                used += work;
                let allowed = elapsed.as_secs_f64() * share + (SAVED + work).as_secs_f64() + 1e-6;
                prop_assert!(used.as_secs_f64() <= allowed, "{:?} of {}", used, allowed);
                elapsed += budget.rest(elapsed, used);
            }
        }
    }
}
