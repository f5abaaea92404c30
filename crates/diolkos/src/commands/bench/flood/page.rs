// SPDX-License-Identifier: Apache-2.0
//! `docs/performance-flood.md`, and the same on the terminal. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use super::super::judge::{self, Judged};
use super::super::report::Spread;
use super::flooder::BODIES_SHARE;
use super::kinds::{BODY_BYTES, HELD, OPENED_PER_SECOND, SENDERS};
use super::results::{Beside, Case, CaseResults, Results, Round, Sent, Side, Usage};
use super::tenants::BYTES_RATE_LIMIT;
use super::verdict::{ratio, times};
use crate::term;

const fn name(side: Side) -> &'static str {
    match side {
        Side::Daemon => "the daemon",
        Side::Dropping => "a server that drops",
        Side::None => "nobody",
    }
}

fn median(values: Vec<f64>) -> f64 {
    Spread::of(values).map_or(0.0, |spread| spread.median)
}

fn time(ns: f64) -> String {
    term::time(Duration::from_nanos(ns as u64))
}

/// The median of a number over the rounds that count.
fn typical(case: &CaseResults, side: Side, number: impl Fn(&Beside) -> f64) -> f64 {
    median(case.each(|round| number(round.beside(side))))
}

/// The same of what the flood sent; `None` where there is no flood.
fn flooded(case: &CaseResults, side: Side, number: impl Fn(&Sent) -> f64) -> Option<f64> {
    case.rounds.first().and_then(|round| round.beside(side).flood.as_ref())?;
    Some(typical(case, side, |beside| beside.flood.as_ref().map_or(0.0, &number)))
}

/// Answers of all rounds by status, as parts of all: `429 98 %, 200 2 %`.
fn answers(case: &CaseResults, side: Side) -> String {
    let mut all = std::collections::BTreeMap::<u16, u64>::new();
    for sent in case.rounds.iter().filter_map(|round| round.beside(side).flood.as_ref()) {
        for (status, count) in &sent.answers {
            *all.entry(*status).or_default() += count;
        }
    }
    let sum = all.values().sum::<u64>() as f64;
    let shown = all.iter().map(|(status, count)| format!("{status}: {:.1} %", *count as f64 / sum * 100.0));
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() { "–".into() } else { shown.join(", ") }
}

/// One row of a table per side of each case.
fn rows(results: &Results, row: impl Fn(&CaseResults, Side) -> Option<Vec<String>>) -> Vec<Vec<String>> {
    let sides = |case| Side::EVERY.map(|side| (case, side));
    results.cases.iter().flat_map(sides).filter_map(|(case, side)| row(case, side)).collect()
}

const LATENCY_HEAD: [&str; 8] = [
    "flood",
    "sent to",
    "p50",
    "p99",
    "max",
    "p99 beside the daemon, to this",
    "CPU of a core, daemon + dropping server",
    "failed",
];

fn latencies(results: &Results) -> Vec<Vec<String>> {
    rows(results, |case, side| {
        let to = Spread::of(case.each(|round| ratio(round, side)));
        let failed: u64 = case.rounds.iter().map(|round| round.beside(side).quiet.failed).sum();
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        Some(vec![
            case.case.name().into(),
            name(side).into(),
            time(typical(case, side, |beside| beside.quiet.p50_ns)),
            time(typical(case, side, |beside| beside.quiet.p99_ns)),
            time(typical(case, side, |beside| beside.quiet.max_ns)),
            if side == Side::Daemon { "–".into() } else { judge::spread(to, "") },
            format!(
                "{} + {}",
                percent(typical(case, side, |beside| beside.daemon_cpu)),
                percent(typical(case, side, |beside| beside.dropping_cpu))
            ),
            failed.to_string(),
        ])
    })
}

const FLOOD_HEAD: [&str; 10] = [
    "flood",
    "sent to",
    "requests /s",
    "turned away /s",
    "both, to the limit",
    "bytes /s",
    "connections opened /s",
    "cut /s",
    "CPU of a core",
    "answers",
];

fn floods(results: &Results) -> Vec<Vec<String>> {
    rows(results, |case, side| {
        let per_second =
            |number: fn(&Sent) -> u64| flooded(case, side, |sent| number(sent) as f64 / sent.seconds);
        let offered = median(case.each(|round| times(round.beside(side), results.rate_limit).unwrap_or(0.0)));
        Some(vec![
            case.case.name().into(),
            name(side).into(),
            format!("{:.0}", per_second(|sent| sent.requests)?),
            format!("{:.0}", per_second(|sent| sent.turned_away)?),
            format!("{offered:.0}×"),
            term::bytes(per_second(|sent| sent.bytes)? as u64),
            format!("{:.0}", per_second(|sent| sent.connections)?),
            format!("{:.0}", per_second(|sent| sent.cut)?),
            format!("{:.0} %", flooded(case, side, Sent::cpu)? * 100.0),
            answers(case, side),
        ])
    })
}

const USAGE_HEAD: [&str; 5] = ["flood", "when", "memory", "descriptors", "threads"];

fn usages(results: &Results) -> Vec<Vec<String>> {
    let row = |case: &str, when: &str, usage: Usage| {
        vec![
            case.into(),
            when.into(),
            term::bytes(usage.memory),
            usage.descriptors.to_string(),
            usage.threads.to_string(),
        ]
    };
    let mut all = Vec::new();
    for case in &results.cases {
        let during = |round: Option<&Round>| round.map_or(case.before, |round| round.daemon.daemon);
        let name = case.case.name();
        all.push(row(name, "before", case.before));
        all.push(row(name, "most in the first round", during(case.rounds.first())));
        all.push(row(name, "most in the last round", during(case.rounds.last())));
        all.push(row(name, "most in any round", case.peak()));
        all.push(row(name, "after", case.after));
    }
    all.push(row("", "may grow by", results.bounds));
    all
}

fn rounds(results: &Results) -> String {
    let each = results.cases.iter().map(|case| {
        format!("{}: {} rounds, {} of them clean", case.case.name(), case.rounds.len(), case.clean())
    });
    each.collect::<Vec<_>>().join("; ")
}

/// For people at a terminal.
pub(super) fn terminal(results: &Results, judged: &[Judged]) -> String {
    let mut out = judge::lines(judged);
    // Writing to a string does not fail, here and below.
    let _ = writeln!(out, "\n{}", rounds(results));
    for (head, rows) in [
        (&LATENCY_HEAD[..], latencies(results)),
        (&FLOOD_HEAD, floods(results)),
        (&USAGE_HEAD, usages(results)),
    ] {
        let head: Vec<_> = head
            .iter()
            .enumerate()
            .map(|(at, name)| (*name, if at < 2 { term::Lean::Left } else { term::Lean::Right }))
            .collect();
        let mut table = term::Table::new(&head);
        for row in rows {
            table.row(row, None);
        }
        let mut text = Vec::new();
        let _ = table.write(&mut text, term::Paint::stdout());
        let _ = writeln!(out, "\n{}", String::from_utf8_lossy(&text).trim_end());
    }
    out
}

fn table(out: &mut String, head: &[&str], rows: Vec<Vec<String>>) {
    let _ = writeln!(out, "| {} |", head.join(" | "));
    let _ = writeln!(out, "|---|---|{}", "---:|".repeat(head.len() - 2));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
}

/// The page.
pub(super) fn render(results: &Results, judged: &[Judged]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<!-- SPDX-License-Identifier: Apache-2.0 -->\n# One tenant beside another that floods\n\n\
         Written by `diolkos bench flood --out docs`; the numbers are in [flood.json](performance/flood.json).\n\n\
         {}{}\n",
        results.host.sentence(),
        if results.quick { " **A quick run: a look, not a result.**" } else { "" },
    );
    let _ = writeln!(
        out,
        "Two tenants have a unix socket each. The quiet one makes empty calls by REST, {:.0} a second, in an open loop. The flooding one \
         may send {} requests and {} MiB a second. Each round measures the quiet tenant beside the same flood sent to the daemon, beside the same flood \
         sent to a server that only accepts and drops, and without a flood, {} s each; so a p99 is of about {:.0} calls. {}. Numbers are \
         medians of the clean rounds', with the 95 % interval for the median; ratios are taken within each round.\n",
        results.quiet_rate,
        results.rate_limit,
        BYTES_RATE_LIMIT >> 20,
        results.seconds,
        results.quiet_rate * results.seconds,
        rounds(results),
    );
    out.push_str("## Targets\n\n");
    out.push_str(&judge::table(judged));
    out.push_str("\n## What the quiet tenant sees\n\n");
    table(&mut out, &LATENCY_HEAD, latencies(results));
    let _ = writeln!(
        out,
        "\n## What the flooding tenant sends\n\n\
         One process, one thread, {:.0} % of a core at most by its own CPU clock, whoever it sends to. It waits for nothing: what the other side \
         does not take now is not sent. Rates are over the whole life of the process.\n\n\
         * `{}`: inference requests of 64 bytes on {SENDERS} connections that are kept, at a fixed rate. One that is due while none \
         can be opened, or takes anything, is given up and counts as turned away: a daemon that keeps a flood of connections out keeps its requests out, too.\n\
         * `{}`: inference requests of {} MiB on {SENDERS} connections; it hangs up at each answer and connects anew. No more begin than \
         there are small requests at that rate.\n\
         * `{}`: {HELD} connections are held, {OPENED_PER_SECOND:.0} opened per second, the oldest closed; a third of them each say nothing, half a \
         header, and a request.\n\
         * `{}`: all three at once; a body for {:.0} small requests at most.\n",
        results.cpu_max * 100.0,
        Case::Requests.name(),
        Case::Bodies.name(),
        BODY_BYTES >> 20,
        Case::Connections.name(),
        Case::All.name(),
        1.0 / BODIES_SHARE,
    );
    table(&mut out, &FLOOD_HEAD, floods(results));
    out.push_str("\n## What the daemon has\n\n");
    table(&mut out, &USAGE_HEAD, usages(results));
    out.push_str(READING);
    out
}

const READING: &str = "
It may grow by what its settings let the flooding tenant have: `requests_memory_max` for requests in flight, as much again for bodies on
their way, and `connections_max` connections with those that are making room or are told that there is none (64 each), 64 kB each,
and 96 MiB that the allocator may not have given back yet; and by the threads of its blocking pool.

## How to read this

Somebody who floods takes a part of the machine, and whoever listens takes another to accept and read. Nothing that runs on the same machine
can undo that. So the measure is a server that does the least that can be done: it accepts every connection, reads whatever comes, throws it
away, answers nothing, and closes when the other side has. It has the daemon's runtime and number of threads. What the other tenant sees beyond
that is the daemon's doing: recognising the peer, reading headers, counting against the limits, saying no.

The flood has the same share of a core on both sides, and not the same number of bytes: a server that refuses a body early is sent more
headers, one that reads everything is sent more bytes. Requests have a fixed rate, so that they are as many on both sides.

Latency is from the time a call was due, so that what waits behind a slow one counts. What the flood costs compared with no flood at all
stands beside it; most of that is the flooding process itself wherever it shares cores with everybody else.
";

#[cfg(test)]
mod tests {
    use super::super::verdict;
    use super::*;

    #[test]
    fn the_page_has_every_side_and_says_when_it_is_a_look_only() {
        let mut results = verdict::tests::results(1.2, 0, 1000);
        let page = render(&results, &verdict::judge(&results));
        for text in [
            "| requests | the daemon | 100.0 µs | 240.0 µs |",
            "| requests | nobody |",
            "100×",
            "429: 100.0 %",
            "≤ 1.5 | 1.20",
        ] {
            assert!(page.contains(text), "{text}: {page}");
        }
        assert!(!page.contains("a look, not a result"));
        results.quick = true;
        assert!(render(&results, &[]).contains("a look, not a result"));
        let shown = terminal(&results, &verdict::judge(&results));
        assert!(shown.contains("may grow by") && !shown.contains('|'), "{shown}");
    }

    #[test]
    fn no_results_make_a_page_too() {
        assert!(render(&Results::default(), &[]).contains("## Targets"));
    }
}
