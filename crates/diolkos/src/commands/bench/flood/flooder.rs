// SPDX-License-Identifier: Apache-2.0
//! The process that floods: one thread, within a share of a core that it keeps to by its own CPU clock. It ends with its
//! standard input, and then says what it sent.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::time::{ClockId, clock_gettime};

use super::super::children::{cannot, this_program};
use super::super::raise_open_files;
use super::budget::CpuBudget;
use super::kinds::{Bodies, Connections, Flood, OPENED_PER_SECOND, Requests};
use super::results::{Case, Sent};
use crate::commands::print_json;
use crate::exit::{Exit, Failure};

/// How long it sleeps when there was nothing to send.
const TICK: Duration = Duration::from_micros(500);

/// Bodies that begin for each request, where both are sent.
pub(super) const BODIES_SHARE: f64 = 0.1;

/// `bench-flooder`.
#[derive(Debug, Args)]
pub struct FlooderArgs {
    /// What to send
    #[arg(value_enum)]
    pub case: Case,
    /// The unix socket to send it to
    pub at: PathBuf,
    /// Requests per second
    #[arg(long)]
    pub rate: f64,
    /// Share of a core that it may use
    #[arg(long)]
    pub cpu: f64,
}

/// Floods until standard input ends.
pub(super) fn run(args: &FlooderArgs) -> Result<Exit, Failure> {
    raise_open_files();
    // Otherwise the kernel lets this thread sleep 50 µs too long, to wake fewer times.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let mut floods = floods(args.case, &args.at, args.rate);
    let ended = end_of_input();
    let mut budget = CpuBudget::new(args.cpu);
    let mut sent = Sent::default();
    let (began, cpu_before) = (Instant::now(), cpu_time());
    let used = || cpu_time().saturating_sub(cpu_before);
    while !ended.load(Ordering::Relaxed) {
        let mut moved = false;
        for flood in &mut floods {
            let step = flood.step(began.elapsed(), &mut sent);
            moved |= step.map_err(|error| cannot("flood", &error))?;
        }
        let rest = budget.rest(began.elapsed(), used());
        let rest = if moved { rest } else { rest.max(TICK) };
        if !rest.is_zero() {
            std::thread::sleep(rest);
        }
    }
    (sent.seconds, sent.cpu_seconds) = (began.elapsed().as_secs_f64(), used().as_secs_f64());
    print_json(&sent)?;
    Ok(Exit::Ok)
}

fn floods(case: Case, at: &Path, rate: f64) -> Vec<Box<dyn Flood>> {
    let requests = || Box::new(Requests::new(at, rate)) as Box<dyn Flood>;
    let bodies = |rate| Box::new(Bodies::new(at, rate)) as Box<dyn Flood>;
    let connections = || Box::new(Connections::new(at, OPENED_PER_SECOND)) as Box<dyn Flood>;
    match case {
        Case::Requests => vec![requests()],
        Case::Bodies => vec![bodies(rate)],
        Case::Connections => vec![connections()],
        // Otherwise bodies that are refused early would make it twice as many requests as are asked for.
        Case::All => vec![requests(), bodies(rate * BODIES_SHARE), connections()],
    }
}

/// Becomes true when standard input ends.
fn end_of_input() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let told = ended.clone();
    std::thread::spawn(move || {
        while std::io::stdin().lock().read(&mut [0; 64]).is_ok_and(|length| length > 0) {}
        // Nothing else is handed over by it.
        told.store(true, Ordering::Relaxed);
    });
    ended
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A flooder, as `bench flood` sees it.
pub(super) struct Flooder(Child);

impl Flooder {
    /// Starts one.
    pub(super) fn start(case: Case, at: &Path, rate: f64, cpu: f64) -> Result<Flooder, Failure> {
        let failed = |error: std::io::Error| cannot("start the flood", &error);
        let mut command = Command::new(this_program().map_err(failed)?);
        command.args(["bench-flooder", case.name()]).arg(at);
        command.args(["--rate", &rate.to_string(), "--cpu", &cpu.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Flooder(command.spawn().map_err(failed)?))
    }

    /// Ends it, and tells what it sent.
    pub(super) fn end(mut self) -> Result<Sent, Failure> {
        drop(self.0.stdin.take());
        let mut text = String::new();
        let read = self.0.stdout.take().map(|mut out| out.read_to_string(&mut text));
        let status = self.0.wait().map_err(|error| cannot("wait for the flood", &error))?;
        match serde_json::from_str(&text) {
            Ok(sent) if status.success() && matches!(read, Some(Ok(_))) => Ok(sent),
            _ => Err(Failure::failed(format!("the flood ended early ({status})"))),
        }
    }
}

impl Drop for Flooder {
    fn drop(&mut self) {
        // Both fail only if it is gone already, and then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
