// SPDX-License-Identifier: Apache-2.0
//! `bench channel`: the native channel against what this machine can do at best, in one run.
//!
//! ```text
//! peer (a child process) ──> cases: one call each ──> rounds ──> verdict ──> page
//!                                                     (all cases in every round)
//! ```
//!
//! Every case is measured in every round, one after the other, so that a machine that gets slower meanwhile does
//! so for all of them; targets are judged by the ratios within a round. Those of long work, where a round has few calls, take
//! turns within the round.

mod apart;
mod cases;
mod fresh;
mod page;
mod peer;
mod results;
mod turns;
mod verdict;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) use peer::PeerArgs;

use cases::{Bench, Case};
use results::{Measured, Results};

use super::args::ChannelArgs;
use super::children::cannot;
use super::host::Host;
use super::judge::{self, Judged};
use super::latencies::Latencies;
use super::report::{Plan, Watch};
use crate::commands::print;
use crate::exit::{Exit, Failure};

/// How much longer than a case all of the long work takes, which has as many calls then as can tell one in a hundred.
const LONG: u32 = 24;

/// Runs `bench channel`.
pub(super) fn run(args: &ChannelArgs) -> Result<Exit, Failure> {
    let results = measure(args)?;
    let judged = verdict::judge(&results);
    if let Some(out) = &args.out {
        write(out, &results, &judged)?;
    }
    print(page::table(&results, &judged).as_bytes())?;
    Ok(judge::exit(&judged))
}

/// Runs `bench-peer`: the other process.
pub(super) fn run_peer(args: &PeerArgs) -> Result<Exit, Failure> {
    peer::run(args)
}

fn measure(args: &ChannelArgs) -> Result<Results, Failure> {
    let plan = Plan::new(args.quick);
    let plan = args.rounds.map_or(plan, |rounds| plan.with(usize::from(rounds)));
    let length = plan.length / 4;
    let mut results = Results { host: Host::look(), quick: args.quick, ..Results::default() };
    let models = args.models.clone().or_else(|| std::env::var_os("DIOLKOS_TEST_MODELS").map(PathBuf::from));
    let mobilenet = models.unwrap_or_else(|| super::report::MODELS.into()).join(super::report::MOBILENET);
    let mut bench = Bench::start(super::report::EXAMPLE.as_ref(), &mobilenet)?;
    let pids = bench.pids();
    let mut clean = 0;
    while !plan.is_done(clean, results.rounds.len()) {
        eprintln!("bench: round {}, {clean} of {} were clean so far", results.rounds.len() + 1, plan.rounds);
        let watch = Watch::begin(&pids)?;
        let mut round = BTreeMap::new();
        for case in Case::ALL {
            if let Some(measured) = bench.measure(case, length)? {
                round.insert(case.name(), measured);
            }
        }
        round.extend(bench.measure_long(LONG * length)?);
        let foreign = watch.end()?;
        clean += usize::from(foreign.clean);
        results.rounds.push(results::Round { measured: round, foreign });
    }
    drop(bench);
    if mobilenet.exists() {
        eprintln!("bench: first answers of fresh processes");
        results.fresh = Some(fresh::measure(&mobilenet, args.client.as_deref(), &plan.of(6))?);
    } else {
        let note = format!("There is no {}: what needs it was not measured.", mobilenet.display());
        results.notes.push(note);
    }
    Ok(results)
}

fn write(out: &std::path::Path, results: &Results, judged: &[Judged]) -> Result<(), Failure> {
    let save = |path: PathBuf, text: &[u8]| {
        std::fs::write(&path, text).map_err(|error| cannot(&format!("write {}", path.display()), &error))
    };
    let folder = out.join("performance");
    std::fs::create_dir_all(&folder)
        .map_err(|error| cannot(&format!("make {}", folder.display()), &error))?;
    let mut json = serde_json::to_vec_pretty(results).expect("results are plain data");
    json.push(b'\n');
    save(folder.join("channel.json"), &json)?;
    save(out.join("performance-channel.md"), page::render(results, judged).as_bytes())
}

/// Calls one after the other for `length`, after a few that are not counted.
fn call_for(length: Duration, mut call: impl FnMut() -> Result<(), Failure>) -> Result<Measured, Failure> {
    let warm = Instant::now() + length / 8;
    while Instant::now() < warm {
        call()?;
    }
    let mut latencies = Latencies::new();
    let (began, mut calls) = (Instant::now(), 0u64);
    loop {
        let sent = Instant::now();
        if sent.duration_since(began) >= length {
            break;
        }
        call()?;
        latencies.record(sent.elapsed());
        calls += 1;
    }
    let summary = latencies.summary();
    Ok(Measured {
        p50_ns: summary.p50_ns as f64,
        p99_ns: summary.p99_ns as f64,
        rate: calls as f64 / began.elapsed().as_secs_f64(),
        cpu_ns: None,
        daemon_cpu_ns: None,
    })
}
