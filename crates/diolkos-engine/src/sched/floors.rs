// SPDX-License-Identifier: Apache-2.0
//! What less urgent classes get whatever the more urgent ones want.
//!
//! While a class waits, a part of the device time that others are served is set aside for it. Once that is enough for its next job,
//! the job goes first. So in the long run a class that always waits has at least its share, and nothing starves; a class that is served anyway, because
//! the device has time, uses up what was set aside and never holds up a more urgent one.

use super::{CLASSES, Class, Nanos};

/// Shares of device time, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloorShares {
    /// Of class `standard`.
    pub standard: u16,
    /// Of class `batch`.
    pub batch: u16,
}

impl FloorShares {
    /// What they are where nobody says.
    pub const DEFAULT: FloorShares = FloorShares { standard: 100, batch: 50 };

    fn of(self, class: Class) -> u64 {
        match class {
            Class::Interactive => 0,
            Class::Standard => u64::from(self.standard),
            Class::Batch => u64::from(self.batch),
        }
    }
}

/// What is set aside: device time, in thousandths of nanoseconds. Less than nothing where a job took more than it was predicted
/// to, and more than its class had set aside.
#[derive(Debug)]
pub struct Floors {
    shares: FloorShares,
    aside: [i64; CLASSES.len()],
}

fn thousandths(time: Nanos, share: u64) -> i64 {
    i64::try_from(time.saturating_mul(share)).unwrap_or(i64::MAX)
}

impl Floors {
    /// Nothing is set aside yet.
    #[must_use]
    pub fn new(shares: FloorShares) -> Floors {
        Floors { shares, aside: [0; CLASSES.len()] }
    }

    /// A class was served, or will be, for so long; `due` says whether that was because its floor was due. `waits` says of the others whether they do.
    pub fn served(&mut self, served: Class, time: Nanos, due: bool, waits: impl Fn(Class) -> bool) {
        for class in CLASSES {
            let aside = &mut self.aside[class as usize];
            if class == served {
                let left = aside.saturating_sub(thousandths(time, 1000));
                // Time that nobody else wanted is no debt, and makes none smaller.
                *aside = if due { left } else { left.max(0.min(*aside)) };
            } else if waits(class) {
                *aside = aside.saturating_add(thousandths(time, self.shares.of(class)));
            } else {
                // A pause is no credit, and pays no debt.
                *aside = (*aside).min(0);
            }
        }
    }

    /// A class was served for so much less than was said when it began.
    pub fn took_less(&mut self, served: Class, time: Nanos, due: bool, waits: impl Fn(Class) -> bool) {
        for class in CLASSES {
            let aside = &mut self.aside[class as usize];
            if class == served {
                // What it had for nothing is not given back.
                *aside = aside.saturating_add(if due { thousandths(time, 1000) } else { 0 });
            } else if waits(class) {
                *aside = aside.saturating_sub(thousandths(time, self.shares.of(class)));
            }
        }
    }

    /// After how much time of the others so much would be set aside for a class; `None`: never.
    #[must_use]
    pub fn wait_for(&self, class: Class, cost: Nanos) -> Option<Nanos> {
        Some(cost.saturating_mul(1000)).and_then(|cost| cost.checked_div(self.shares.of(class)))
    }

    /// Whether enough was set aside for a job of this cost.
    #[must_use]
    pub fn is_due(&self, class: Class, cost: Nanos) -> bool {
        self.shares.of(class) > 0 && self.aside[class as usize] >= thousandths(cost, 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_waits_gets_its_share() {
        let mut floors = Floors::new(FloorShares { standard: 100, batch: 50 });
        let (mut served, mut total) = (0, 0);
        for _ in 0..10_000 {
            let class = if floors.is_due(Class::Batch, 7000) { Class::Batch } else { Class::Interactive };
            let time = if class == Class::Batch { 7000 } else { 1000 };
            floors.served(class, time, class == Class::Batch, |class| class != Class::Standard);
            served += if class == Class::Batch { time } else { 0 };
            total += time;
        }
        let share = served as f64 / total as f64;
        assert!((share - 0.0476).abs() < 0.002, "a twentieth of the others' time: {share}");
        assert!(!floors.is_due(Class::Standard, 1) && !floors.is_due(Class::Interactive, 1));
    }

    #[test]
    fn whoever_does_not_wait_saves_nothing() {
        let mut floors = Floors::new(FloorShares::DEFAULT);
        floors.served(Class::Interactive, 1_000_000, false, |_| true);
        assert!(floors.is_due(Class::Batch, 50_000));
        floors.served(Class::Interactive, 1, false, |_| false);
        assert!(!floors.is_due(Class::Batch, 1));
    }

    #[test]
    fn what_took_more_than_was_set_aside_is_a_debt() {
        let mut floors = Floors::new(FloorShares::DEFAULT);
        floors.served(Class::Interactive, 20_000, false, |_| true);
        assert!(floors.is_due(Class::Batch, 1000));
        floors.served(Class::Batch, 1000, true, |_| true);
        floors.served(Class::Batch, 100_000, true, |_| true);
        floors.served(Class::Interactive, 1, false, |_| false);
        floors.served(Class::Interactive, 1_900_000, false, |_| true);
        assert!(!floors.is_due(Class::Batch, 1000), "most of it is paid back");
        floors.served(Class::Interactive, 200_000, false, |_| true);
        assert!(floors.is_due(Class::Batch, 1000));
        assert_eq!(floors.wait_for(Class::Batch, 1000), Some(20_000));
        assert_eq!(floors.wait_for(Class::Interactive, 1000), None);
    }
}
