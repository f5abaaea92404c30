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

/// What is set aside: device time, in thousandths of nanoseconds.
#[derive(Debug)]
pub struct Floors {
    shares: FloorShares,
    aside: [u64; CLASSES.len()],
}

impl Floors {
    /// Nothing is set aside yet.
    #[must_use]
    pub fn new(shares: FloorShares) -> Floors {
        Floors { shares, aside: [0; CLASSES.len()] }
    }

    /// A class was served, or will be, for so long. `waits` says of the others whether they do.
    pub fn served(&mut self, served: Class, time: Nanos, waits: impl Fn(Class) -> bool) {
        for class in CLASSES {
            let aside = &mut self.aside[class as usize];
            if class == served {
                *aside = aside.saturating_sub(time.saturating_mul(1000));
            } else if waits(class) {
                *aside = aside.saturating_add(time.saturating_mul(self.shares.of(class)));
            } else {
                // A pause is no credit.
                *aside = 0;
            }
        }
    }

    /// Whether enough was set aside for a job of this cost.
    #[must_use]
    pub fn is_due(&self, class: Class, cost: Nanos) -> bool {
        self.shares.of(class) > 0 && self.aside[class as usize] / 1000 >= cost
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
            floors.served(class, time, |class| class != Class::Standard);
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
        floors.served(Class::Interactive, 1_000_000, |_| true);
        assert!(floors.is_due(Class::Batch, 50_000));
        floors.served(Class::Interactive, 1, |_| false);
        assert!(!floors.is_due(Class::Batch, 1));
    }
}
