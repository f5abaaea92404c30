// SPDX-License-Identifier: Apache-2.0
//! What a report measured. The pages are made of this and of nothing else, so that the same results always
//! give the same pages.

use serde::{Deserialize, Serialize};

use super::super::host::Host;
use super::super::latencies::{Latencies, Point, Summary};
use super::super::procfs::{Foreign, Memory};
use super::super::split::Split;
use super::stats::Spread;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Results {
    pub(super) host: Host,
    /// Few and short rounds.
    pub(super) quick: bool,
    pub(super) noop: Option<Noop>,
    pub(super) pairs: Vec<Pair>,
    pub(super) open: Vec<Open>,
    pub(super) start: Option<Start>,
    pub(super) models: Vec<Model>,
    pub(super) connections: Vec<Connections>,
    /// What was left out, and why.
    pub(super) notes: Vec<String>,
}

/// A distribution.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Distribution {
    pub(super) summary: Summary,
    pub(super) points: Vec<Point>,
}

impl From<&Latencies> for Distribution {
    fn from(latencies: &Latencies) -> Distribution {
        Distribution { summary: latencies.summary(), points: latencies.curve() }
    }
}

/// One measured piece of time, and who else used the machine meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Round {
    /// What was measured; its unit is the part's.
    pub(super) value: f64,
    pub(super) foreign: Foreign,
}

/// `noop` in this process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Noop {
    /// Median of single calls, in nanoseconds, for each round.
    pub(super) rounds: Vec<Round>,
    /// Single calls, with the clock read before and after each.
    pub(super) calls: Distribution,
    /// Means of batches, with the clock read before and after each batch.
    pub(super) batches: Distribution,
    /// Calls per batch.
    pub(super) batch: u32,
    /// Two readings of the clock with nothing in between.
    pub(super) clock: Summary,
    pub(super) failed: u64,
}

/// The daemon and a bare server, turn by turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pair {
    /// `gRPC` or `REST`.
    pub(super) protocol: String,
    /// `unix` or `tcp`.
    pub(super) transport: String,
    pub(super) clients: usize,
    pub(super) rounds: Vec<PairRound>,
    pub(super) daemon: Side,
    pub(super) bare: Side,
}

/// One turn of both.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PairRound {
    /// Good answers per second.
    pub(super) daemon_rate: f64,
    /// The bare server's.
    pub(super) bare_rate: f64,
    /// While the daemon ran.
    pub(super) daemon_foreign: Foreign,
    /// While the bare server ran.
    pub(super) bare_foreign: Foreign,
}

/// One of the two, over all rounds that count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Side {
    pub(super) latency: Distribution,
    /// The server's CPU time per good answer, in nanoseconds; the client's is not in it.
    pub(super) cpu_ns: f64,
    pub(super) failed: u64,
}

impl PairRound {
    /// Daemon over bare server.
    pub(super) fn ratio(&self) -> f64 {
        self.daemon_rate / self.bare_rate
    }

    pub(super) fn is_clean(&self) -> bool {
        self.daemon_foreign.clean && self.bare_foreign.clean
    }
}

impl Pair {
    /// `gRPC over unix, 8 clients`.
    pub(super) fn name(&self) -> String {
        let clients = if self.clients == 1 { "client" } else { "clients" };
        format!("{} over {}, {} {clients}", self.protocol, self.transport, self.clients)
    }

    /// Ratios of the rounds that count.
    pub(super) fn ratios(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter(|round| round.is_clean()).map(PairRound::ratio))
    }

    /// Ratios of all rounds, for where none counts.
    pub(super) fn all_ratios(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(PairRound::ratio))
    }

    /// Rates of both, median over the rounds that count, or over all if none does.
    pub(super) fn rates(&self) -> Option<(f64, f64)> {
        let any_clean = self.rounds.iter().any(PairRound::is_clean);
        let rounds = || self.rounds.iter().filter(move |round| !any_clean || round.is_clean());
        let daemon = Spread::of(rounds().map(|round| round.daemon_rate))?;
        let bare = Spread::of(rounds().map(|round| round.bare_rate))?;
        Some((daemon.median, bare.median))
    }
}

/// Latency at a rate, from the time that requests were due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) protocol: String,
    /// Requests per second.
    pub(super) rate: f64,
    pub(super) daemon: Distribution,
    pub(super) bare: Distribution,
    /// How late requests were sent, daemon and bare server together.
    pub(super) lag: Summary,
    pub(super) failed: u64,
    /// Rounds, and how many of them count.
    pub(super) rounds: usize,
    pub(super) clean: usize,
}

/// Start-up time and memory of a daemon without models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Start {
    /// From making the process to its answer that it is ready, in nanoseconds.
    pub(super) ready: Vec<Round>,
    /// Just after that.
    pub(super) idle: Vec<Memory>,
    /// After 602 kB requests from 8 clients by both protocols, once they have disconnected.
    pub(super) served: Option<Memory>,
    /// Requests that it served before.
    pub(super) served_requests: u64,
}

/// A real model, one client, by three ways.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) request_bytes: usize,
    pub(super) ways: Vec<Way>,
    /// Rounds, and how many of them count.
    pub(super) rounds: usize,
    pub(super) clean: usize,
}

/// One of the ways.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Way {
    pub(super) name: String,
    pub(super) latency: Distribution,
    /// By the server's own account.
    pub(super) split: Option<Split>,
    pub(super) failed: u64,
}

/// Many connections at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Connections {
    pub(super) count: usize,
    /// Good answers per second.
    pub(super) rounds: Vec<Round>,
    pub(super) latency: Distribution,
    pub(super) cpu_ns: f64,
    pub(super) memory: Memory,
    pub(super) failed: u64,
}

/// The rounds that count, or all if none does; and whether any does.
pub(super) fn counting(rounds: &[Round]) -> (impl Iterator<Item = f64> + '_, bool) {
    let any_clean = rounds.iter().any(|round| round.foreign.clean);
    let counting = rounds.iter().filter(move |round| !any_clean || round.foreign.clean);
    (counting.map(|round| round.value), any_clean)
}
