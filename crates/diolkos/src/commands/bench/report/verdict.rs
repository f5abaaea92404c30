// SPDX-License-Identifier: Apache-2.0
//! The targets, and what can be said about them.
//!
//! A target is met or missed only if the whole interval for the median is on one side of it, and only from
//! rounds in which nobody else used the machine. Otherwise nothing is concluded, and the reason is given.

use std::fmt;

use super::results::{Results, Round, counting};
use super::stats::{CONFIDENCE, Spread};

/// Least rate of the daemon, relative to a bare server's.
pub(super) const RATIO_MIN: f64 = 0.8;
/// Longest median of an in-process `noop`, in nanoseconds.
pub(super) const NOOP_MAX_NS: f64 = 2000.0;
/// Most resident memory of an idle daemon, in bytes.
pub(super) const IDLE_BYTES_MAX: f64 = 30e6;
/// Longest start, in nanoseconds.
pub(super) const START_MAX_NS: f64 = 100e6;

/// What can be said.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// As good as asked, or better.
    Met,
    /// Worse.
    Missed,
    /// Nothing, for this reason.
    Undecided(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Met => f.write_str("met"),
            Verdict::Missed => f.write_str("**missed**"),
            Verdict::Undecided(reason) => write!(f, "**no conclusion**: {reason}"),
        }
    }
}

/// A target and what was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Judged {
    pub(super) what: String,
    pub(super) target: String,
    pub(super) found: String,
    pub(super) verdict: Verdict,
}

/// Which side of a bound is good.
#[derive(Clone, Copy)]
enum Good {
    AtLeast(f64),
    AtMost(f64),
}

/// Judges whatever was measured.
pub(super) fn judge(results: &Results) -> Vec<Judged> {
    let mut all = Vec::new();
    if let Some(noop) = &results.noop {
        let spread = clean(&noop.rounds);
        all.push(Judged {
            what: "in-process `noop`, median of single calls".into(),
            target: "under 2 µs".into(),
            found: found(&noop.rounds, |ns| format!("{:.2} µs", ns / 1e3)),
            verdict: decide(spread, Good::AtMost(NOOP_MAX_NS), noop.failed, noop.rounds.len()),
        });
    }
    for pair in &results.pairs {
        let shown = pair.ratios().or_else(|| pair.all_ratios());
        all.push(Judged {
            what: format!("{}, rate relative to a bare server", pair.name()),
            target: format!("at least {RATIO_MIN}"),
            found: shown.map_or("nothing".into(), |spread| show(&spread, |ratio| format!("{ratio:.2}"))),
            verdict: decide(
                pair.ratios(),
                Good::AtLeast(RATIO_MIN),
                pair.daemon.failed + pair.bare.failed,
                pair.rounds.len(),
            ),
        });
    }
    if let Some(start) = &results.start {
        // Memory does not depend on who else is running.
        let idle = Spread::of(start.idle.iter().map(|memory| memory.rss as f64));
        all.push(Judged {
            what: "idle daemon without models, resident memory".into(),
            target: "under 30 MB".into(),
            found: idle
                .map_or("nothing".into(), |spread| show(&spread, |bytes| format!("{:.1} MB", bytes / 1e6))),
            verdict: decide(idle, Good::AtMost(IDLE_BYTES_MAX), 0, start.idle.len()),
        });
        all.push(Judged {
            what: "start until ready, without models".into(),
            target: "under 100 ms".into(),
            found: found(&start.ready, |ns| format!("{:.1} ms", ns / 1e6)),
            verdict: decide(clean(&start.ready), Good::AtMost(START_MAX_NS), 0, start.ready.len()),
        });
    }
    if !results.host.optimized {
        for judged in &mut all {
            judged.verdict =
                Verdict::Undecided("this is a debug build; measure with `cargo run --release`".into());
        }
    }
    all
}

fn clean(rounds: &[Round]) -> Option<Spread> {
    Spread::of(rounds.iter().filter(|round| round.foreign.clean).map(|round| round.value))
}

fn found(rounds: &[Round], unit: impl Fn(f64) -> String) -> String {
    Spread::of(counting(rounds).0).map_or("nothing".into(), |spread| show(&spread, unit))
}

/// `0.93 (0.91–0.95)`: the median, and the interval for it or else the range.
pub(super) fn show(spread: &Spread, unit: impl Fn(f64) -> String) -> String {
    let (low, high) = spread.interval.unwrap_or((spread.min, spread.max));
    format!("{} ({}–{})", unit(spread.median), unit(low), unit(high))
}

fn decide(spread: Option<Spread>, good: Good, failed: u64, rounds: usize) -> Verdict {
    if failed > 0 {
        return Verdict::Undecided(format!("{failed} calls failed"));
    }
    let clean = spread.map_or(0, |spread| spread.count);
    let Some((low, high)) = spread.and_then(|spread| spread.interval) else {
        return Verdict::Undecided(format!(
            "{clean} of {rounds} rounds had the machine to themselves, which is too few to be {:.0} % sure",
            CONFIDENCE * 100.0
        ));
    };
    let (met, missed) = match good {
        Good::AtLeast(bound) => (low >= bound, high < bound),
        Good::AtMost(bound) => (high < bound, low >= bound),
    };
    match (met, missed) {
        (true, _) => Verdict::Met,
        (_, true) => Verdict::Missed,
        _ => Verdict::Undecided(
            "the rounds differ too much: the interval lies on both sides of the target".into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(values: &[f64]) -> Option<Spread> {
        Spread::of(values.iter().copied())
    }

    #[test]
    fn concludes_only_from_enough_and_only_on_one_side() {
        let at_least = |values: &[f64]| decide(spread(values), Good::AtLeast(0.8), 0, 9);
        assert_eq!(at_least(&[0.8, 0.81, 0.85, 0.9, 0.9, 1.1]), Verdict::Met);
        assert_eq!(at_least(&[0.7, 0.71, 0.75, 0.6, 0.79, 0.5]), Verdict::Missed);
        assert!(matches!(at_least(&[0.7, 0.81, 0.85, 0.9, 0.9, 1.1]), Verdict::Undecided(_)));
        let Verdict::Undecided(reason) = at_least(&[0.9; 5]) else { panic!("five rounds are too few") };
        assert!(reason.starts_with("5 of 9 rounds"), "{reason}");
        assert!(matches!(decide(None, Good::AtLeast(0.8), 0, 9), Verdict::Undecided(_)));
        let at_most = |values: &[f64]| decide(spread(values), Good::AtMost(2.0), 0, 9);
        assert_eq!(at_most(&[1.0; 6]), Verdict::Met);
        assert_eq!(at_most(&[2.0; 6]), Verdict::Missed);
    }

    #[test]
    fn failures_prevent_a_conclusion() {
        assert!(matches!(decide(spread(&[1.0; 9]), Good::AtLeast(0.8), 1, 9), Verdict::Undecided(_)));
    }
}
