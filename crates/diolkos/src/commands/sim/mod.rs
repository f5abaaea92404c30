// SPDX-License-Identifier: Apache-2.0
//! `diolkos sim`: what the scheduler would do with a load, in simulated time.

mod trace;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use diolkos_engine::sched::sim::{Sender, Served, jain, simulate};
use diolkos_engine::sched::{CLASSES, Class, Nanos, SchedConfig, TenantKey};
use diolkos_engine::{PoolConfig, limits};
use diolkos_server::Settings;
use serde::Serialize;

use trace::{Named, Trace};

use super::{print, print_json};
use crate::exit::{Exit, Failure};
use crate::term::{Lean, Paint, Table, time};

/// Longest that is simulated if nobody says.
const SECONDS: f64 = 60.0;

/// `sim`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diolkos sim load.toml                          with the defaults
  diolkos sim load.toml --config diolkos.toml    with the slots, pools, floors and tenants of these settings
  diolkos sim load.toml --fifo                   and what first come, first served would do

A trace is TOML; docs/scheduling.md lists what can stand there:
  seconds = 60
  [[send]]                   # somebody who waits for answers
  tenant = \"chat\"
  class = \"interactive\"
  takes = \"3ms\"              # device time of one request
  every = \"40ms\"             # now and then, with this mean
  [[send]]                   # somebody who always has work
  tenant = \"reports\"
  class = \"batch\"
  takes = \"70ms\"
  outstanding = 32")]
pub struct SimArgs {
    /// Who sends what, and when
    #[arg(value_name = "TRACE")]
    pub trace: PathBuf,
    /// The daemon's settings
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Show first come, first served as well
    #[arg(long)]
    pub fifo: bool,
    /// Simulate so many seconds [default: what the trace says, else 60]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// Other random numbers [default: what the trace says, else 1]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if number > 0.0 && number <= 1e6 { Ok(number) } else { Err("above 0 and at most 1000000".into()) }
}

/// What one `[[send]]` got.
#[derive(Debug, Serialize)]
struct Row {
    tenant: String,
    pool: String,
    class: &'static str,
    weight: u32,
    came: u64,
    done: u64,
    late: u64,
    cancelled: u64,
    /// Jobs that ended, per second.
    rate: f64,
    /// Part of the device's time.
    share: f64,
    wait_p50_ns: Nanos,
    wait_p99_ns: Nanos,
    wait_max_ns: Nanos,
    latency_p99_ns: Nanos,
}

/// What a policy did.
#[derive(Debug, Serialize)]
struct Outcome {
    policy: &'static str,
    /// Part of the device's time that was used.
    used: f64,
    /// Jain's index of device time by weight, among tenants of the same pool and class; where there are several.
    fairness: Vec<Fairness>,
    senders: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Fairness {
    pool: String,
    class: &'static str,
    jain: f64,
}

/// The form of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    seed: u64,
    seconds: f64,
    slots: usize,
    outcomes: Vec<Outcome>,
}

/// Runs `sim`.
pub(super) fn run(args: &SimArgs) -> Result<Exit, Failure> {
    let trace = Trace::read(&args.trace)?;
    let settings = match &args.config {
        Some(path) => Settings::load(path).map_err(|error| Failure::usage(error.to_string()))?,
        None => Settings::default(),
    };
    let settings = trace.settings(&args.trace, settings)?;
    let senders = trace.senders(&args.trace, &settings)?;
    let report = report(args, &trace, &settings, &senders);
    if args.json {
        print_json(&report)?;
    } else {
        print(&shown(&report, &args.trace, Paint::stdout())?)?;
    }
    Ok(Exit::Ok)
}

fn report(args: &SimArgs, trace: &Trace, settings: &Settings, senders: &[Named]) -> Report {
    let pools = settings.pools();
    let slots = pools.iter().map(|pool| pool.slots).sum();
    let seed = args.seed.or(trace.seed).unwrap_or(1);
    let seconds = args.seconds.or(trace.seconds).filter(|seconds| *seconds > 0.0).unwrap_or(SECONDS);
    let of_pool = |pool: &PoolConfig| pool.scheduler(settings.floors());
    let until = (seconds * 1e9) as Nanos;
    let stuck = trace.stuck();
    let batching = |sender: &Sender| sender.batch.filter(|_| settings.engine.batching);
    let fair: Vec<Sender> = senders
        .iter()
        .map(|named| Sender { batch: batching(&named.sender), ..named.sender.clone() })
        .collect();
    let configs: Vec<SchedConfig> = pools.iter().map(of_pool).collect();
    let served = simulate(&configs, &fair, &stuck, until, seed);
    let mut outcomes = vec![outcome("diolkos", senders, served, seconds, &pools)];
    if args.fifo {
        // One pool, one tenant, one class, no deadlines, nothing shared: what comes first runs first.
        let first = |named: &Named| Sender {
            tenant: TenantKey(0),
            pool: 0,
            class: Class::Standard,
            share: diolkos_engine::Share::ALL,
            deadline: None,
            batch: None,
            ..named.sender.clone()
        };
        let one = PoolConfig::fair(slots);
        let one = SchedConfig { tenant_queue_max: limits::DEVICE_QUEUE_MAX, ..of_pool(&one) };
        let fifo: Vec<Sender> = senders.iter().map(first).collect();
        let served = simulate(&[one], &fifo, &stuck, until, seed);
        outcomes.push(outcome("fifo", senders, served, seconds, &pools));
    }
    Report { seed, seconds, slots, outcomes }
}

fn outcome(
    policy: &'static str,
    senders: &[Named],
    served: Vec<Served>,
    seconds: f64,
    pools: &[PoolConfig],
) -> Outcome {
    let slots: usize = pools.iter().map(|pool| pool.slots).sum();
    let all = seconds * 1e9 * slots as f64;
    let mut rows = Vec::new();
    for (Named { tenant, sender }, mut served) in senders.iter().zip(served) {
        rows.push(Row {
            tenant: tenant.clone(),
            pool: pools[sender.pool].name.clone(),
            class: sender.class.name(),
            weight: sender.share.weight,
            came: served.came,
            done: served.done,
            late: served.late,
            cancelled: served.cancelled,
            rate: served.done as f64 / seconds,
            share: served.device as f64 / all,
            wait_p50_ns: served.wait(0.5),
            wait_p99_ns: served.wait(0.99),
            wait_max_ns: served.wait(1.0),
            latency_p99_ns: served.latency(0.99),
        });
    }
    let groups = pools.iter().flat_map(|pool| CLASSES.map(|class| (pool.name.as_str(), class.name())));
    let fairness = groups.filter_map(|(pool, class)| {
        let mut tenants: Vec<(&str, f64)> = Vec::new();
        for row in rows.iter().filter(|row| (row.pool.as_str(), row.class) == (pool, class)) {
            let share = row.share / f64::from(row.weight.max(1));
            match tenants.iter_mut().find(|(tenant, _)| *tenant == row.tenant) {
                Some((_, sum)) => *sum += share,
                None => tenants.push((&row.tenant, share)),
            }
        }
        let jain = jain(tenants.iter().map(|(_, share)| *share));
        (tenants.len() > 1 && jain.is_finite()).then(|| Fairness { pool: pool.to_owned(), class, jain })
    });
    let fairness = fairness.collect();
    Outcome { policy, used: rows.iter().map(|row| row.share).sum(), fairness, senders: rows }
}

fn shown(report: &Report, trace: &Path, paint: Paint) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    let Report { seed, seconds, slots, outcomes } = report;
    writeln!(out, "{}: {seconds} s, slots: {slots}, seed: {seed}", trace.display())?;
    for Outcome { policy, used, fairness, senders } in outcomes {
        // First come, first served is one queue for all.
        let pools = *policy != "fifo" && senders.iter().any(|row| row.pool != PoolConfig::DEFAULT);
        let policy =
            if *policy == "fifo" { "first come, first served" } else { "classes, shares and batching" };
        writeln!(out, "\n{policy}: {:.1} % of the device used", used * 100.0)?;
        let mut columns = vec![
            ("TENANT", Lean::Left),
            ("CLASS", Lean::Left),
            ("WEIGHT", Lean::Right),
            ("JOBS/S", Lean::Right),
            ("DEVICE", Lean::Right),
            ("WAIT P50", Lean::Right),
            ("WAIT P99", Lean::Right),
            ("LATENCY P99", Lean::Right),
            ("LATE", Lean::Right),
            ("CANCELLED", Lean::Right),
        ];
        if pools {
            columns.insert(1, ("POOL", Lean::Left));
        }
        let mut table = Table::new(&columns);
        let shown = |ns: Nanos| time(Duration::from_nanos(ns));
        for row in senders {
            let mut cells = vec![
                row.tenant.clone(),
                row.class.to_owned(),
                row.weight.to_string(),
                format!("{:.1}", row.rate),
                format!("{:.1} %", row.share * 100.0),
                shown(row.wait_p50_ns),
                shown(row.wait_p99_ns),
                shown(row.latency_p99_ns),
                row.late.to_string(),
                row.cancelled.to_string(),
            ];
            if pools {
                cells.insert(1, row.pool.clone());
            }
            table.row(cells, None);
        }
        table.write(&mut out, paint)?;
        for Fairness { pool, class, jain } in fairness {
            let of = if pools { format!("pool {pool}, class {class}") } else { format!("class {class}") };
            writeln!(out, "Jain's index of device time by weight, {of}: {jain:.3}")?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_answers_waits_less_than_first_come_first_served() {
        let text = "seconds = 20\nslots = 1\n[[stuck]]\nat = \"5s\"\nlasts = \"1s\"\n\
                    [[send]]\ntenant = \"chat\"\nclass = \"interactive\"\ntakes = \"1ms\"\nevery = \"40ms\"\n\
                    [[send]]\ntenant = \"a\"\nclass = \"batch\"\ntakes = \"10ms\"\noutstanding = 32\n\
                    [[send]]\ntenant = \"b\"\nclass = \"batch\"\ntakes = \"10ms\"\nheavy_tail = true\noutstanding = 8\n";
        let trace: Trace = toml::from_str(text).expect("it is right");
        let settings = Settings::default();
        let senders = trace.senders(Path::new("t.toml"), &settings).expect("it is right");
        let args = SimArgs {
            trace: "t.toml".into(),
            config: None,
            fifo: true,
            seconds: None,
            seed: None,
            json: false,
        };
        let report = report(&args, &trace, &settings, &senders);
        let [ours, fifo] = &report.outcomes[..] else { panic!("two outcomes: {report:?}") };
        assert!(ours.senders[0].wait_p50_ns * 5 < fifo.senders[0].wait_p50_ns, "{report:?}");
        assert!(ours.used > 0.9 && ours.fairness[0].jain > 0.98, "{report:?}");
        let shown = String::from_utf8(shown(&report, Path::new("t.toml"), Paint::PLAIN).expect("text"))
            .expect("UTF-8");
        assert!(shown.contains("first come, first served") && shown.contains("chat"), "{shown}");
    }
}
