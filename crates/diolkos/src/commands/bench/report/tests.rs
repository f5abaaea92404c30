// SPDX-License-Identifier: Apache-2.0
//! From fixed results to pages.

use std::time::Duration;

use super::super::host::Host;
use super::super::latencies::Latencies;
use super::super::procfs::{Foreign, Memory};
use super::super::split::Split;
use super::results::*;
use super::verdict::{Judged, Verdict, judge};
use super::{page, plot, write};

fn latencies(scale: u64) -> Distribution {
    let mut latencies = Latencies::new();
    for index in 1..=20_000u64 {
        // A body, and a tail that reaches far.
        let tail = if index.is_multiple_of(100) { index / 10 } else { 0 };
        latencies.record(Duration::from_nanos(scale * (1000 + index % 700 + tail)));
    }
    Distribution::from(&latencies)
}

fn foreign(clean: bool) -> Foreign {
    Foreign { foreign: if clean { 0.01 } else { 0.4 }, steal: 0.0, ours: 0.7, clean }
}

fn pair(protocol: &str, transport: &str, clients: usize, ratio: f64, clean: usize) -> Pair {
    let round = |index: usize| PairRound {
        daemon_rate: 1000.0 * ratio + index as f64,
        bare_rate: 1000.0,
        daemon_foreign: foreign(index < clean),
        bare_foreign: foreign(true),
    };
    let side = |scale| Side { latency: latencies(scale), cpu_ns: 210_000.0, failed: 0 };
    Pair {
        protocol: protocol.into(),
        transport: transport.into(),
        clients,
        rounds: (0..9).map(round).collect(),
        daemon: side(300),
        bare: side(280),
    }
}

fn results() -> Results {
    let round = |value| Round { value, foreign: foreign(true) };
    let memory = Memory { rss: 21_000_000, pss: 17_000_000 };
    let way = |name: &str, split| Way { name: name.into(), latency: latencies(9000), split, failed: 0 };
    Results {
        host: Host {
            cpu: "Test CPU".into(),
            cores: 2,
            memory_bytes: 8_000_000_000,
            kernel: "6.1".into(),
            governor: None,
            virtualized: true,
            rustc: "1.95.0".into(),
            commit: "abc".into(),
            optimized: true,
            unix_time: 1_798_761_600,
        },
        quick: false,
        noop: Some(Noop {
            rounds: vec![round(900.0); 9],
            calls: latencies(1),
            batches: latencies(1),
            batch: 64,
            ..Noop::default()
        }),
        pairs: vec![
            pair("gRPC", "unix", 1, 0.95, 9),
            pair("gRPC", "unix", 8, 0.5, 9),
            pair("REST", "tcp", 8, 0.9, 4),
        ],
        open: vec![Open {
            protocol: "gRPC".into(),
            rate: 500.0,
            daemon: latencies(300),
            bare: latencies(280),
            lag: latencies(3).summary,
            failed: 0,
            rounds: 6,
            clean: 6,
        }],
        start: Some(Start {
            ready: vec![round(21e6); 9],
            idle: vec![memory; 9],
            served: Some(Memory { rss: 41_000_000, pss: 39_000_000 }),
            served_requests: 1234,
        }),
        models: vec![Model {
            name: "digits".into(),
            file: "digits".into(),
            request_bytes: 256,
            ways: vec![
                way("in process", None),
                way("REST over unix", Some(Split { queue_ns: 4000.0, ..Split::default() })),
            ],
            rounds: 6,
            clean: 5,
        }],
        connections: vec![Connections {
            count: 1000,
            rounds: vec![round(20_000.0); 6],
            latency: latencies(50_000),
            cpu_ns: 30_000.0,
            memory,
            failed: 0,
        }],
        notes: vec!["Something was left out.".into()],
    }
}

fn verdict_of<'a>(judged: &'a [Judged], what: &str) -> &'a Verdict {
    &judged.iter().find(|judged| judged.what.starts_with(what)).unwrap().verdict
}

#[test]
fn each_target_gets_its_verdict() {
    let mut results = results();
    let judged = judge(&results);
    assert_eq!(judged.len(), 6);
    assert_eq!(verdict_of(&judged, "in-process"), &Verdict::Met);
    assert_eq!(verdict_of(&judged, "gRPC over unix, 1 client"), &Verdict::Met);
    assert_eq!(verdict_of(&judged, "gRPC over unix, 8 clients"), &Verdict::Missed);
    assert!(
        matches!(verdict_of(&judged, "REST over tcp, 8 clients"), Verdict::Undecided(why) if why.starts_with("4 of 9"))
    );
    assert_eq!(verdict_of(&judged, "idle daemon"), &Verdict::Met);
    assert_eq!(verdict_of(&judged, "start"), &Verdict::Met);
    results.host.optimized = false;
    assert!(judge(&results).iter().all(|judged| matches!(judged.verdict, Verdict::Undecided(_))));
}

#[test]
fn the_same_results_give_the_same_pages() {
    let results = results();
    let json = serde_json::to_string(&results).unwrap();
    let again: Results = serde_json::from_str(&json).unwrap();
    assert_eq!(again, results);
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(one.path(), &results, &judge(&results)).unwrap();
    write(two.path(), &again, &judge(&again)).unwrap();
    let mut files = vec!["performance.md".into()];
    for entry in std::fs::read_dir(one.path().join("performance")).unwrap() {
        files.push(format!("performance/{}", entry.unwrap().file_name().to_str().unwrap()));
    }
    // The page, the JSON, ratios, two of pairs, open, noop, one model.
    assert_eq!(files.len(), 8, "{files:?}");
    for file in files {
        let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(&file)).unwrap();
        assert!(read(&one) == read(&two), "{file} differs");
    }
}

#[test]
fn the_page_tells_everything_and_shows_every_plot() {
    let results = results();
    let plots = plot::all(&results).unwrap();
    let text = page::render(&results, &judge(&results), &plots);
    for part in [
        "Generated by `diolkos bench report`",
        "Test CPU, 2 cores (a virtual machine)",
        "| 2027-01-01 00:00 UTC |",
        "**missed**",
        "**no conclusion**: 4 of 9 rounds",
        "must not be quoted",
        "1234 requests of 602 kB",
        "- Something was left out.",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    for plot in &plots {
        assert!(text.contains(&format!("](performance/{})", plot.file)), "{} is not shown", plot.file);
        assert!(plot.svg.starts_with("<svg") && plot.svg.trim_end().ends_with("</svg>"));
        assert!(!plot.svg.contains("NaN"), "{}", plot.file);
    }
    // Table rows have as many cells as their heads.
    for table in text.split("\n\n").filter(|block| block.starts_with("| ")) {
        let widths: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
    }
}

#[test]
fn a_run_of_nothing_still_makes_a_page() {
    let results = Results::default();
    let text = page::render(&results, &judge(&results), &plot::all(&results).unwrap());
    assert!(text.contains("None of them was measured"));
}
