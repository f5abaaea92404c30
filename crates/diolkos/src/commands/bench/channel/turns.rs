// SPDX-License-Identifier: Apache-2.0
//! Long work by several ways in turns: a few calls by each, again and again.
//!
//! The machine's clock and its neighbours change within seconds, which is as long as some tens of calls take. Ways that are measured
//! one after the other differ by that; in turns they all have their part of it.

use std::time::{Duration, Instant};

use super::super::latencies::Latencies;
use super::results::Measured;
use crate::exit::Failure;

/// Calls of one turn that count. The one before them does not: it finds the caches as another way left them.
const CALLS_PER_TURN: u32 = 4;

/// Something to call, and what it has come to.
pub(super) struct Turn<'a> {
    call: Box<dyn FnMut() -> Result<(), Failure> + 'a>,
    /// CPU time so far: that of this process, and of the server.
    cpu: Box<dyn Fn() -> Result<[Duration; 2], Failure> + 'a>,
    latencies: Latencies,
    took: Duration,
    used: [Duration; 2],
    calls: u32,
}

impl<'a> Turn<'a> {
    pub(super) fn new(
        call: impl FnMut() -> Result<(), Failure> + 'a,
        cpu: impl Fn() -> Result<[Duration; 2], Failure> + 'a,
    ) -> Turn<'a> {
        Turn {
            call: Box::new(call),
            cpu: Box::new(cpu),
            latencies: Latencies::new(),
            took: Duration::ZERO,
            used: [Duration::ZERO; 2],
            calls: 0,
        }
    }

    fn take(&mut self) -> Result<(), Failure> {
        (self.call)()?;
        let before = (self.cpu)()?;
        let began = Instant::now();
        for _ in 0..CALLS_PER_TURN {
            let sent = Instant::now();
            (self.call)()?;
            self.latencies.record(sent.elapsed());
        }
        self.took += began.elapsed();
        self.calls += CALLS_PER_TURN;
        for ((used, now), before) in self.used.iter_mut().zip((self.cpu)()?).zip(before) {
            *used += now.saturating_sub(before);
        }
        Ok(())
    }

    fn measured(&self) -> Measured {
        let summary = self.latencies.summary();
        let [own, daemon] = self.used.map(|used| used.as_nanos() as f64 / f64::from(self.calls.max(1)));
        Measured {
            p50_ns: summary.p50_ns as f64,
            p99_ns: summary.p99_ns as f64,
            rate: f64::from(self.calls) / self.took.as_secs_f64(),
            cpu_ns: Some(own + daemon),
            daemon_cpu_ns: Some(daemon),
        }
    }
}

/// Calls all of them in turns for `length` together, or once each.
pub(super) fn in_turns(mut turns: Vec<Turn<'_>>, length: Duration) -> Result<Vec<Measured>, Failure> {
    let began = Instant::now();
    for first in 0.. {
        // Each comes behind each of the others as often.
        for at in 0..turns.len() {
            let at = (first + at) % turns.len();
            turns[at].take()?;
        }
        if began.elapsed() >= length {
            break;
        }
    }
    Ok(turns.iter().map(Turn::measured).collect())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn everybody_has_as_many_calls_and_only_its_own_time() {
        let (calls, slept) = (Cell::new(0), Duration::from_millis(2));
        let each = [Cell::new(0), Cell::new(0)];
        let cpu = || Ok([Duration::from_millis(calls.get()), Duration::ZERO]);
        let call = |pause: Duration| {
            let (calls, mine) = (&calls, &each[usize::from(!pause.is_zero())]);
            move || {
                calls.set(calls.get() + 1);
                mine.set(mine.get() + 1);
                std::thread::sleep(pause);
                Ok(())
            }
        };
        let turns = vec![Turn::new(call(Duration::ZERO), cpu), Turn::new(call(slept), cpu)];
        let measured = in_turns(turns, 4 * slept).unwrap();
        assert_eq!(measured.len(), 2);
        assert_eq!(each[0], each[1]);
        assert!(measured[1].p50_ns >= slept.as_nanos() as f64 && measured[1].rate <= 500.0, "{measured:?}");
        assert!(measured[0].p50_ns < measured[1].p50_ns, "{measured:?}");
        // One millisecond for each call, by the clock that is given.
        assert!(measured.iter().all(|measured| measured.cpu_ns == Some(1e6)), "{measured:?}");
    }
}
