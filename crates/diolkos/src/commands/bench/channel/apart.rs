// SPDX-License-Identifier: Apache-2.0
//! Two processes on two cores, for as long as it takes to measure them.
//!
//! Two that only wait for each other may be put on one core, where what passes between them is a switch and wakes nothing. That
//! depends on the kernel and its mood, and a ratio to it says nothing about a wake-up.

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

use super::super::children::cannot;
use crate::exit::Failure;

/// Keeps this thread on one core and another process on a second one, until it is dropped.
pub(super) struct Apart {
    other: Pid,
    before: CpuSet,
}

impl Apart {
    /// Nothing where there is only one core.
    pub(super) fn keep(other: u32) -> Result<Option<Apart>, Failure> {
        let failed = |error: rustix::io::Errno| cannot("choose a core", &std::io::Error::from(error));
        let before = sched_getaffinity(None).map_err(failed)?;
        let Some((one, two)) = two_of(&before) else { return Ok(None) };
        let other = i32::try_from(other).ok().and_then(Pid::from_raw).expect("children have process ids");
        let apart = Apart { other, before };
        sched_setaffinity(None, &only(one)).map_err(failed)?;
        sched_setaffinity(Some(other), &only(two)).map_err(failed)?;
        Ok(Some(apart))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // The other may have ended; and what was possible before is possible again.
        let _ = sched_setaffinity(Some(self.other), &self.before);
        let _ = sched_setaffinity(None, &self.before);
    }
}

/// The first and the last of them: where cores have two threads each, these are the least likely to be of one core.
fn two_of(cores: &CpuSet) -> Option<(usize, usize)> {
    let mut allowed = (0..CpuSet::MAX_CPU).filter(|&core| cores.is_set(core));
    let first = allowed.next()?;
    Some((first, allowed.next_back()?))
}

fn only(core: usize) -> CpuSet {
    let mut cores = CpuSet::new();
    cores.set(core);
    cores
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cores: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        cores.iter().for_each(|&core| set.set(core));
        set
    }

    #[test]
    fn two_cores_are_never_one() {
        assert_eq!(two_of(&set(&[])), None);
        assert_eq!(two_of(&set(&[5])), None);
        assert_eq!(two_of(&set(&[0, 1])), Some((0, 1)));
        assert_eq!(two_of(&set(&[2, 3, 7])), Some((2, 7)));
    }

    #[test]
    fn what_was_possible_before_is_possible_again() {
        let before = sched_getaffinity(None).unwrap();
        let mut other =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&other);
        let apart = Apart::keep(other.id()).unwrap();
        let during = [None, Some(pid)].map(|pid| sched_getaffinity(pid).unwrap());
        if apart.is_some() {
            assert_eq!(during.map(|set| set.count()), [1, 1]);
            assert_ne!(during[0], during[1]);
        }
        drop(apart);
        let after = [None, Some(pid)].map(|pid| sched_getaffinity(pid).unwrap());
        drop(other.stdin.take());
        other.wait().unwrap();
        assert!(after.into_iter().all(|set| set == before));
    }
}
