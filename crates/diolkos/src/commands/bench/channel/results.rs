// SPDX-License-Identifier: Apache-2.0
//! What was measured, as it is kept in `performance/channel.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::host::Host;
use super::super::procfs::Foreign;

/// One case in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    /// Median of its calls.
    pub(super) p50_ns: f64,
    /// 99 of 100 took no longer.
    pub(super) p99_ns: f64,
    /// Calls per second.
    pub(super) rate: f64,
    /// CPU time of client and daemon per call, where it was measured.
    pub(super) cpu_ns: Option<f64>,
    /// That of the daemon alone.
    #[serde(default)]
    pub(super) daemon_cpu_ns: Option<f64>,
}

/// All cases, once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Round {
    /// By name of the case.
    pub(super) measured: BTreeMap<String, Measured>,
    /// Who else used the machine.
    pub(super) foreign: Foreign,
}

/// First answers of processes that were just started, in nanoseconds, one value per process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Fresh {
    /// The client is an executable of its own, and not this one.
    pub(super) own_client: bool,
    /// Through the channel, from the start of the process to its first answer.
    pub(super) channel_ns: Vec<f64>,
    /// With the embedded runtime and the model in the process itself.
    pub(super) alone_ns: Vec<f64>,
    /// One inference of the same model in a warm process.
    pub(super) inference_ns: Vec<f64>,
    /// Memory of the client's process after its first answer, in bytes, without the region of its tensors.
    pub(super) memory_bytes: Vec<f64>,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Results {
    /// Where.
    pub(super) host: Host,
    /// Few and short rounds.
    pub(super) quick: bool,
    /// All rounds, clean or not.
    pub(super) rounds: Vec<Round>,
    /// First answers, if the model was there.
    pub(super) fresh: Option<Fresh>,
    /// What could not be measured, and why.
    pub(super) notes: Vec<String>,
}

impl Results {
    /// A number of every clean round; of every round where none was clean.
    pub(super) fn each(&self, number: impl Fn(&Round) -> Option<f64>) -> Vec<f64> {
        let clean: Vec<f64> =
            self.rounds.iter().filter(|round| round.foreign.clean).filter_map(&number).collect();
        if clean.is_empty() { self.rounds.iter().filter_map(number).collect() } else { clean }
    }

    /// Rounds that count.
    pub(super) fn clean(&self) -> usize {
        self.rounds.iter().filter(|round| round.foreign.clean).count()
    }
}
