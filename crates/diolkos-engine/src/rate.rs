// SPDX-License-Identifier: Apache-2.0
//! So many requests per second, and a few at once: the generic cell rate algorithm of ITU-T I.371, which is a token
//! bucket whose whole state is one time.
//!
//! The state is when the next request would be due if all came evenly. A request that comes no more than the burst
//! before that is admitted, and moves it by one interval.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sched::Nanos;

const SECOND: Nanos = 1_000_000_000;

/// How often, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval: Nanos,
    burst: u32,
}

impl Rate {
    /// One request each `interval`, and up to `burst` at once after a pause. A burst of 0 counts as 1, because else
    /// nothing would ever be admitted; an interval longer than a day counts as a day.
    #[must_use]
    pub fn new(interval: Duration, burst: u32) -> Rate {
        let interval = crate::account::saturating_ns(interval).min(24 * 3600 * 1_000_000_000);
        Rate { interval, burst: burst.max(1) }
    }

    /// How long before its time a request may come.
    fn tolerance(self) -> Nanos {
        self.interval.saturating_mul(u64::from(self.burst - 1))
    }
}

/// So many bytes per second, and those of a second at once.
///
/// How many come is known only when they have come, or have been announced. So they are charged whatever the account says, and
/// what comes next waits until it is settled: whoever is within the rate may send something larger than a second's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRate(NonZeroU64);

impl ByteRate {
    /// So many bytes per second.
    #[must_use]
    pub const fn new(per_second: NonZeroU64) -> ByteRate {
        ByteRate(per_second)
    }

    /// Bytes per second.
    #[must_use]
    pub const fn per_second(self) -> NonZeroU64 {
        self.0
    }

    /// How long so many bytes take, at most a day.
    fn time_of(self, bytes: u64) -> Nanos {
        let nanos = u128::from(bytes) * u128::from(SECOND) / u128::from(self.0.get());
        u64::try_from(nanos).unwrap_or(Nanos::MAX).min(24 * 3600 * SECOND)
    }
}

/// One tenant's use of a [`Rate`] or a [`ByteRate`]. Times are nanoseconds from an origin that the caller chose.
#[derive(Debug, Default)]
pub struct Meter {
    due: AtomicU64,
}

impl Meter {
    /// Admits a request, or says how long to wait before the next try.
    pub fn admit(&self, now: Nanos, rate: Rate) -> Result<(), Duration> {
        let next = |due: Nanos| early(due, now, rate).is_none().then(|| due.max(now) + rate.interval);
        // Relaxed: the time guards no other memory, and the update is atomic.
        match self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(()),
            Err(due) => Err(early(due, now, rate).unwrap_or_default()),
        }
    }

    /// Charges bytes that came.
    pub fn debit(&self, now: Nanos, rate: ByteRate, bytes: u64) {
        let cost = rate.time_of(bytes);
        // However much raced or was announced, nobody waits for longer than the largest of it takes, or a minute.
        let latest = now.saturating_add(SECOND).saturating_add(cost.max(60 * SECOND));
        let next = |due: Nanos| Some(due.max(now).saturating_add(cost).min(latest));
        // Relaxed, as above. It never fails, as the closure gives something each time.
        let _ = self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// Forgets what was charged, for another rate.
    pub(crate) fn reset(&self) {
        self.due.store(0, Ordering::Relaxed);
    }

    /// How long until more bytes may come, if not now.
    #[must_use]
    pub fn owes(&self, now: Nanos) -> Option<Duration> {
        let owed = self.due.load(Ordering::Relaxed).saturating_sub(now).saturating_sub(SECOND);
        (owed > 0).then(|| Duration::from_nanos(owed))
    }

    /// Whether a request would be refused now, and how long it had to wait; charges nothing.
    #[must_use]
    pub fn peek(&self, now: Nanos, rate: Rate) -> Option<Duration> {
        early(self.due.load(Ordering::Relaxed), now, rate)
    }
}

/// By how much a request comes too early.
fn early(due: Nanos, now: Nanos, rate: Rate) -> Option<Duration> {
    let too_early = due.saturating_sub(now).saturating_sub(rate.tolerance());
    (too_early > 0).then(|| Duration::from_nanos(too_early))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn per_second(requests: u32, burst: u32) -> Rate {
        Rate::new(Duration::from_secs(1) / requests, burst)
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let (meter, rate) = (Meter::default(), per_second(10, 3));
        let admitted = (0..10).filter(|_| meter.admit(SECOND, rate).is_ok()).count();
        assert_eq!(admitted, 3);
        assert_eq!(meter.admit(SECOND, rate), Err(Duration::from_millis(100)));
        assert_eq!(meter.peek(SECOND, rate), Some(Duration::from_millis(100)));
        assert_eq!(meter.peek(SECOND + SECOND / 10, rate), None);
        assert_eq!(meter.admit(SECOND + SECOND / 10, rate), Ok(()));
        assert!(meter.admit(SECOND + SECOND / 10, rate).is_err());
        // A pause brings the whole burst back, and no more.
        let admitted = (0..10).filter(|_| meter.admit(100 * SECOND, rate).is_ok()).count();
        assert_eq!(admitted, 3);
    }

    #[test]
    fn extremes_are_harmless() {
        let rate = Rate::new(Duration::MAX, 0);
        let meter = Meter::default();
        assert_eq!(meter.admit(0, rate), Ok(()));
        assert_eq!(meter.admit(0, rate), Err(Duration::from_secs(24 * 3600)));
        let endless = Rate::new(Duration::ZERO, u32::MAX);
        let meter = Meter::default();
        assert!((0..100).all(|_| meter.admit(SECOND, endless).is_ok()));
    }

    fn bytes_per_second(bytes: u64) -> ByteRate {
        ByteRate::new(NonZeroU64::new(bytes).unwrap())
    }

    #[test]
    fn bytes_are_charged_and_what_comes_next_waits() {
        let (meter, rate) = (Meter::default(), bytes_per_second(1000));
        meter.debit(SECOND, rate, 1000);
        assert_eq!(meter.owes(SECOND), None, "a second's bytes at once");
        // More than a second's are charged as a whole, and paid for by waiting.
        meter.debit(SECOND, rate, 5000);
        assert_eq!(meter.owes(SECOND), Some(Duration::from_secs(5)));
        assert_eq!(
            (meter.owes(6 * SECOND - 1), meter.owes(6 * SECOND)),
            (Some(Duration::from_nanos(1)), None)
        );
        // Nothing is saved up for longer than a second.
        meter.debit(100 * SECOND, rate, 1001);
        assert_eq!(meter.owes(100 * SECOND), Some(Duration::from_millis(1)));
        for _ in 0..1000 {
            meter.debit(100 * SECOND, rate, 10_000);
        }
        assert_eq!(meter.owes(100 * SECOND), Some(Duration::from_secs(60)), "debts do not add up for ever");
        meter.debit(100 * SECOND, bytes_per_second(1), u64::MAX);
        assert!(meter.owes(100 * SECOND).unwrap() <= Duration::from_secs(25 * 3600));
    }

    #[test]
    fn whoever_races_gets_no_more() {
        let (meter, rate) = (Meter::default(), per_second(1, 50));
        let admitted: usize = std::thread::scope(|scope| {
            let race = || (0..1000).filter(|_| meter.admit(SECOND, rate).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(race)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 50);
    }

    proptest! {
        /// Whoever sends whenever it may gets the rate, a second's bytes, and one piece more.
        #[test]
        fn bytes_keep_to_the_rate(per_second in 1u64..1 << 40, sizes in proptest::collection::vec(1u64..1 << 32, 1..50)) {
            let (meter, rate) = (Meter::default(), bytes_per_second(per_second));
            let (mut now, mut sent) = (SECOND, 0u128);
            let largest = u128::from(*sizes.iter().max().unwrap());
            for bytes in sizes {
                if let Some(wait) = meter.owes(now) {
                    now += u64::try_from(wait.as_nanos()).unwrap();
                    prop_assert!(meter.owes(now).is_none());
                }
                meter.debit(now, rate, bytes);
                sent += u128::from(bytes);
                let elapsed = u128::from(now - SECOND);
                // A day is the longest that anything is charged, and rounding is to whole nanoseconds.
                let capped = largest > u128::from(per_second) * 86_400;
                let allowed = u128::from(per_second) * (elapsed + u128::from(SECOND)) / u128::from(SECOND) + largest + 50;
                let rounding = 50 * u128::from(per_second) / u128::from(SECOND);
                prop_assert!(capped || sent <= allowed + rounding, "{} > {}", sent, allowed);
            }
        }

        /// In no stretch of time are there more than a burst and what the rate gives for it.
        #[test]
        fn every_window_is_bounded(
            requests in 1u32..1000,
            burst in 1u32..20,
            gaps in proptest::collection::vec(0u64..SECOND / 4, 1..200),
        ) {
            let (meter, rate) = (Meter::default(), per_second(requests, burst));
            let mut now = SECOND;
            let mut admitted = Vec::new();
            for gap in gaps {
                now += gap;
                match meter.admit(now, rate) {
                    Ok(()) => admitted.push(now),
                    Err(wait) => {
                        // The hint is exact: at that moment it would be admitted, and not before.
                        let due = now + u64::try_from(wait.as_nanos()).unwrap();
                        prop_assert!(meter.peek(due, rate).is_none() && meter.peek(due - 1, rate).is_some());
                    }
                }
            }
            for (first, &from) in admitted.iter().enumerate() {
                for (last, &to) in admitted.iter().enumerate().skip(first) {
                    let allowed = u64::from(burst) + (to - from) / rate.interval;
                    prop_assert!((last - first + 1) as u64 <= allowed);
                }
            }
        }
    }
}
