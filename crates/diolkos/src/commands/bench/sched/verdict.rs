// SPDX-License-Identifier: Apache-2.0
//! The targets of the scheduler. Pure.

use super::super::judge::{Bound, Judged, counted, measured};
use super::cases::{CLIENTS, FEW};
use super::results::{Beside, Many, Results, Round};

/// The longest that somebody waits who goes first: for the job that runs, and for its own.
pub(super) fn one_job(beside: &Beside) -> f64 {
    beside.alone_p50_ns + beside.batch_job_ns
}

/// By how much each share is off what its weight says, the worst of them.
pub(super) fn off(round: &Round) -> f64 {
    let weights = [1.0, 2.0, 4.0];
    let sum: f64 = round.weights.device_s.iter().sum();
    let off = round
        .weights
        .device_s
        .iter()
        .zip(weights)
        .map(|(got, weight)| (got / sum * 7.0 / weight - 1.0).abs());
    off.fold(0.0, f64::max)
}

fn more([with, without]: &[Many; 2]) -> f64 {
    with.rate / without.rate
}

fn slower([with, without]: &[Many; 2], quantile: fn(&Many) -> f64) -> f64 {
    quantile(with) / quantile(without)
}

/// Judges everything.
pub(super) fn judge(results: &Results) -> Vec<Judged> {
    use Bound::{AtLeast, AtMost};
    let measure =
        |what: &str, bound, number: &dyn Fn(&Round) -> f64| measured(what, bound, "", results.each(number));
    let mut all = vec![
        measure("interactive beside batch: p99 under FIFO, to that with classes", AtLeast(5.0), &|round| {
            round.beside.fifo_p99_ns / round.beside.p99_ns
        }),
        measure("interactive beside batch: p99, to its own time and one batch job", AtMost(1.2), &|round| {
            round.beside.p99_ns / one_job(&round.beside)
        }),
        measure(
            "batch beside interactive: rate, to what is left of its rate alone",
            AtLeast(0.9),
            &|round| round.beside.batch_rate * round.beside.batch_job_ns / 1e9 / (1.0 - round.beside.used),
        ),
        measure("jobs of 1, 4, 16, 64 times the length: Jain's index", AtLeast(0.99), &|round| {
            round.sharing.jain
        }),
        measure("weights 1, 2, 4: the share that is most off", AtMost(0.03), &off),
    ];
    let gain = |round: &Round| more(&round.batching.many) / round.batching.gain;
    all.push(measure(
        &format!("batching, {CLIENTS} clients: rate over unbatched, to the gain of a run"),
        AtLeast(0.6),
        &gain,
    ));
    let p99 = |round: &Round| slower(&round.batching.many, |many| many.p99_ns);
    all.push(measure(&format!("batching, {CLIENTS} clients: p99, to unbatched"), AtMost(1.0), &p99));
    let p50: fn(&Many) -> f64 = |many| many.p50_ns;
    all.push(measure("batching, one client: p50, to unbatched", AtMost(1.03), &|round| {
        slower(&round.batching.one, p50)
    }));
    all.push(measure("batching, one client: rate, to unbatched", AtLeast(0.97), &|round| {
        more(&round.batching.one)
    }));
    for (at, clients) in FEW.into_iter().enumerate().filter(|_| results.mobilenet) {
        let what = format!("batching, MobileNet, clients: {clients}: p50, to unbatched");
        all.push(measure(&what, AtMost(1.03), &|round| slower(&round.few[at], p50)));
        let what = format!("batching, MobileNet, clients: {clients}: rate, to unbatched");
        all.push(measure(&what, AtLeast(0.97), &|round| more(&round.few[at])));
    }
    all.push(counted("calls that failed", AtMost(0.0), "", Some(results.failed() as f64)));
    all
}
