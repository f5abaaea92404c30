// SPDX-License-Identifier: Apache-2.0
//! Device time: what a run used of its device.
//!
//! On a CPU that is the time its thread was on one. Time that somebody else's process had the core is nobody's of ours, and a
//! tenant must not pay more because the machine is busy. Reading a thread's clock costs a system call, so runs that are known to be
//! short are charged by the clock on the wall.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// A run that began on this thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    began: Instant,
    on_cpu: Option<Duration>,
}

/// How long a run took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) ended: Instant,
    /// By the clock on the wall.
    pub(crate) wall: Duration,
    /// Of the device.
    pub(crate) device: Duration,
}

/// The time that this thread had on a CPU.
fn on_cpu() -> Option<Duration> {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).ok()
}

impl Running {
    /// One that begins now; `short` ones are not worth a system call.
    pub(crate) fn begin(began: Instant, short: bool) -> Running {
        Running { began, on_cpu: if short { None } else { on_cpu() } }
    }

    /// It ended, on the same thread.
    pub(crate) fn end(self) -> Used {
        let used = self.on_cpu.and_then(|before| Some(on_cpu()?.saturating_sub(before)));
        let ended = Instant::now();
        let wall = ended - self.began;
        // The two clocks tick apart.
        Used { ended, wall, device: used.map_or(wall, |used| used.min(wall)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_not_using() {
        let running = Running::begin(Instant::now(), false);
        std::thread::sleep(Duration::from_millis(20));
        let used = running.end();
        assert!(
            used.wall >= Duration::from_millis(20) && used.device < Duration::from_millis(15),
            "{used:?}"
        );
        let short = Running::begin(Instant::now(), true);
        let used = short.end();
        assert_eq!(used.wall, used.device);
    }
}
