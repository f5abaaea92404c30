// SPDX-License-Identifier: Apache-2.0
//! The daemon's side: start the child, wait so long and no longer, and say what its end means.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::super::limits::{CHILD_STDERR_BYTES_MAX, VERDICT_BYTES_MAX};
use super::request;
use super::verdict::{Answer, Verdict};
use super::{Rehearsal, RehearsalError, RehearsalLimits, Rehearser};

/// How often a child that closed its output is asked whether it ended.
const REAP_INTERVAL: Duration = Duration::from_millis(1);

/// Rehearses in a child process that runs [`super::child_main`].
///
/// Call it from a thread that lives as long as the daemon: the child is killed when the thread that started
/// it ends.
#[derive(Clone, Debug)]
pub struct ProcessRehearser {
    /// The daemon's own executable.
    pub program: PathBuf,
    /// Arguments that make it a rehearsal.
    pub args: Vec<OsString>,
    /// Its whole environment; nothing of the daemon's is passed on.
    pub env: Vec<(OsString, OsString)>,
    /// What it may use.
    pub limits: RehearsalLimits,
}

impl Rehearser for ProcessRehearser {
    fn rehearse(&self, model: &Rehearsal<'_>) -> Result<Verdict, RehearsalError> {
        let failed = |action| move |source| RehearsalError::Io { action, source };
        let frame = request::memory_file(model, &self.limits).map_err(failed("write the model to memory"))?;
        let mut child = self.spawn(frame.into()).map_err(failed("start its process"))?;
        let (status, printed, said) = self.watch(&mut child)?;
        match Answer::parse(&printed, model.backend) {
            // Whatever it printed before, a process that was killed has not passed.
            Some(answer) if status.success() => answer.into_result(model.backend, self.limits.memory_max),
            _ => Err(self.explain(status, &said, model.backend)),
        }
    }
}

impl ProcessRehearser {
    fn spawn(&self, stdin: Stdio) -> io::Result<Child> {
        Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            // Its own group: a signal to the daemon's terminal is not for it, and a kill takes all of it.
            .process_group(0)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }

    /// Waits for the end, and ends it when the time is over.
    fn watch(&self, child: &mut Child) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), RehearsalError> {
        let deadline = Instant::now() + self.limits.time_max;
        let output = self.outputs(child);
        let ended = match &output {
            Ok([printed, said]) => before(deadline, printed).and_then(|printed| {
                let said = before(deadline, said)?;
                Some((exit_before(deadline, child)?, printed, said))
            }),
            Err(_) => None,
        };
        if let Some((status, printed, said)) = ended {
            let status =
                status.map_err(|source| RehearsalError::Io { action: "wait for its process", source })?;
            return Ok((status, printed, said));
        }
        end(child);
        match output {
            Ok(_) => Err(RehearsalError::Time { limit: self.limits.time_max }),
            Err(source) => Err(RehearsalError::Io { action: "read from its process", source }),
        }
    }

    fn outputs(&self, child: &mut Child) -> io::Result<[Receiver<Vec<u8>>; 2]> {
        let missing = || io::Error::other("the child has no output");
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        Ok([collect(stdout, VERDICT_BYTES_MAX)?, collect(stderr, CHILD_STDERR_BYTES_MAX)?])
    }

    fn explain(&self, status: ExitStatus, said: &[u8], backend: &'static str) -> RehearsalError {
        let said = String::from_utf8_lossy(said);
        if said.contains("memory allocation of ") {
            return RehearsalError::Memory { limit: self.limits.memory_max };
        }
        if said.contains("has overflowed its stack") {
            return RehearsalError::StackOverflow { backend };
        }
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let last: String = last.chars().take(200).collect();
        let said = if last.is_empty() { last } else { format!(": {}", last.escape_debug()) };
        match status.signal() {
            Some(signal) if signal == Signal::XCPU.as_raw() => {
                RehearsalError::Cpu { limit: self.limits.cpu_max }
            }
            // Nobody but the system's out-of-memory killer, or a person, sends this one.
            Some(signal) if signal == Signal::KILL.as_raw() => {
                let said = ", which the system sends when memory runs out".to_owned();
                RehearsalError::Signal { backend, signal, said }
            }
            Some(signal) => RehearsalError::Signal { backend, signal, said },
            None => RehearsalError::NoVerdict { code: status.code().unwrap_or(-1), said },
        }
    }
}

/// Reads to the end on a thread of its own, and keeps the first `limit` bytes.
fn collect(mut from: impl Read + Send + 'static, limit: usize) -> io::Result<Receiver<Vec<u8>>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::Builder::new().name("rehearsal-out".into()).spawn(move || {
        let mut kept = Vec::new();
        // A pipe that breaks is one that ended; and a child that says too much must not block on it.
        let _ = from.by_ref().take(limit as u64).read_to_end(&mut kept);
        let _ = io::copy(&mut from, &mut io::sink());
        // Nobody may be waiting any more.
        let _ = sender.send(kept);
    })?;
    Ok(receiver)
}

fn before(deadline: Instant, receiver: &Receiver<Vec<u8>>) -> Option<Vec<u8>> {
    receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
}

fn exit_before(deadline: Instant, child: &mut Child) -> Option<io::Result<ExitStatus>> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(Ok(status)),
            Ok(None) if Instant::now() >= deadline => return None,
            // It closed its output, so it is about to end.
            Ok(None) => std::thread::sleep(REAP_INTERVAL),
            Err(error) => return Some(Err(error)),
        }
    }
}

/// Kills the child with all that it started, and reaps it. It can't be gone before it is reaped, so the
/// number still means it.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // Fails only when all of it already ended.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}
