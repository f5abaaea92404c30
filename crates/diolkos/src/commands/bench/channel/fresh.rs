// SPDX-License-Identifier: Apache-2.0
//! First answers: a process that has just been started asks once, and ends.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use diolkos_client::{AnyTensor, Client};

use super::super::caller::CallBlocking as _;
use super::super::children::{Server, cannot, this_program};
use super::super::closed;
use super::super::inproc::{InprocCaller, Local};
use super::super::payload::{self, Wish};
use super::super::procfs;
use super::super::report::{Plan, Watch};
use super::results::Fresh;
use crate::exit::Failure;

/// Processes of each kind in one round.
const EACH: usize = 5;

/// What a client's process tells: its memory without the regions that it shares, in bytes.
pub(super) fn ask_daemon(address: &str, model: &str) -> Result<u64, Failure> {
    let failed = |error: diolkos_client::Error| Failure::failed(error.to_string());
    let client = Client::connect(address).map_err(failed)?;
    let model = client.open(model).map_err(failed)?;
    let mut inputs = Vec::new();
    for spec in model.inputs() {
        let dims: Vec<u64> = spec.signed_dims().iter().map(|&dim| u64::try_from(dim).unwrap_or(1)).collect();
        let elements: u64 = dims.iter().product();
        let bytes = elements as usize * spec.data_type.element_bytes().unwrap_or(1);
        let mut tensor: AnyTensor = client.tensor_of(spec.data_type, &dims, bytes).map_err(failed)?;
        tensor.bytes_mut().fill(0);
        inputs.push((spec.name.to_string(), tensor));
    }
    let reply = model.infer(inputs).map_err(failed)?;
    if reply.outputs().is_empty() {
        return Err(Failure::failed("the model gave no outputs"));
    }
    own_memory()
}

/// Resident memory of this process that is not a shared memory file: its regions and rings are counted by their
/// own size, and the daemon has them, too.
fn own_memory() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| cannot("read this process's memory", &error))?;
    let field = |name| procfs::kilobytes(&text, name).unwrap_or(0);
    Ok(field("RssAnon:") + field("RssFile:"))
}

/// Loads the model in this process and asks it once.
pub(super) fn ask_alone(file: &str) -> Result<u64, Failure> {
    let (local, name) = Local::start(Some(Path::new(file)))?;
    let name = name.expect("a file was named, so a model was loaded");
    let question = payload::question(&name, &local.wanted(&name)?, &Wish::default())?;
    let mut caller = InprocCaller::open(&local, &question)?;
    match caller.call_blocking() {
        super::super::caller::Outcome::Ok => own_memory(),
        super::super::caller::Outcome::Failed(why) => Err(Failure::failed(why.to_string())),
    }
}

/// Measures both, and the same inference in this process.
pub(super) fn measure(file: &Path, client: Option<&Path>, plan: &Plan) -> Result<Fresh, Failure> {
    let runtime = super::super::runtime(1)?;
    let server = runtime.block_on(Server::start_daemon(&[file.to_path_buf()], &[]))?;
    let (local, name) = Local::start(Some(file))?;
    let name = name.expect("a file was named, so a model was loaded");
    let question = payload::question(&name, &local.wanted(&name)?, &Wish::default())?;
    let mut caller = [InprocCaller::open(&local, &question)?];
    let mut fresh = Fresh { own_client: client.is_some(), ..Fresh::default() };
    let (mut clean, mut rounds) = (0, 0);
    let pids = [server.pid()];
    let this = this_program().map_err(|error| cannot("find this program", &error))?;
    while !plan.is_done(clean, rounds) {
        let watch = Watch::begin(&pids)?;
        let warm = closed::in_threads(&mut caller, Duration::ZERO, plan.length / 2).tally;
        let mut these =
            Fresh { inference_ns: vec![warm.latencies().summary().p50_ns as f64], ..Fresh::default() };
        for _ in 0..EACH {
            let address = server.unix.to_string();
            let (took, memory) = match client {
                Some(client) => run(client, &[&address, &name, "--memory"])?,
                None => run(&this, &["bench-peer", "channel", &address, &name])?,
            };
            these.channel_ns.push(took);
            these.memory_bytes.push(memory);
        }
        let (took, _) = run(&this, &["bench-peer", "alone", &file.to_string_lossy(), &name])?;
        these.alone_ns.push(took);
        rounds += 1;
        if watch.end()?.clean || (clean == 0 && rounds == plan.tries) {
            clean += 1;
            fresh.channel_ns.append(&mut these.channel_ns);
            fresh.alone_ns.append(&mut these.alone_ns);
            fresh.inference_ns.append(&mut these.inference_ns);
            fresh.memory_bytes.append(&mut these.memory_bytes);
        }
    }
    Ok(fresh)
}

/// From before the process is made until its end, and the number that it printed last.
fn run(program: &Path, args: &[&str]) -> Result<(f64, f64), Failure> {
    let failed = |error: std::io::Error| cannot(&format!("start {}", program.display()), &error);
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let began = Instant::now();
    let output = command.output().map_err(failed)?;
    let took = began.elapsed();
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.lines().last().and_then(|line| line.trim().parse().ok());
    let number = number.filter(|_| output.status.success()).ok_or_else(|| {
        Failure::failed("a fresh process got no answer")
            .note(String::from_utf8_lossy(&output.stderr).into_owned())
    })?;
    Ok((took.as_nanos() as f64, number))
}
