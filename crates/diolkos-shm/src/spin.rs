// SPDX-License-Identifier: Apache-2.0
//! How long to look before sleeping. Pure: durations come in, a duration comes out.
//!
//! To be woken costs tens of microseconds, most of them for the kernel to bring an idle core back; to look again
//! and again costs a core. So a waiter looks for about as long as waking would take, if answers have been
//! coming within that time, and sleeps at once if they have not. Whoever has nothing to do all day spins
//! at most once per wait, and therefore uses no processor while nothing comes.
//!
//! On a busy machine looking takes the core from whoever should answer. A waiter that gives its core
//! away between two looks ([`std::thread::yield_now`]) and gets it back late knows that others want it: it sleeps
//! at once, then and for the next [`CALM`] waits.

use core::time::Duration;

/// Longest time to look: what a wake-up of an idle core was seen to cost, twice, once for each direction.
pub const LOOK_MAX: Duration = Duration::from_micros(60);

/// A yield that takes longer than this let somebody else run. One that nobody takes up lasts under a microsecond.
pub const YIELD_MAX: Duration = Duration::from_micros(10);

/// Waits without looking after a busy moment.
pub const CALM: u32 = 64;

/// Every so many waits without looking, one looks, to find out whether times have changed.
const PROBE: u32 = 32;

/// Weight of the newest wait in the typical one, as a power of two: the last eight count most.
const NEWEST: u32 = 3;

/// What earlier waits taught.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    max: Duration,
    /// A moving average of waits, none counted longer than twice the longest look.
    typical: Duration,
    calm: u32,
    blind: u32,
}

/// How a wait went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// From the beginning to what was waited for.
    pub total: Duration,
    /// A yield took long: others want the core.
    pub busy: bool,
}

impl Spin {
    /// Looks for at most so long; with zero, never.
    #[must_use]
    pub const fn new(max: Duration) -> Spin {
        Spin { max, typical: Duration::ZERO, calm: 0, blind: 0 }
    }

    /// How long to look this time.
    pub fn look(&mut self) -> Duration {
        if self.calm > 0 {
            self.calm -= 1;
            return Duration::ZERO;
        }
        if self.typical <= self.max {
            return self.max;
        }
        self.blind += 1;
        if self.blind.is_multiple_of(PROBE) { self.max } else { Duration::ZERO }
    }

    /// Learns from a wait that ended.
    pub fn learn(&mut self, waited: Waited) {
        if waited.busy {
            self.calm = CALM;
        }
        // One pause of an hour must not count more than one of a millisecond.
        let total = waited.total.min(self.max * 2);
        self.typical = self.typical - self.typical / (1 << NEWEST) + total / (1 << NEWEST);
    }
}

impl Default for Spin {
    fn default() -> Spin {
        Spin::new(LOOK_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick() -> Waited {
        Waited { total: LOOK_MAX / 10, busy: false }
    }

    fn slow() -> Waited {
        Waited { total: Duration::from_secs(3600), busy: false }
    }

    #[test]
    fn looks_while_answers_come_quickly() {
        let mut spin = Spin::default();
        for _ in 0..1000 {
            assert_eq!(spin.look(), LOOK_MAX);
            spin.learn(quick());
        }
    }

    #[test]
    fn sleeps_at_once_when_they_do_not_and_notices_when_they_do_again() {
        let mut spin = Spin::default();
        let looks = (0..1000).filter(|_| {
            let looks = !spin.look().is_zero();
            spin.learn(slow());
            looks
        });
        let looks = looks.count();
        assert!((20..60).contains(&looks), "{looks} of 1000 waits looked in vain");
        let until_it_looks = (0..).find(|_| {
            let looks = !spin.look().is_zero();
            spin.learn(quick());
            looks
        });
        assert!(until_it_looks < Some(PROBE), "{until_it_looks:?}");
    }

    #[test]
    fn a_single_long_pause_changes_little() {
        let mut spin = Spin::default();
        (0..100).for_each(|_| spin.learn(quick()));
        spin.learn(slow());
        assert_eq!(spin.look(), LOOK_MAX);
    }

    #[test]
    fn keeps_calm_after_a_busy_moment() {
        let mut spin = Spin::default();
        spin.learn(Waited { busy: true, ..quick() });
        for _ in 0..CALM {
            assert_eq!(spin.look(), Duration::ZERO);
            spin.learn(quick());
        }
        assert_eq!(spin.look(), LOOK_MAX);
        assert_eq!(Spin::new(Duration::ZERO).look(), Duration::ZERO);
    }
}
