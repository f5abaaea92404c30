// SPDX-License-Identifier: Apache-2.0
//! `docs/performance-sched.md`, and the same on the terminal. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use super::super::judge::{self, Judged};
use super::super::report::Spread;
use super::cases::{CLIENTS, FEW, MLP};
use super::results::{Many, Results, Round};
use super::verdict::one_job;
use crate::term;

fn time(ns: f64) -> String {
    term::time(Duration::from_nanos(ns as u64))
}

/// Targets, for people at a terminal.
pub(super) fn terminal(results: &Results, judged: &[Judged]) -> String {
    let rounds = format!("\n{} rounds, {} of them clean\n", results.rounds.len(), results.clean());
    judge::lines(judged) + &rounds
}

/// The page.
pub(super) fn render(results: &Results, judged: &[Judged]) -> String {
    let mut out = String::new();
    let median =
        |number: &dyn Fn(&Round) -> f64| Spread::of(results.each(number)).map_or(0.0, |spread| spread.median);
    let (layers, width) = MLP;
    // Writing to a string does not fail, here and below.
    let _ = writeln!(
        out,
        "<!-- SPDX-License-Identifier: Apache-2.0 -->\n# Performance of the scheduler\n\n\
         Written by `diolkos bench sched --out docs`; the numbers are in [sched.json](performance/sched.json). What the scheduler does is in \
         [Scheduling](scheduling.md).\n\n{}{}\n",
        results.host.sentence(),
        if results.quick { " **A quick run: a look, not a result.**" } else { "" },
    );
    let _ = writeln!(
        out,
        "Engines in one process, entered by the call that all fronts use; one thread stands for all clients. Every case is measured in every round; {} \
         rounds, {} of them without foreign load. Numbers are medians of the clean rounds, with the 95 % interval for the \
         median; ratios are taken within each round.\n\n## Targets\n",
        results.rounds.len(),
        results.clean()
    );
    out.push_str(&judge::table(judged));
    let beside = |number: fn(&super::results::Beside) -> f64| median(&|round| number(&round.beside));
    let job = if results.mobilenet { "MobileNet v2 on one image" } else { "30 ms of computing" };
    let _ = writeln!(
        out,
        "\n## Interactive beside batch\n\nOne slot. One tenant asks for 1 ms of computing, waits for the answer, and thinks for 25 ms; the other has 32 \
         jobs outstanding, each {job}. FIFO is both as one tenant of one class, which is the order of arrival.\n\n\
         | | asks: p99 | batch: jobs per second |\n|---|---:|---:|\n\
         | alone | {} (p50) | {:.2} |\n| FIFO | {} | {:.2} |\n| classes | {} (p50 {}) | {:.2} |\n\n\
         One batch job takes {}, so {} is what somebody waits at most who goes first.",
        time(beside(|beside| beside.alone_p50_ns)),
        beside(|beside| 1e9 / beside.batch_job_ns),
        time(beside(|beside| beside.fifo_p99_ns)),
        beside(|beside| beside.fifo_batch_rate),
        time(beside(|beside| beside.p99_ns)),
        time(beside(|beside| beside.p50_ns)),
        beside(|beside| beside.batch_rate),
        time(beside(|beside| beside.batch_job_ns)),
        time(beside(one_job)),
    );
    let share = |of: &dyn Fn(&Round) -> Vec<f64>, at: usize| {
        median(&|round| of(round)[at] / of(round).iter().sum::<f64>() * 100.0)
    };
    let sharing = |at| share(&|round| round.sharing.device_s.clone(), at);
    let weights = |at| share(&|round| round.weights.device_s.clone(), at);
    let _ = writeln!(
        out,
        "\n## Shares of device time\n\nAs many slots as cores. All tenants call the same operation with inputs of the same size, and it computes for as \
         long as the number in its input says, so that predictions can't tell them apart.\n\n\
         | tenant | jobs | share |\n|---|---|---:|\n\
         | a hundred sessions | 0.25 ms | {:.1} % |\n| 200 at once, and again when all are answered | 1 ms | {:.1} % |\n\
         | 16 outstanding | 4 ms | {:.1} % |\n| 16 outstanding | 16 ms | {:.1} % |\n\n\
         | weight | jobs | share |\n|---|---|---:|\n| 1 | 1 ms | {:.1} % |\n| 2 | 3 ms | {:.1} % |\n| 4 | 0.5 ms | {:.1} % |\n\n\
         The device time that tenants were charged is {:.1} % of the CPU time that the operating system accounted to the process.",
        sharing(0),
        sharing(1),
        sharing(2),
        sharing(3),
        weights(0),
        weights(1),
        weights(2),
        median(&|round| round.sharing.accounted * 100.0),
    );
    let found = results.trial.map_or_else(
        || "The load found no gain.".into(),
        |(rows, gain)| format!("The load found {rows} rows and a gain of {gain:.1} for each row."),
    );
    let _ = writeln!(
        out,
        "\n## Batching\n\nAn MLP of {layers} layers of {width} × {width}, and MobileNet v2, with batching on and off, in engines with as many slots \
         as cores; clients of two tenants, one row each. {found} In requests that have so many rows each, with all slots busy, a row gains {:.2} in this run of the bench.\n\n\
         | | requests per second, off | on | p50, off | on | p99, off | on | rows of a run |\n|---|---:|---:|---:|---:|---:|---:|---:|",
        median(&|round| round.batching.gain),
    );
    let mut row = |name: String, of: &dyn Fn(&Round) -> [Many; 2]| {
        let number = |at: usize, number: fn(&Many) -> f64| median(&|round| number(&of(round)[at]));
        let _ = writeln!(
            out,
            "| {name} | {:.1} | {:.1} | {} | {} | {} | {} | {:.1} |",
            number(1, |many| many.rate),
            number(0, |many| many.rate),
            time(number(1, |many| many.p50_ns)),
            time(number(0, |many| many.p50_ns)),
            time(number(1, |many| many.p99_ns)),
            time(number(0, |many| many.p99_ns)),
            number(0, |many| many.rows),
        );
    };
    row(format!("MLP, {CLIENTS} clients"), &|round| round.batching.many);
    row("MLP, 1 client".into(), &|round| round.batching.one);
    for (at, clients) in FEW.into_iter().enumerate().filter(|_| results.mobilenet) {
        row(format!("MobileNet, clients: {clients}"), &|round| round.few[at]);
    }
    out
}
