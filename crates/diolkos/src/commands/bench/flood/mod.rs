// SPDX-License-Identifier: Apache-2.0
//! `bench flood`: what one tenant notices of another that floods the daemon.
//!
//! ```text
//! quiet tenant ──> daemon <── flooder (a child process, within a share of a core)     `daemon`
//! quiet tenant ──> daemon     flooder ──> a server that only accepts and drops        `dropping`
//! quiet tenant ──> daemon                                                             `none`
//! ```
//!
//! Somebody who floods uses the machine, whoever it is sent to; that is what `dropping` shows. What the quiet tenant sees
//! beyond that is the daemon's doing. All three are measured in every round, in turns, so that a machine that gets slower
//! meanwhile does so for all; the target is about the ratio within a round.

mod budget;
mod flooder;
mod kinds;
mod page;
mod quiet;
mod results;
mod scan;
mod stream;
mod tenants;
mod usage;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use flooder::FlooderArgs;
pub(crate) use results::Case;

use flooder::Flooder;
use quiet::QuietTenant;
use results::{Beside, CaseResults, Results, Round, Side};
use usage::Watching;

use super::args::FloodArgs;
use super::children::{Kind, Server, cannot};
use super::host::Host;
use super::judge::{self, Judged};
use super::report::{Plan, Watch};
use super::runtime;
use crate::client::Address;
use crate::commands::{print, print_json};
use crate::exit::{Exit, Failure};

/// Share of a core that a flood may use.
const CPU_MAX: f64 = 0.5;

/// How many times its limit the flooding tenant sends if nobody says: a little more than the target, so that what is late
/// at the end does not make it less.
const TIMES: f64 = 1.1 * verdict::TIMES_MIN;

/// Load before each measurement: as long as it takes to open all connections.
const WARMUP: Duration = Duration::from_secs(1);

/// How long the daemon has to give back what a flood took.
const SETTLE: Duration = Duration::from_secs(1);

/// Runs `bench flood`.
pub(super) fn run(args: &FloodArgs) -> Result<Exit, Failure> {
    let results = measure(args)?;
    let judged = verdict::judge(&results);
    if let Some(out) = &args.out {
        write(out, &results, &judged)?;
    }
    match &args.json {
        Some(path) if path.as_os_str() == "-" => print_json(&results)?,
        path => {
            if let Some(path) = path {
                save(path, &json(&results))?;
            }
            print(page::terminal(&results, &judged).as_bytes())?;
        }
    }
    Ok(judge::exit(&judged))
}

/// Runs `bench-flooder`: the process that floods.
pub(super) fn run_flooder(args: &FlooderArgs) -> Result<Exit, Failure> {
    flooder::run(args)
}

/// Everything that has to run.
struct Bench {
    runtime: tokio::runtime::Runtime,
    daemon: Server,
    dropping: Server,
    quiet: QuietTenant,
    /// Requests per second of a flood.
    rate: f64,
    warmup: Duration,
    length: Duration,
}

impl Bench {
    fn start(rate: f64, warmup: Duration, length: Duration) -> Result<Bench, Failure> {
        let runtime = runtime(quiet::CLIENTS)?;
        let daemon = runtime.block_on(Server::start_listening(tenants::QUIET_SOCKET, tenants::settings))?;
        let dropping = runtime.block_on(Server::start(Kind::Drop, &[]))?;
        let quiet = runtime.block_on(QuietTenant::connect(&daemon))?;
        Ok(Bench { runtime, daemon, dropping, quiet, rate, warmup, length })
    }

    /// Where a side's flood goes.
    fn target(&self, side: Side) -> Option<PathBuf> {
        match (side, &self.daemon.unix, &self.dropping.unix) {
            (Side::Daemon, Address::Unix(quiet), _) => Some(tenants::flood_socket(quiet)),
            (Side::Dropping, _, Address::Unix(socket)) => Some(socket.clone()),
            _ => None,
        }
    }

    fn beside(&mut self, case: Case, side: Side, seed: u64) -> Result<Beside, Failure> {
        let flooder =
            self.target(side).map(|at| Flooder::start(case, &at, self.rate, CPU_MAX)).transpose()?;
        let watching = Watching::begin(self.daemon.pid());
        let (began, cpu) = (Instant::now(), [self.daemon.cpu_time()?, self.dropping.cpu_time()?]);
        let quiet = self.runtime.block_on(self.quiet.ask(self.warmup, self.length, seed));
        let share =
            |now: Duration, before| now.saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64();
        let daemon_cpu = share(self.daemon.cpu_time()?, cpu[0]);
        let dropping_cpu = share(self.dropping.cpu_time()?, cpu[1]);
        let daemon = watching.end()?;
        let flood = flooder.map(Flooder::end).transpose()?;
        Ok(Beside { quiet: quiet?, flood, daemon, daemon_cpu, dropping_cpu })
    }

    /// All sides once, beginning with another one each time. All have the same times at which requests are due.
    fn round(&mut self, case: Case, number: usize) -> Result<Round, Failure> {
        let pids = [self.daemon.pid(), self.dropping.pid()];
        let watch = Watch::begin(&pids)?;
        let mut round = Round::default();
        let mut sides = Side::EVERY;
        sides.rotate_left(number % Side::EVERY.len());
        for side in sides {
            let beside = self.beside(case, side, number as u64)?;
            match side {
                Side::Daemon => round.daemon = beside,
                Side::Dropping => round.dropping = beside,
                Side::None => round.none = beside,
            }
        }
        round.foreign = watch.end()?;
        Ok(round)
    }
}

fn measure(args: &FloodArgs) -> Result<Results, Failure> {
    let plan = Plan::new(args.quick);
    let plan = args.rounds.map_or(plan, |rounds| plan.with(usize::from(rounds)));
    let length = args.seconds.unwrap_or(3 * plan.length);
    let warmup = WARMUP.min(length);
    let rate = args.times.unwrap_or(TIMES) * f64::from(tenants::RATE_LIMIT);
    let mut bench = Bench::start(rate, warmup, length)?;
    let mut results = Results {
        host: Host::look(),
        quick: args.quick,
        seconds: length.as_secs_f64(),
        rate_limit: tenants::RATE_LIMIT,
        cpu_max: CPU_MAX,
        quiet_rate: quiet::RATE,
        bounds: tenants::bounds(),
        cases: Vec::new(),
    };
    for case in Case::EVERY {
        if args.only.is_empty() || args.only.contains(&case) {
            results.cases.push(measure_case(&mut bench, case, &plan)?);
        }
    }
    Ok(results)
}

fn measure_case(bench: &mut Bench, case: Case, plan: &Plan) -> Result<CaseResults, Failure> {
    let before = usage::look(bench.daemon.pid())?;
    let mut rounds = Vec::new();
    let mut clean = 0;
    while !plan.is_done(clean, rounds.len()) {
        let (name, number) = (case.name(), rounds.len());
        eprintln!("bench: {name}, round {}, {clean} of {} were clean so far", number + 1, plan.rounds);
        let round = bench.round(case, number)?;
        clean += usize::from(round.foreign.clean);
        rounds.push(round);
    }
    std::thread::sleep(SETTLE);
    let after = usage::look(bench.daemon.pid())?;
    Ok(CaseResults { case, before, after, rounds })
}

fn json(results: &Results) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(results).expect("results are plain data");
    json.push(b'\n');
    json
}

fn save(path: &Path, text: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| cannot(&format!("write {}", path.display()), &error))
}

fn write(out: &Path, results: &Results, judged: &[Judged]) -> Result<(), Failure> {
    let folder = out.join("performance");
    std::fs::create_dir_all(&folder)
        .map_err(|error| cannot(&format!("make {}", folder.display()), &error))?;
    save(&folder.join("flood.json"), &json(results))?;
    save(&out.join("performance-flood.md"), page::render(results, judged).as_bytes())
}
