// SPDX-License-Identifier: Apache-2.0
//! Targets of benches that measure all they compare in every round, and what can be said about them. Pure.
//!
//! A target is a bound on a number of each round; it is met or missed only if the whole interval for the median of
//! all clean rounds is on one side of it. What was counted and not measured is met or missed as it stands.

use std::fmt::Write as _;

use super::report::Spread;
use crate::exit::Exit;

/// What can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Met,
    Missed,
    Undecided,
}

/// Which side of a number is good.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// A target and what was found.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) what: String,
    pub(super) target: String,
    pub(super) found: Option<Spread>,
    pub(super) unit: &'static str,
    pub(super) verdict: Verdict,
}

impl Bound {
    fn target(self, unit: &str) -> String {
        match self {
            Bound::AtMost(most) => format!("≤ {most}{unit}"),
            Bound::AtLeast(least) => format!("≥ {least}{unit}"),
        }
    }

    /// Of all numbers from the one to the other.
    fn verdict(self, low: f64, high: f64) -> Verdict {
        let (met, missed) = match self {
            Bound::AtMost(most) => (high <= most, low > most),
            Bound::AtLeast(least) => (low >= least, high < least),
        };
        match (met, missed) {
            (true, _) => Verdict::Met,
            (_, true) => Verdict::Missed,
            _ => Verdict::Undecided,
        }
    }
}

/// Judges what was measured, one value per round.
pub(super) fn measured(
    what: impl Into<String>,
    bound: Bound,
    unit: &'static str,
    values: Vec<f64>,
) -> Judged {
    let found = Spread::of(values);
    let interval = found.and_then(|spread| spread.interval);
    let verdict = interval.map_or(Verdict::Undecided, |(low, high)| bound.verdict(low, high));
    Judged { what: what.into(), target: bound.target(unit), found, unit, verdict }
}

/// Judges what was counted. `None` was not.
pub(super) fn counted(
    what: impl Into<String>,
    bound: Bound,
    unit: &'static str,
    value: Option<f64>,
) -> Judged {
    let verdict = value.map_or(Verdict::Undecided, |value| bound.verdict(value, value));
    Judged { what: what.into(), target: bound.target(unit), found: Spread::of(value), unit, verdict }
}

/// As `bench report` does.
pub(super) fn exit(judged: &[Judged]) -> Exit {
    let any = |verdict| judged.iter().any(|judged| judged.verdict == verdict);
    match (any(Verdict::Missed), any(Verdict::Undecided)) {
        (true, _) => Exit::Problems,
        (_, true) => Exit::Failed,
        _ => Exit::Ok,
    }
}

fn said(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met => "met",
        Verdict::Missed => "**missed**",
        Verdict::Undecided => "**no conclusion**",
    }
}

/// The median, and the interval for it where there is one.
pub(super) fn spread(found: Option<Spread>, unit: &str) -> String {
    let Some(found) = found else { return "nothing".into() };
    let interval = found.interval.map_or_else(String::new, |(low, high)| format!(" ({low:.2} to {high:.2})"));
    format!("{:.2}{unit}{interval}", found.median)
}

/// For people at a terminal.
pub(super) fn lines(judged: &[Judged]) -> String {
    let mut out = String::new();
    let width = judged.iter().map(|judged| judged.what.chars().count()).max().unwrap_or(0);
    for Judged { what, target, found, unit, verdict } in judged {
        let pad = " ".repeat(width - what.chars().count());
        let said = said(*verdict).replace('*', "");
        let found = spread(*found, unit);
        // Writing to a string does not fail, here and below.
        let _ = writeln!(out, "{what}{pad}  {target:<9}  {found:<28}  {said}");
    }
    out
}

/// For a page, in Markdown.
pub(super) fn table(judged: &[Judged]) -> String {
    let mut out = String::from("| measured | target | found | |\n|---|---|---|---|\n");
    for Judged { what, target, found, unit, verdict } in judged {
        let _ = writeln!(out, "| {what} | {target} | {} | {} |", spread(*found, unit), said(*verdict));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_on_one_side_decides() {
        let judge = |values: &[f64]| measured("x", Bound::AtMost(2.0), "", values.to_vec()).verdict;
        assert_eq!(judge(&[1.0; 9]), Verdict::Met);
        assert_eq!(judge(&[3.0; 9]), Verdict::Missed);
        assert_eq!(judge(&[1.0; 3]), Verdict::Undecided, "too few to say so");
        assert_eq!(judge(&[1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0]), Verdict::Undecided);
        assert_eq!(measured("x", Bound::AtLeast(2.0), "", vec![3.0; 9]).verdict, Verdict::Met);
    }

    #[test]
    fn what_was_counted_needs_no_interval() {
        let judge = |value| counted("x", Bound::AtMost(2.0), "", value).verdict;
        assert_eq!(judge(Some(2.0)), Verdict::Met);
        assert_eq!(judge(Some(2.1)), Verdict::Missed);
        assert_eq!(judge(None), Verdict::Undecided);
        assert_eq!(counted("x", Bound::AtLeast(2.0), "", Some(1.9)).verdict, Verdict::Missed);
    }

    #[test]
    fn one_miss_is_a_problem_and_doubt_is_no_success() {
        let with = |values: &[f64]| {
            let judged: Vec<_> =
                values.iter().map(|value| counted("x", Bound::AtMost(2.0), "", Some(*value))).collect();
            exit(&judged)
        };
        assert_eq!(with(&[1.0, 3.0]), Exit::Problems);
        assert_eq!(with(&[1.0]), Exit::Ok);
        assert_eq!(exit(&[counted("x", Bound::AtMost(2.0), "", None)]), Exit::Failed);
    }
}
