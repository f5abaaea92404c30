// SPDX-License-Identifier: Apache-2.0
//! Short rounds, each with a look at who else used the machine; those in which others did are measured again.

use std::time::Duration;

use super::super::children::cannot;
use super::super::procfs::{Foreign, Sample, foreign};
use crate::exit::Failure;

/// How many rounds, and how long.
#[derive(Clone, Copy, Debug)]
pub(in crate::commands::bench) struct Plan {
    /// Clean rounds that are wanted.
    pub(in crate::commands::bench) rounds: usize,
    /// Rounds that are measured at most to get them.
    pub(in crate::commands::bench) tries: usize,
    /// Length of what is measured in a round.
    pub(in crate::commands::bench) length: Duration,
    /// Load before that.
    pub(in crate::commands::bench) warmup: Duration,
}

impl Plan {
    /// A thorough one, or one for a quick look.
    pub(in crate::commands::bench) fn new(quick: bool) -> Plan {
        let millis = Duration::from_millis;
        if quick {
            Plan { rounds: 6, tries: 8, length: millis(300), warmup: millis(50) }
        } else {
            Plan { rounds: 15, tries: 45, length: millis(1000), warmup: millis(100) }
        }
    }

    /// The same with fewer rounds.
    pub(in crate::commands::bench) fn of(self, rounds: usize) -> Plan {
        Plan { rounds: rounds.min(self.rounds), tries: (3 * rounds).min(self.tries), ..self }
    }

    /// The same with as many rounds as somebody wants.
    pub(in crate::commands::bench) fn with(self, rounds: usize) -> Plan {
        Plan { rounds, tries: 3 * rounds, ..self }
    }

    /// Whether there were enough.
    pub(in crate::commands::bench) fn is_done(&self, clean: usize, all: usize) -> bool {
        clean >= self.rounds || all >= self.tries
    }
}

/// Notes who uses the machine from now on.
#[derive(Debug)]
pub(in crate::commands::bench) struct Watch<'a> {
    children: &'a [u32],
    before: Sample,
}

impl Watch<'_> {
    /// Begins. `children` are counted as ours and must live until the end.
    pub(in crate::commands::bench) fn begin(children: &[u32]) -> Result<Watch<'_>, Failure> {
        Ok(Watch { children, before: sample(children)? })
    }

    /// Ends, and tells what others used.
    pub(in crate::commands::bench) fn end(self) -> Result<Foreign, Failure> {
        Ok(foreign(&self.before, &sample(self.children)?))
    }
}

fn sample(children: &[u32]) -> Result<Sample, Failure> {
    Sample::take(children).map_err(|error| cannot("read the machine's load from /proc", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_end_when_there_are_enough_or_hope_is_gone() {
        let plan = Plan::new(false).of(6);
        assert_eq!((plan.rounds, plan.tries), (6, 18));
        assert!(!plan.is_done(5, 17) && plan.is_done(6, 6) && plan.is_done(0, 18));
        assert_eq!(Plan::new(true).of(100).rounds, 6);
    }
}
