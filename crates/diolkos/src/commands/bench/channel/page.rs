// SPDX-License-Identifier: Apache-2.0
//! `docs/performance-channel.md`, and the same on the terminal. Pure.

use std::fmt::Write as _;

use super::super::judge::{self, Judged};
use super::super::report::Spread;
use super::cases::Case;
use super::results::Results;

/// A time in the unit that suits it.
pub(super) fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.2} µs", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}

/// Targets and medians, for people at a terminal.
pub(super) fn table(results: &Results, judged: &[Judged]) -> String {
    let mut out = judge::lines(judged);
    // Writing to a string does not fail, here and below.
    let _ = writeln!(out, "\n{} rounds, {} of them clean", results.rounds.len(), results.clean());
    for case in Case::ALL {
        let p50 = Spread::of(results.each(|round| Some(round.measured.get(&case.name())?.p50_ns)));
        let _ =
            writeln!(out, "{:<44} {:>12}", case.name(), p50.map_or_else(String::new, |p50| time(p50.median)));
    }
    out
}

/// The page.
pub(super) fn render(results: &Results, judged: &[Judged]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<!-- SPDX-License-Identifier: Apache-2.0 -->\n# Performance of the native channel\n\n\
         Written by `diolkos bench channel --out docs`; the numbers are in [channel.json](performance/channel.json).\n\n\
         {}{}\n",
        results.host.sentence(),
        if results.quick { " **A quick run: a look, not a result.**" } else { "" },
    );
    let _ = writeln!(
        out,
        "Every case is measured in every round, one after the other, MobileNet in turns of four calls; {} rounds, {} of them without foreign load. Numbers are medians \
         of the clean rounds' medians, with the 95 % interval for the median; ratios are taken within each round.\n\n\
         The two ends of a ping-pong are kept on two cores, so that it is two wake-ups, as a call that blocks is; where the kernel may choose, it may put \
         both on one, which is a switch. Nothing else is kept anywhere.\n",
        results.rounds.len(),
        results.clean()
    );
    out.push_str("## Targets\n\n");
    out.push_str(&judge::table(judged));
    out.push_str(
        "\n## All cases\n\nCPU time is that of client and daemon together, in clock ticks of 10 ms, so of short cases only rough.\n\n\
         | case | p50 | p99 | calls per second | CPU time per call |\n|---|---:|---:|---:|---:|\n",
    );
    for case in Case::ALL {
        let name = case.name();
        let median = |number: fn(&super::results::Measured) -> Option<f64>| {
            Spread::of(results.each(|round| number(round.measured.get(&name)?))).map(|spread| spread.median)
        };
        let shown = |ns: Option<f64>| ns.map_or_else(String::new, time);
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {} |",
            shown(median(|measured| Some(measured.p50_ns))),
            shown(median(|measured| Some(measured.p99_ns))),
            median(|measured| Some(measured.rate)).map_or_else(String::new, |rate| format!("{rate:.0}")),
            shown(median(|measured| measured.cpu_ns)),
        );
    }
    if let Some(fresh) = &results.fresh {
        let median = |values: &[f64]| Spread::of(values.iter().copied()).map_or(0.0, |spread| spread.median);
        let _ = writeln!(
            out,
            "\n## The first answer of a fresh process\n\nFrom before the process is made until it has ended, with one inference of MobileNet v2 \
             in between; the daemon is warm. The client is {}. Its memory is what is resident and no shared memory file.\n\n\
             | | median |\n|---|---:|\n| one inference in a warm process | {} |\n| fresh process, through the channel | {} |\n\
             | fresh process that loads the runtime and the model itself | {} |\n| memory of the fresh client | {:.1} MB |",
            if fresh.own_client {
                "a static executable, the example `ask`"
            } else {
                "the `diolkos` executable"
            },
            time(median(&fresh.inference_ns)),
            time(median(&fresh.channel_ns)),
            time(median(&fresh.alone_ns)),
            median(&fresh.memory_bytes) / 1e6,
        );
    }
    for note in &results.notes {
        let _ = writeln!(out, "\n{note}");
    }
    out
}
