// SPDX-License-Identifier: Apache-2.0
//! `diolkos bench`: what this build and this machine can do.
//!
//! ```text
//! payload ──> caller (rest, grpc, inproc) ──> closed | open ──> tally (latencies, failures) ──> load, report
//! ```
//!
//! | module | its one job |
//! |---|---|
//! | `args` | the command line |
//! | `latencies`, `tally` | what was counted |
//! | `schedule`, `open` | the open loop: when requests are due, and how late they are |
//! | `closed` | the closed loop |
//! | `payload` | what is sent |
//! | `caller`, `rest`, `grpc`, `inproc` | one client by each way |
//! | `children`, `baseline` | servers as child processes, ours and bare ones |
//! | `procfs`, `host` | CPU time, memory, foreign load; the machine |
//! | `split` | where a server spent its time, by its own account |
//! | `judge` | targets, and what can be said about them |
//! | `load` | `bench load` |
//! | `report` | `bench report` |
//! | `channel` | `bench channel` |
//! | `flood` | `bench flood` |
//! | `sched` | `bench sched` |

mod args;
mod baseline;
mod caller;
mod channel;
mod children;
mod closed;
mod flood;
mod grpc;
mod host;
mod inproc;
mod judge;
mod latencies;
mod load;
mod native;
mod open;
mod payload;
mod procfs;
mod report;
mod rest;
mod sched;
mod schedule;
mod split;
mod tally;

pub(crate) use args::BenchArgs;
pub(crate) use baseline::BaselineArgs;
pub(crate) use channel::PeerArgs;
pub(crate) use flood::FlooderArgs;

use args::BenchCommand;

use crate::exit::{Exit, Failure};

/// Runs `bench`.
pub(super) fn run(args: BenchArgs) -> Result<Exit, Failure> {
    match args.command {
        BenchCommand::Load(args) => load::run(&args),
        BenchCommand::Report(args) => report::run(&args),
        BenchCommand::Channel(args) => channel::run(&args),
        BenchCommand::Flood(args) => flood::run(&args),
        BenchCommand::Sched(args) => sched::run(&args),
    }
}

/// Runs `bench-baseline`.
pub(super) fn run_baseline(args: &BaselineArgs) -> Result<Exit, Failure> {
    baseline::run(args)
}

/// Runs `bench-peer`.
pub(super) fn run_peer(args: &PeerArgs) -> Result<Exit, Failure> {
    channel::run_peer(args)
}

/// Runs `bench-flooder`.
pub(super) fn run_flooder(args: &FlooderArgs) -> Result<Exit, Failure> {
    flood::run_flooder(args)
}

/// Many connections need many descriptors; if there are not enough, connecting fails and says so.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A runtime for so many clients: one thread for each, up to the number of cores.
fn runtime(clients: usize) -> Result<tokio::runtime::Runtime, Failure> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = match cores.min(clients) {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    builder.enable_all().build().map_err(|error| children::cannot("start the async runtime", &error))
}
