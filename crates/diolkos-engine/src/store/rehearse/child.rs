// SPDX-License-Identifier: Apache-2.0
//! The child's side: limit itself, load, run, say how it went.

use std::io::{self, Read, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use diolkos_backend::Backend;
use rustix::process::{Resource, Rlimit, Signal};

use super::super::limits::CHILD_FILES_MAX;
use super::super::trial::try_together;
use super::super::warm::warm;
use super::request::{self, Head};
use super::verdict::{Answer, Verdict, describe};

/// What the executable does when it is started as a rehearsal: reads the frame from standard input, and
/// prints a verdict to standard output.
///
/// The exit code is 0 whenever there is a verdict, whichever it is.
#[must_use]
pub fn child_main(backends: &[Arc<dyn Backend>]) -> ExitCode {
    match rehearse(&mut io::stdin().lock(), backends) {
        Ok(answer) => {
            let mut stdout = io::stdout().lock();
            match stdout.write_all(answer.print().as_bytes()).and_then(|()| stdout.flush()) {
                Ok(()) => ExitCode::SUCCESS,
                // The daemon is gone, so there is nobody to tell.
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            // Nobody but the daemon starts this, so it is the daemon's log that the text ends up in.
            let _ = writeln!(io::stderr(), "the rehearsal can't begin: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rehearse(stdin: &mut impl Read, backends: &[Arc<dyn Backend>]) -> io::Result<Answer> {
    let head = request::read_head(stdin)?;
    confine(&head)?;
    let (name, files) = match request::read_model(stdin) {
        Ok(model) => model,
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => return Ok(Answer::OutOfMemory),
        Err(error) => return Err(error),
    };
    let Some(backend) = backends.iter().find(|backend| backend.name() == name) else {
        return Ok(Answer::UnknownBackend);
    };
    let attempt = AssertUnwindSafe(|| {
        let began = Instant::now();
        let operation = backend.load(&files, &head.options())?;
        let load_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let warmth = warm(&*operation);
        // Before the trial, which is no part of what the model needs.
        let peak_bytes = peak_bytes().unwrap_or(0);
        let trial = try_together(&*operation, warmth.median_ns, u64::MAX);
        Ok(Verdict {
            signature: describe(operation.signature()),
            resident_bytes: operation.resident_bytes(),
            peak_bytes,
            load_ns,
            first_ns: warmth.first_ns,
            median_ns: warmth.median_ns,
            trial_rows: Some(trial.rows),
            batch: None,
            note: warmth.note,
        })
    });
    Ok(match catch_unwind(attempt) {
        Ok(Ok(verdict)) => Answer::Passed(verdict),
        Ok(Err(error)) => Answer::Refused(error),
        Err(payload) => Answer::Panicked(crate::job::panic_text(&*payload).to_owned()),
    })
}

/// Takes from this process what loading a model does not need.
fn confine(head: &Head) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before that call.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if parent.and_then(|pid| u64::try_from(pid).ok()) != Some(head.parent) {
        return Err(io::Error::other("the daemon is gone"));
    }
    rustix::thread::set_no_new_privs(true)?;
    let memory = address_space()?.saturating_add(head.memory_max);
    for (resource, limit, hard) in [
        (Resource::As, memory, memory),
        // The soft limit's signal tells the daemon why; the hard one ends a process that ignores it.
        (Resource::Cpu, head.cpu_s, head.cpu_s.saturating_add(1)),
        (Resource::Core, 0, 0),
        (Resource::Fsize, 0, 0),
        (Resource::Nofile, CHILD_FILES_MAX, CHILD_FILES_MAX),
    ] {
        // A limit that somebody set lower stays.
        let before = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Rlimit { current: Some(limit.min(before)), maximum: Some(hard.min(before)) };
        rustix::process::setrlimit(resource, limit)?;
    }
    Ok(())
}

/// Bytes of address space that this process has.
fn address_space() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split_ascii_whitespace()
        .next()
        .and_then(|pages| pages.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/self/statm is not understood"))?;
    Ok(pages.saturating_mul(rustix::param::page_size() as u64))
}

/// Most resident memory that this process ever had.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
