// SPDX-License-Identifier: Apache-2.0
//! Counts of checks, and reading them from what test runners print.
//!
//! Our own scripts end with the line `N passed, N failed, N skipped`. nextest and libtest have their own
//! forms. Whatever the form, a step whose process failed never counts as free of failures.

use std::fmt;

/// How many checks passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// One check, and it passed.
    pub(crate) const ONE: Tally = Tally { passed: 1, failed: 0, skipped: 0 };

    pub(crate) fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Why a step did not simply pass.
#[derive(Debug)]
pub(crate) enum Stop {
    /// This machine can't do it; the reason.
    Skipped(String),
    /// It failed; what was counted until then, and why.
    Failed(Tally, String),
}

impl Stop {
    pub(crate) fn failed(reason: impl Into<String>) -> Stop {
        Stop::Failed(Tally::default(), reason.into())
    }
}

/// The counts of a finished step and a note for its row. A failed step has at least one failure and a
/// skipped one exactly one skip, whatever was counted before.
pub(crate) fn judge(result: Result<Tally, Stop>) -> (Tally, String) {
    match result {
        Ok(tally) => (tally, String::new()),
        Err(Stop::Skipped(reason)) => {
            (Tally { passed: 0, failed: 0, skipped: 1 }, format!("SKIPPED: {reason}"))
        }
        Err(Stop::Failed(mut tally, reason)) => {
            tally.failed = tally.failed.max(1);
            (tally, format!("FAILED: {reason}"))
        }
    }
}

/// Reads the last line of one of our own scripts.
pub(crate) fn own(line: &str) -> Option<Tally> {
    let mut tally = Tally::default();
    let mut parts = line.trim().split(", ");
    tally.passed = number_before(parts.next()?, "passed")?;
    tally.failed = number_before(parts.next()?, "failed")?;
    tally.skipped = number_before(parts.next()?, "skipped")?;
    parts.next().is_none().then_some(tally)
}

/// Reads nextest's summary: `Summary [ 1.2s] 7 tests run: 5 passed (1 slow), 1 failed, 2 skipped`.
pub(crate) fn nextest(line: &str) -> Option<Tally> {
    let (head, counts) = line.split_once(" run: ")?;
    if !head.trim_start().starts_with("Summary [") {
        return None;
    }
    let mut tally = Tally::default();
    for part in counts.split(", ") {
        let (number, word) = part.trim().split_once(' ')?;
        let number = number.parse::<u64>().ok()?;
        match word.split(' ').next()? {
            "passed" => tally.passed += number,
            "skipped" => tally.skipped += number,
            // `failed`, `timed out`, `exec failed`: none of them is a pass.
            _ => tally.failed += number,
        }
    }
    Some(tally)
}

/// Reads one binary's result from libtest: `test result: ok. 5 passed; 0 failed; 1 ignored; …`.
pub(crate) fn libtest(line: &str) -> Option<Tally> {
    let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
    let mut parts = counts.split("; ");
    Some(Tally {
        passed: number_before(parts.next()?, "passed")?,
        failed: number_before(parts.next()?, "failed")?,
        skipped: number_before(parts.next()?, "ignored")?,
    })
}

fn number_before(part: &str, word: &str) -> Option<u64> {
    part.strip_suffix(word)?.strip_suffix(' ')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Option<Tally> {
        Some(Tally { passed, failed, skipped })
    }

    #[test]
    fn our_own_line_is_read_back() {
        let written = Tally { passed: 12, failed: 0, skipped: 3 };
        assert_eq!(own(&written.to_string()), Some(written));
        assert_eq!(own("12 passed, 0 failed"), None);
        assert_eq!(own("about 12 passed, 0 failed, 3 skipped"), None);
        assert_eq!(own("1 passed, 0 failed, 3 skipped, 1 more"), None);
    }

    #[test]
    fn nextest_counts_every_kind_of_failure() {
        let line =
            "     Summary [   0.053s] 12 tests run: 9 passed (1 slow), 1 failed, 2 timed out, 4 skipped";
        assert_eq!(nextest(line), tally(9, 3, 4));
        assert_eq!(nextest("  Summary [ 0.1s] 1 test run: 1 passed, 0 skipped"), tally(1, 0, 0));
        assert_eq!(nextest("12 tests run: 9 passed"), None);
    }

    #[test]
    fn libtest_lines_are_read() {
        let line = "test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(libtest(line), tally(5, 2, 1));
        assert_eq!(libtest("test foo ... ok"), None);
    }

    #[test]
    fn a_failed_step_never_looks_clean() {
        let (counts, note) = judge(Err(Stop::failed("it crashed")));
        assert_eq!(counts.failed, 1);
        assert!(note.contains("it crashed"));
        let (counts, _) = judge(Err(Stop::Skipped("no registry".into())));
        assert_eq!(counts, Tally { passed: 0, failed: 0, skipped: 1 });
    }
}
