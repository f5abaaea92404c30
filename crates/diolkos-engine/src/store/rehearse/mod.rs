// SPDX-License-Identifier: Apache-2.0
//! Loads a model in a child process first, because running out of memory or stack can't be caught.
//!
//! ```text
//! daemon                                          child (same executable, hidden subcommand)
//!   memfd: limits, options, files ──── stdin ───> limits itself, reads, loads, runs on zeros
//!   reads at most 64 KiB        <──── stdout ──── verdict, line by line
//!   kills it after the time limit
//! ```
//!
//! The child limits itself before it reads the first byte of the model: address space, CPU time, no files
//! written, few files open, no core, no new privileges, and it dies with the daemon. What it prints is
//! bounded, parsed as hostile text, and only its numbers are believed; the daemon takes the signature from the
//! operation that it then loads itself.

mod child;
mod process;
mod request;
mod verdict;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::Duration;

use diolkos_backend::{LoadError, LoadOptions, ModelFiles};
use diolkos_types::Digest;

use super::limits::VERDICTS_MAX;

pub use child::child_main;
pub use process::ProcessRehearser;
pub(super) use verdict::describe;
pub use verdict::{Verdict, fuzz_parse_verdict};

/// What to rehearse.
#[derive(Clone, Copy, Debug)]
pub struct Rehearsal<'a> {
    /// Name of the backend that shall load it.
    pub backend: &'static str,
    /// The files.
    pub files: &'a ModelFiles,
    /// What the daemon would ask of the load.
    pub options: &'a LoadOptions,
}

/// What a rehearsal may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RehearsalLimits {
    /// Memory beyond what the bare process has, the model's files included.
    pub memory_max: u64,
    /// CPU time, rounded up to whole seconds.
    pub cpu_max: Duration,
    /// Time on the clock.
    pub time_max: Duration,
}

impl Default for RehearsalLimits {
    /// Enough for the models that one node serves from CPUs, and too little to hurt it.
    fn default() -> RehearsalLimits {
        RehearsalLimits {
            memory_max: 4 << 30,
            cpu_max: Duration::from_secs(60),
            time_max: Duration::from_secs(120),
        }
    }
}

/// Why a model did not pass.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// The child could not be started or talked to.
    #[error("the rehearsal can't {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It needed more memory than it may have.
    #[error(
        "the rehearsal ended when it needed more than {limit} bytes of memory: raise models.rehearsal_memory_max, or use a smaller model"
    )]
    Memory {
        /// The limit.
        limit: u64,
    },
    /// It needed more CPU time than it may have.
    #[error(
        "the rehearsal was killed after {limit:?} of CPU time: raise models.rehearsal_cpu, or use a smaller model"
    )]
    Cpu {
        /// The limit.
        limit: Duration,
    },
    /// It took longer than it may.
    #[error(
        "the rehearsal was killed after {limit:?}: raise models.rehearsal_timeout, or use a smaller model"
    )]
    Time {
        /// The limit.
        limit: Duration,
    },
    /// Its stack overflowed, as a model that is nested too deep makes it.
    #[error("the model makes the {backend} backend overflow its stack, so it is not loaded")]
    StackOverflow {
        /// Name of the backend.
        backend: &'static str,
    },
    /// It crashed.
    #[error("the model makes the {backend} backend crash with signal {signal}, so it is not loaded{said}")]
    Signal {
        /// Name of the backend.
        backend: &'static str,
        /// Number of the signal.
        signal: i32,
        /// The last that it said, as the end of the sentence.
        said: String,
    },
    /// It panicked, which breaks the backend's contract.
    #[error("the model makes the {backend} backend panic, so it is not loaded: {message}")]
    Panic {
        /// Name of the backend.
        backend: &'static str,
        /// The panic's message.
        message: String,
    },
    /// The child ended without a verdict.
    #[error("the rehearsal ended with exit code {code} and without a verdict{said}")]
    NoVerdict {
        /// Its exit code.
        code: i32,
        /// The last that it said, as the end of the sentence.
        said: String,
    },
    /// The child has no such backend, so it is not the executable that it should be.
    #[error("the rehearsal's executable has no backend `{backend}`")]
    UnknownBackend {
        /// Name of the backend.
        backend: &'static str,
    },
    /// The backend refused the files.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Loads a model where a failure harms nobody.
pub trait Rehearser: Send + Sync {
    /// Loads it, warms it, and forgets it.
    fn rehearse(&self, model: &Rehearsal<'_>) -> Result<Verdict, RehearsalError>;
}

/// Rehearses nothing: for tests, and for an operator who trusts every file.
///
/// Its verdict says that the model needs what its files have.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRehearsal;

impl Rehearser for NoRehearsal {
    fn rehearse(&self, model: &Rehearsal<'_>) -> Result<Verdict, RehearsalError> {
        Ok(Verdict { resident_bytes: model.files.total_bytes(), ..Verdict::default() })
    }
}

/// Verdicts of models that passed, so that loading known bytes again costs no child. The oldest goes first.
#[derive(Debug, Default)]
pub(super) struct VerdictCache {
    verdicts: HashMap<Digest, Verdict>,
    order: VecDeque<Digest>,
}

impl VerdictCache {
    pub(super) fn get(&self, digest: &Digest) -> Option<&Verdict> {
        self.verdicts.get(digest)
    }

    pub(super) fn insert(&mut self, digest: Digest, verdict: Verdict) {
        if self.verdicts.insert(digest, verdict).is_none() {
            self.order.push_back(digest);
        }
        if self.order.len() > VERDICTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.verdicts.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
