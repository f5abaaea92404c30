// SPDX-License-Identifier: Apache-2.0
//! What was done so far, and whether the daemon is well.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::cursor::{Item, Reader, Wire, Writer};
use crate::error::DecodeError;
use crate::infer::Timing;
use crate::limits::{MODEL_NAME_BYTES_MAX, PART_ENTRIES_MAX};

/// Asks for the counters of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Its name; empty means all.
    pub name: Box<str>,
}

impl Wire for Stats {
    fn write(&self, to: &mut Writer<'_>) {
        to.text("name", MODEL_NAME_BYTES_MAX, &self.name);
    }

    fn read(from: &mut Reader<'_>) -> Result<Stats, DecodeError> {
        Ok(Stats { name: from.text("name", MODEL_NAME_BYTES_MAX)?.into() })
    }
}

/// Counters of one version of a model, since it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsEntry {
    /// Name of the model.
    pub name: Box<str>,
    /// Which version.
    pub version: u64,
    /// Requests that got a result.
    pub succeeded: u64,
    /// Requests that got none.
    pub failed: u64,
    /// Runs of the backend; fewer than requests where those were batched.
    pub executions: u64,
    /// Where the time of all requests together went.
    pub timing: Timing,
}

impl Wire for StatsEntry {
    fn write(&self, to: &mut Writer<'_>) {
        to.text("name", MODEL_NAME_BYTES_MAX, &self.name);
        to.u64(self.version);
        to.u64(self.succeeded);
        to.u64(self.failed);
        to.u64(self.executions);
        self.timing.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<StatsEntry, DecodeError> {
        Ok(StatsEntry {
            name: from.text("name", MODEL_NAME_BYTES_MAX)?.into(),
            version: from.u64("version")?,
            succeeded: from.u64("succeeded")?,
            failed: from.u64("failed")?,
            executions: from.u64("executions")?,
            timing: Timing::read(from)?,
        })
    }
}

impl Item for StatsEntry {
    // Length of the name, and eight numbers.
    const BYTES_MIN: usize = 2 + 8 * 8;
}

/// Answers [`Stats`], in as many parts as it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsReply {
    /// At most [`PART_ENTRIES_MAX`] versions.
    pub models: Vec<StatsEntry>,
}

impl Wire for StatsReply {
    fn write(&self, to: &mut Writer<'_>) {
        to.list("models", PART_ENTRIES_MAX, &self.models);
    }

    fn read(from: &mut Reader<'_>) -> Result<StatsReply, DecodeError> {
        Ok(StatsReply { models: from.list("models", PART_ENTRIES_MAX)? })
    }
}

/// Answers [`Message::Health`](crate::Message::Health).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthReply {
    /// The daemon answers.
    pub live: bool,
    /// The models named at start were tried, and the daemon does not drain.
    pub ready: bool,
}

impl Wire for HealthReply {
    fn write(&self, to: &mut Writer<'_>) {
        to.bool(self.live);
        to.bool(self.ready);
    }

    fn read(from: &mut Reader<'_>) -> Result<HealthReply, DecodeError> {
        Ok(HealthReply { live: from.bool("live")?, ready: from.bool("ready")? })
    }
}
