// SPDX-License-Identifier: Apache-2.0
//! The targets of a flood. Pure.

use super::super::judge::{Bound, Judged, Verdict, counted, measured};
use super::results::{Beside, CaseResults, Results, Round, Side, Usage};

/// How many times the p99 beside the server that drops the quiet tenant's may be.
const RATIO_MAX: f64 = 1.5;

/// How many times its limit the flooding tenant has to send at least.
pub(super) const TIMES_MIN: f64 = 100.0;

/// p99 of the quiet tenant beside the flood, to that on another side.
pub(super) fn ratio(round: &Round, to: Side) -> f64 {
    round.daemon.quiet.p99_ns / round.beside(to).quiet.p99_ns
}

/// How many times its limit a flood offered, whether its requests came as far as being read or not.
pub(super) fn times(beside: &Beside, rate_limit: u32) -> Option<f64> {
    let flood = beside.flood.as_ref()?;
    Some((flood.requests + flood.turned_away) as f64 / flood.seconds / f64::from(rate_limit))
}

/// Judges everything.
pub(super) fn judge(results: &Results) -> Vec<Judged> {
    use Bound::{AtLeast, AtMost};
    let mut all = Vec::new();
    for case in &results.cases {
        let what =
            format!("{}: p99 of the other tenant, to that beside a server that drops", case.case.name());
        let values = case.each(|round| ratio(round, Side::Dropping));
        all.push(measured(what, AtMost(RATIO_MAX), "", values));
    }
    for case in results.cases.iter().filter(|case| case.case.has_requests()) {
        let offered = case.rounds.iter().filter_map(|round| times(&round.daemon, results.rate_limit));
        let what = format!(
            "{}: requests offered (sent or turned away), to the limit, in the least of rounds",
            case.case.name()
        );
        all.push(counted(what, AtLeast(TIMES_MIN), "", offered.reduce(f64::min)));
    }
    let failed = |case: &CaseResults| case.rounds.iter().map(|round| round.daemon.quiet.failed).sum::<u64>();
    let failed = results.cases.iter().map(failed).sum::<u64>() as f64;
    all.push(counted("the other tenant's calls that failed beside a flood", AtMost(0.0), "", Some(failed)));
    let grown = |number: fn(Usage) -> u64| {
        let grown = results.cases.iter().map(|case| number(case.peak()).saturating_sub(number(case.before)));
        grown.max().map(|most| most as f64)
    };
    let (bounds, megabytes) = (results.bounds, |bytes: f64| (bytes / 1e5).round() / 10.0);
    let memory = grown(|usage| usage.memory).map(megabytes);
    all.push(counted(
        "memory that the daemon grew by at most",
        AtMost(megabytes(bounds.memory as f64)),
        " MB",
        memory,
    ));
    let descriptors = grown(|usage| usage.descriptors);
    all.push(counted(
        "descriptors that it grew by at most",
        AtMost(bounds.descriptors as f64),
        "",
        descriptors,
    ));
    all.push(counted(
        "threads that it grew by at most",
        AtMost(bounds.threads as f64),
        "",
        grown(|usage| usage.threads),
    ));
    if !results.host.optimized {
        // A debug build says nothing about any of it.
        for judged in &mut all {
            judged.verdict = Verdict::Undecided;
        }
    }
    all
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::super::procfs::Foreign;
    use super::super::results::{Case, Quiet, Sent};
    use super::*;

    /// Results of nine rounds in which the p99 beside the daemon is so many times the one beside the server that drops.
    pub(in super::super) fn results(ratio: f64, failed: u64, peak: u64) -> Results {
        let beside = |p99_ns, failed, requests, memory| Beside {
            quiet: Quiet { count: 3000, failed, p50_ns: 1e5, p99_ns, max_ns: 2.0 * p99_ns },
            flood: Some(Sent {
                seconds: 2.0,
                cpu_seconds: 0.5,
                requests,
                answers: [(429, requests)].into(),
                ..Sent::default()
            }),
            daemon: Usage { memory, descriptors: 20, threads: 9 },
            daemon_cpu: 0.3,
            dropping_cpu: 0.1,
        };
        let round = Round {
            daemon: beside(ratio * 2e5, failed, 200 * 50, peak),
            dropping: beside(2e5, 0, 200 * 50, 1000),
            none: Beside { flood: None, ..beside(1e5, 0, 0, 1000) },
            foreign: Foreign { clean: true, ..Foreign::default() },
        };
        let before = Usage { memory: 1000, descriptors: 20, threads: 9 };
        let case = CaseResults { case: Case::Requests, before, after: before, rounds: vec![round; 9] };
        let mut results = Results {
            rate_limit: 50,
            bounds: Usage { memory: 1_000_000, descriptors: 10, threads: 10 },
            cases: vec![case],
            ..Results::default()
        };
        results.host.optimized = true;
        results
    }

    fn verdicts(results: &Results) -> Vec<Verdict> {
        judge(results).iter().map(|judged| judged.verdict).collect()
    }

    #[test]
    fn each_target_can_be_missed() {
        use Verdict::{Met, Missed, Undecided};
        assert_eq!(verdicts(&results(1.2, 0, 1000)), [Met; 6]);
        assert_eq!(verdicts(&results(1.6, 0, 1000)), [Missed, Met, Met, Met, Met, Met]);
        assert_eq!(verdicts(&results(1.2, 1, 1000)), [Met, Met, Missed, Met, Met, Met]);
        assert_eq!(verdicts(&results(1.2, 0, 2_000_000)), [Met, Met, Met, Missed, Met, Met]);
        let mut slow = results(1.2, 0, 1000);
        slow.cases[0].rounds[3].daemon.flood.as_mut().unwrap().requests = 9999;
        assert_eq!(verdicts(&slow)[1], Missed);
        let mut debug = results(1.2, 0, 1000);
        debug.host.optimized = false;
        assert_eq!(verdicts(&debug), [Undecided; 6]);
        let nothing = Results { cases: Vec::new(), ..results(1.2, 0, 1000) };
        assert_eq!(verdicts(&nothing), [Met, Undecided, Undecided, Undecided]);
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_from_clean_ones() {
        let mut results = results(1.2, 0, 1000);
        for round in &mut results.cases[0].rounds {
            round.daemon.quiet.p99_ns *= 10.0;
            round.dropping.quiet.p99_ns *= 10.0;
        }
        let dirty = Round { foreign: Foreign::default(), ..results.cases[0].rounds[0].clone() };
        results.cases[0].rounds.extend(vec![
            Round {
                dropping: Beside { quiet: Quiet { p99_ns: 1.0, ..Quiet::default() }, ..Beside::default() },
                ..dirty
            };
            20
        ]);
        let judged = &judge(&results)[0];
        assert!((judged.found.unwrap().median - 1.2).abs() < 1e-9);
        assert_eq!(judged.verdict, Verdict::Met);
    }
}
