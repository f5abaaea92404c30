// SPDX-License-Identifier: Apache-2.0
//! How long to look before sleeping. Pure: durations come in, durations come out.
//!
//! To be woken costs tens of microseconds, most of them for the kernel to bring an idle core back; to look again
//! and again costs a core. So a waiter looks if what it waits for has been coming within the time that looking may
//! take, and sleeps at once if it has not. Whoever has nothing to do all day looks at most once per wait, and therefore
//! uses no processor while nothing comes.
//!
//! What comes later but at its usual time is awaited in two steps: a nap with an alarm, and a look from shortly
//! before that time on ([`Plan`]). So the core comes back while the answer is still being computed.
//!
//! On a busy machine looking takes the core from whoever should answer. A waiter that gives its core
//! away between two looks ([`std::thread::yield_now`]) and gets it back late, twice in a row, knows that others want
//! it ([`Yields`]): it sleeps at once, then and for the next [`CALM`] waits. Where what is awaited takes no
//! time to speak of, and others give the core back soon because they only wait as well, it goes on, and looks less between two
//! yields: a turn of each costs less than to be woken.

use core::time::Duration;

/// Longest time to look for a request, which comes when a client likes: what a wake-up of an idle core was seen to
/// cost, twice, once for each direction.
pub const LOOK_MAX: Duration = Duration::from_micros(60);

/// Longest time to look for an answer, which somebody is working on: waking up for it would cost a fifth of that or more.
pub const ANSWER_LOOK_MAX: Duration = Duration::from_micros(250);

/// A yield that takes longer than this let somebody else run, or an interrupt came in between. One that nobody takes up
/// lasts under a microsecond.
const YIELD_PROMPT: Duration = Duration::from_micros(10);

/// A yield that takes longer than this let somebody run who has long work, and takes what the system gives. Shorter ones
/// let others run who wait and yield as well, such as clients beside each other: to be woken costs more than their turns.
const YIELD_SHORT: Duration = Duration::from_micros(200);

/// Waits without looking after a busy moment.
pub const CALM: u32 = 64;

/// A nap ends so long before the earliest time that something is expected: a core that was idle for a millisecond was
/// seen to take 80 µs to come back, and Linux lets alarms be late by 50 µs (timer slack, see prctl(2)).
const EARLY: Duration = Duration::from_micros(130);

/// Shorter naps are not worth their system calls.
const NAP_MIN: Duration = Duration::from_micros(100);

/// For what usually takes longer than this, being woken is a small part, and nothing is planned.
const NAP_MAX: Duration = Duration::from_millis(20);

/// Every so many waits without looking, one looks, to find out whether times have changed.
const PROBE: u32 = 32;

/// What earlier waits taught: their mean and their mean deviation from it, as TCP estimates round trips (RFC 6298,
/// section 2, with its weights of 1/8 and 1/4).
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    max: Duration,
    mean: Duration,
    deviation: Duration,
    calm: u32,
    blind: u32,
}

/// How to wait this time: a nap, then a look, then sleep for as long as it takes. Either may be zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sleep for so long, or until woken.
    pub nap: Duration,
    /// Then look for so long.
    pub look: Duration,
}

/// How a wait went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// From the beginning to what was waited for.
    pub total: Duration,
    /// A yield took long: others want the core.
    pub busy: bool,
    /// It came during the nap. So `total` has the time in it that waking up took.
    pub napping: bool,
}

/// Tells from how long yields took whether others want the core. A single late one may have been an interrupt, such as
/// the clock's, which comes every few milliseconds; whoever wants the core takes the next one as well.
#[derive(Clone, Copy, Debug, Default)]
pub struct Yields {
    late: bool,
    long: bool,
}

impl Yields {
    /// One more yield took so long.
    pub fn took(&mut self, time: Duration) -> Others {
        let late = core::mem::replace(&mut self.late, time > YIELD_PROMPT);
        let long = core::mem::replace(&mut self.long, time > YIELD_SHORT);
        match (late && self.late, long && self.long) {
            (_, true) => Others::Work,
            (true, false) => Others::TakeTurns,
            (false, false) => Others::None,
        }
    }
}

/// Who else wants the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Nobody.
    None,
    /// Some who give it back soon.
    TakeTurns,
    /// Somebody who keeps it.
    Work,
}

impl Spin {
    /// Looks for at most so long; with zero, never.
    #[must_use]
    pub const fn new(max: Duration) -> Spin {
        Spin { max, mean: Duration::ZERO, deviation: Duration::ZERO, calm: 0, blind: 0 }
    }

    /// How to wait this time.
    pub fn plan(&mut self) -> Plan {
        if self.calm > 0 {
            self.calm -= 1;
            return Plan::default();
        }
        let look_at_once = Plan { nap: Duration::ZERO, look: self.max };
        if self.mean <= self.max {
            return look_at_once;
        }
        let margin = 2 * self.deviation;
        let nap = self.mean.saturating_sub(margin + EARLY);
        // Until what comes is somewhat late.
        let look = EARLY + margin + self.deviation;
        if look <= self.max && nap >= NAP_MIN && self.mean <= NAP_MAX {
            return Plan { nap, look };
        }
        self.blind = self.blind.wrapping_add(1);
        if self.blind.is_multiple_of(PROBE) { look_at_once } else { Plan::default() }
    }

    /// How long to look this time, for a waiter that can't nap.
    pub fn look(&mut self) -> Duration {
        let Plan { nap, look } = self.plan();
        if nap.is_zero() { look } else { Duration::ZERO }
    }

    /// Learns from a wait that ended.
    pub fn learn(&mut self, waited: Waited) {
        if waited.busy {
            self.calm = CALM;
        }
        // One pause of an hour must not count more than one that is a few times as long as usual.
        let mut total = waited.total.min(2 * self.mean + LOOK_MAX).min(2 * NAP_MAX);
        if waited.napping {
            // Or else naps would grow by that time, and the look never begin.
            total = total.saturating_sub(EARLY);
        }
        let off = total.abs_diff(self.mean);
        if total < self.mean / 2 {
            // Better times are noticed at once.
            self.mean = (self.mean + total) / 2;
            self.deviation = (self.deviation + off) / 4;
        } else {
            self.mean = self.mean - self.mean / 8 + total / 8;
            self.deviation = self.deviation - self.deviation / 4 + off / 4;
        }
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
        Waited { total: LOOK_MAX / 10, busy: false, napping: false }
    }

    fn slow() -> Waited {
        Waited { total: Duration::from_secs(3600), busy: false, napping: false }
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

    /// How the next waits are planned after many that take `micros` on average, and up to a tenth more or less.
    fn planned(spin: &mut Spin, micros: u64) -> Plan {
        (0..200u64).for_each(|turn| {
            let total = Duration::from_nanos(micros * (900 + 200 * (turn * 7 % 10) / 9));
            spin.learn(Waited { total, busy: false, napping: false });
        });
        spin.plan()
    }

    #[test]
    fn what_comes_at_its_time_is_awaited_by_a_nap_and_a_look() {
        let mut spin = Spin::new(ANSWER_LOOK_MAX);
        assert_eq!(planned(&mut spin, 150), Plan { nap: Duration::ZERO, look: ANSWER_LOOK_MAX });
        let Plan { nap, look } = planned(&mut spin, 600);
        assert!(nap > Duration::from_micros(250) && nap < Duration::from_micros(600 * 9 / 10), "{nap:?}");
        assert!(nap + look > Duration::from_micros(600), "it looks when it usually comes: {nap:?} {look:?}");
        assert!(look <= ANSWER_LOOK_MAX);
        assert_eq!(planned(&mut spin, 100_000), Plan::default(), "too long for it to matter");
        assert_eq!(planned(&mut spin, 150), Plan { nap: Duration::ZERO, look: ANSWER_LOOK_MAX });
        // Who may look for so short a time only never naps.
        let mut short = Spin::default();
        assert_eq!(planned(&mut short, 600), Plan::default());
    }

    #[test]
    fn a_nap_that_is_too_long_gets_shorter() {
        let mut spin = Spin::new(ANSWER_LOOK_MAX);
        let _ = planned(&mut spin, 2_000);
        // From now on it comes after 1 ms, and waking up takes 100 µs.
        let (comes, wakes) = (Duration::from_millis(1), Duration::from_micros(100));
        let in_time = (0..).find(|_| {
            let Plan { nap, look } = spin.plan();
            let (total, napping) = if nap > comes {
                (comes + wakes, true)
            } else if nap + look > comes {
                (comes, false)
            } else {
                (comes + wakes, false)
            };
            spin.learn(Waited { total, busy: false, napping });
            total == comes
        });
        assert!(in_time < Some(50), "{in_time:?}");
    }

    #[test]
    fn what_comes_at_any_time_is_slept_for() {
        let mut spin = Spin::new(ANSWER_LOOK_MAX);
        (0..200).for_each(|turn| {
            let total = Duration::from_micros(600 + 900 * (turn % 2));
            spin.learn(Waited { total, busy: false, napping: false });
        });
        assert_eq!(spin.plan(), Plan::default());
    }

    #[test]
    fn one_late_yield_may_be_an_interrupt() {
        let mut yields = Yields::default();
        let (late, prompt, long) = (2 * YIELD_PROMPT, YIELD_PROMPT / 2, 2 * YIELD_SHORT);
        let others = [late, prompt, late, late, long, long, late, prompt, long].map(|took| yields.took(took));
        let (none, turns) = (Others::None, Others::TakeTurns);
        assert_eq!(others, [none, none, none, turns, turns, Others::Work, turns, none, none]);
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
