// SPDX-License-Identifier: Apache-2.0
//! What has nothing to be compared with: `noop` in this process, start and memory of a daemon, real models,
//! many connections.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::caller::{Caller, Question, Route};
use super::super::children::{Kind, Server};
use super::super::closed;
use super::super::inproc::{self, BATCH, InprocCaller, Local};
use super::super::latencies::{Latencies, nanoseconds};
use super::super::load::wanted;
use super::super::payload::{self, Wish};
use super::super::raise_open_files;
use super::super::split::Counted;
use super::results::{Connections, Distribution, Model, Noop, Round, Start, Way};
use super::rounds::{Plan, Watch};
use crate::exit::Failure;

/// Starts that are measured together: one alone is too short for clock ticks to tell who else was running.
const STARTS: usize = 5;

/// Connections of the test of many.
const MANY: usize = 1000;

/// `noop` in this process: single calls, and batches of them.
pub(super) fn noop(plan: &Plan) -> Result<Noop, Failure> {
    let (local, _) = Local::start(None)?;
    let question = payload::noop();
    let mut caller = [InprocCaller::open(&local, &question)?];
    let (mut calls, mut all_calls) = (Latencies::new(), Latencies::new());
    let (mut batches, mut all_batches) = (Latencies::new(), Latencies::new());
    let mut noop = Noop { batch: BATCH, clock: inproc::clock().summary(), ..Noop::default() };
    let mut clean = 0;
    while !plan.is_done(clean, noop.rounds.len()) {
        let watch = Watch::begin(&[])?;
        let single = closed::in_threads(&mut caller, plan.warmup, plan.length / 2).tally;
        let batch = inproc::batches(&mut caller[0], plan.length / 2);
        let foreign = watch.end()?;
        noop.failed += single.failed() + batch.failed();
        all_calls.merge(single.latencies());
        all_batches.merge(batch.latencies());
        if foreign.clean {
            clean += 1;
            calls.merge(single.latencies());
            batches.merge(batch.latencies());
        }
        noop.rounds.push(Round { value: single.latencies().summary().p50_ns as f64, foreign });
    }
    let (calls, batches) = if clean > 0 { (&calls, &batches) } else { (&all_calls, &all_batches) };
    (noop.calls, noop.batches) = (calls.into(), batches.into());
    Ok(noop)
}

/// Starting a daemon, and what it keeps in memory.
pub(super) async fn start(plan: &Plan) -> Result<Start, Failure> {
    let mut start = Start::default();
    let mut clean = 0;
    while !plan.is_done(clean, start.ready.len() / STARTS) {
        // Children that have ended and were waited for count as ours by themselves.
        let watch = Watch::begin(&[])?;
        let mut took = Vec::new();
        for _ in 0..STARTS {
            let server = Server::start(Kind::Daemon, &[]).await?;
            took.push(server.took);
            start.idle.push(server.memory()?);
        }
        let foreign = watch.end()?;
        clean += usize::from(foreign.clean);
        start.ready.extend(took.into_iter().map(|took| Round { value: nanoseconds(took) as f64, foreign }));
    }
    let server = Server::start(Kind::Daemon, &[]).await?;
    let question = payload::echo_image();
    for route in [Route::Grpc(server.unix.clone()), Route::Rest(server.unix.clone())] {
        let callers = Caller::open_many(&route, &question, 8).await?;
        let (_, closed) = closed::run(callers, Duration::ZERO, 2 * plan.length).await;
        start.served_requests += closed.tally.ok();
    }
    start.served = Some(server.memory()?);
    Ok(start)
}

/// A real model by three ways, one client each, turn by turn.
pub(super) async fn model(name: &str, file: &Path, plan: &Plan) -> Result<Model, Failure> {
    let (local, in_process) = Local::start(Some(file))?;
    let in_process = in_process.expect("a file was named, so a model was loaded");
    let server = Server::start(Kind::Daemon, &[PathBuf::from(file)]).await?;
    // The daemon is ready once it tried to load its models, so the model is there or never will be.
    let question =
        payload::question(&in_process, &wanted(&server.unix, &in_process).await?, &Wish::default())?;
    let mut inproc = [InprocCaller::open(&local, &question)?];
    let routes = [
        ("REST over unix", Route::Rest(server.unix.clone())),
        ("gRPC over unix", Route::Grpc(server.unix.clone())),
    ];
    let mut remote = Vec::new();
    for (way, route) in &routes {
        remote.push((*way, Caller::open_many(route, &question, 1).await?, Ways::new()));
    }
    let mut local_way = Ways::new();
    let (mut rounds, mut clean) = (0, 0);
    let pids = [server.pid()];
    while !plan.is_done(clean, rounds) {
        let watch = Watch::begin(&pids)?;
        let in_process = closed::in_threads(&mut inproc, plan.warmup, plan.length).tally;
        let mut tallies = Vec::new();
        for (_, callers, way) in &mut remote {
            let before = Counted::ask(&server.unix, &question.model).await;
            let (back, closed) = closed::run(std::mem::take(callers), plan.warmup, plan.length).await;
            let after = Counted::ask(&server.unix, &question.model).await;
            *callers = back;
            way.split(before, after);
            tallies.push(closed.tally);
        }
        let is_clean = watch.end()?.clean;
        rounds += 1;
        clean += usize::from(is_clean);
        local_way.count(&in_process, is_clean);
        for ((_, _, way), tally) in remote.iter_mut().zip(&tallies) {
            way.count(tally, is_clean);
        }
    }
    let mut ways = vec![local_way.finish("in process")];
    ways.extend(remote.into_iter().map(|(name, _, way)| way.finish(name)));
    let request_bytes = request_bytes(&question);
    let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Model { name: name.into(), file, request_bytes, ways, rounds, clean })
}

fn request_bytes(question: &Question) -> usize {
    question.inputs.iter().map(|input| input.data.len()).sum()
}

/// What one way of asking a model gave so far.
struct Ways {
    clean: Latencies,
    all: Latencies,
    failed: u64,
    split: Option<super::super::split::Split>,
}

impl Ways {
    fn new() -> Ways {
        Ways { clean: Latencies::new(), all: Latencies::new(), failed: 0, split: None }
    }

    fn count(&mut self, tally: &super::super::tally::Tally, clean: bool) {
        self.failed += tally.failed();
        self.all.merge(tally.latencies());
        if clean {
            self.clean.merge(tally.latencies());
        }
    }

    /// Keeps the latest: every round measures the same, and means of means would need weights.
    fn split(&mut self, before: Option<Counted>, after: Option<Counted>) {
        let split = after.zip(before).and_then(|(after, before)| after.since(&before));
        self.split = split.or(self.split);
    }

    fn finish(self, name: &str) -> Way {
        let latencies = if self.clean.count() > 0 { &self.clean } else { &self.all };
        Way {
            name: name.into(),
            latency: Distribution::from(latencies),
            split: self.split,
            failed: self.failed,
        }
    }
}

/// Few and then many connections with small requests over REST on a unix socket.
pub(super) async fn connections(plan: &Plan, step: &impl Fn(String)) -> Result<Vec<Connections>, Failure> {
    raise_open_files();
    let question = payload::echo_bytes(1024);
    let mut all = Vec::new();
    for count in [8, MANY] {
        step(format!("{count} connections"));
        let server = Server::start(Kind::Daemon, &[]).await?;
        let pids = [server.pid()];
        let mut callers = Caller::open_many(&Route::Rest(server.unix.clone()), &question, count).await?;
        let mut result = Connections {
            count,
            rounds: Vec::new(),
            latency: Distribution::default(),
            cpu_ns: 0.0,
            memory: server.memory()?,
            failed: 0,
        };
        let (mut kept, mut any) = (Latencies::new(), Latencies::new());
        let (mut clean, mut answers) = (0, 0.0);
        let cpu = server.cpu_time()?;
        while !plan.is_done(clean, result.rounds.len()) {
            let watch = Watch::begin(&pids)?;
            let (back, closed) = closed::run(callers, plan.warmup, plan.length).await;
            let foreign = watch.end()?;
            callers = back;
            result.failed += closed.tally.failed();
            answers += closed.rate() * (plan.warmup + plan.length).as_secs_f64();
            any.merge(closed.tally.latencies());
            if foreign.clean {
                clean += 1;
                kept.merge(closed.tally.latencies());
            }
            result.rounds.push(Round { value: closed.rate(), foreign });
        }
        result.cpu_ns = (server.cpu_time()?.saturating_sub(cpu)).as_nanos() as f64 / f64::max(answers, 1.0);
        result.latency = Distribution::from(if clean > 0 { &kept } else { &any });
        result.memory = server.memory()?;
        all.push(result);
    }
    Ok(all)
}
