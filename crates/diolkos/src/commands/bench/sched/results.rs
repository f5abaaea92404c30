// SPDX-License-Identifier: Apache-2.0
//! What was measured, as it is kept in `performance/sched.json`.

use serde::{Deserialize, Serialize};

use super::super::host::Host;
use super::super::procfs::Foreign;

/// Somebody who waits for answers beside somebody who saturates the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Beside {
    /// Its latency alone.
    pub(super) alone_p50_ns: f64,
    /// What one job of the other takes, alone.
    pub(super) batch_job_ns: f64,
    /// p99 where what comes first runs first.
    pub(super) fifo_p99_ns: f64,
    /// Jobs per second of the other then.
    pub(super) fifo_batch_rate: f64,
    pub(super) p50_ns: f64,
    pub(super) p99_ns: f64,
    /// Jobs per second of the other.
    pub(super) batch_rate: f64,
    /// Part of the device's time that whoever waits for answers used.
    pub(super) used: f64,
    pub(super) failed: u64,
}

/// Tenants who all want as much as they can have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sharing {
    /// Seconds that each had of the device.
    pub(super) device_s: Vec<f64>,
    /// Jain's index of them.
    pub(super) jain: f64,
    /// All of them, as a part of the CPU time that the operating system accounted to this process.
    pub(super) accounted: f64,
    pub(super) failed: u64,
}

/// Clients of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Many {
    /// Answers per second.
    pub(super) rate: f64,
    /// Of the tenant that has it worse.
    pub(super) p50_ns: f64,
    pub(super) p99_ns: f64,
    /// Rows of a run, on average.
    pub(super) rows: f64,
    pub(super) failed: u64,
}

/// A model that gains from runs of many rows; with batching, and without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Batching {
    /// What a row gains in requests that have as many rows as a full run, with all slots busy.
    pub(super) gain: f64,
    /// Many clients.
    pub(super) many: [Many; 2],
    /// One client.
    pub(super) one: [Many; 2],
}

/// Everything, once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Round {
    pub(super) beside: Beside,
    pub(super) sharing: Sharing,
    pub(super) weights: Sharing,
    pub(super) batching: Batching,
    /// A model that gains nothing, by number of clients; with batching, and without.
    pub(super) few: Vec<[Many; 2]>,
    /// Who else used the machine.
    pub(super) foreign: Foreign,
}

/// All rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Results {
    /// Where.
    pub(super) host: Host,
    /// Few and short rounds.
    pub(super) quick: bool,
    /// Rows of a run and gain, as the load of the model found them; none if it found no gain.
    pub(super) trial: Option<(u32, f64)>,
    /// Whether the real model was there.
    pub(super) mobilenet: bool,
    /// All rounds, clean or not.
    pub(super) rounds: Vec<Round>,
}

impl Results {
    /// A number of every clean round; of every round where none was clean.
    pub(super) fn each(&self, number: impl Fn(&Round) -> f64) -> Vec<f64> {
        let clean: Vec<f64> = self.rounds.iter().filter(|round| round.foreign.clean).map(&number).collect();
        if clean.is_empty() { self.rounds.iter().map(number).collect() } else { clean }
    }

    /// Rounds that count.
    pub(super) fn clean(&self) -> usize {
        self.rounds.iter().filter(|round| round.foreign.clean).count()
    }

    /// Calls that failed.
    pub(super) fn failed(&self) -> u64 {
        let of = |round: &Round| {
            let Round { beside, sharing, weights, batching, few, .. } = round;
            let many = batching.many.iter().chain(&batching.one).chain(few.iter().flatten());
            beside.failed + sharing.failed + weights.failed + many.map(|many| many.failed).sum::<u64>()
        };
        self.rounds.iter().map(of).sum()
    }
}
