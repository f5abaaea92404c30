// SPDX-License-Identifier: Apache-2.0
//! What was measured, as it is kept in `performance/flood.json`.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::super::host::Host;
use super::super::procfs::Foreign;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    /// Small requests, far above the rate limit
    Requests,
    /// Huge bodies
    Bodies,
    /// Thousands of connections
    Connections,
    /// All of these at once
    All,
}

impl Case {
    pub(super) const EVERY: [Case; 4] = [Case::Requests, Case::Bodies, Case::Connections, Case::All];

    /// On the command line, in the results and on the page.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Case::Requests => "requests",
            Case::Bodies => "bodies",
            Case::Connections => "connections",
            Case::All => "all",
        }
    }

    /// Whether it has the requests that are counted against the limit.
    pub(super) const fn has_requests(self) -> bool {
        matches!(self, Case::Requests | Case::All)
    }
}

/// What a flooder sent, from its start to its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sent {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    /// Requests whose header was written.
    pub(super) requests: u64,
    /// Requests that were due, and for which no connection was to be had or took anything. They are given up.
    pub(super) turned_away: u64,
    pub(super) bytes: u64,
    /// Connections that were opened.
    pub(super) connections: u64,
    /// Most connections that the connection flood held at once, at its own end.
    pub(super) held_max: u64,
    /// Tries to connect while so many waited to be accepted that there was no room for another.
    pub(super) unaccepted: u64,
    /// Connections that the other side closed.
    pub(super) cut: u64,
    /// Answers by status, as far as they were read.
    pub(super) answers: BTreeMap<u16, u64>,
}

impl Sent {
    /// Share of a core that it used.
    pub(super) fn cpu(&self) -> f64 {
        self.cpu_seconds / self.seconds
    }
}

/// What the quiet tenant saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Quiet {
    pub(super) count: u64,
    pub(super) failed: u64,
    pub(super) p50_ns: f64,
    pub(super) p99_ns: f64,
    pub(super) max_ns: f64,
}

/// Quiet tenant and flood at the same time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Beside {
    pub(super) quiet: Quiet,
    /// Nothing if there was none.
    pub(super) flood: Option<Sent>,
    /// The most that the daemon had meanwhile.
    pub(super) daemon: Usage,
    /// Share of a core that the daemon used, for both tenants.
    pub(super) daemon_cpu: f64,
    /// The same of the server that drops.
    pub(super) dropping_cpu: f64,
}

/// What a process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Usage {
    /// Resident memory in bytes.
    pub(super) memory: u64,
    pub(super) descriptors: u64,
    pub(super) threads: u64,
}

impl Usage {
    /// The greater of each.
    pub(super) fn max(self, other: Usage) -> Usage {
        Usage {
            memory: self.memory.max(other.memory),
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
        }
    }
}

/// Where the flood goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// To the daemon.
    Daemon,
    /// The same, to a server that only accepts and drops.
    Dropping,
    /// There is none.
    None,
}

impl Side {
    pub(super) const EVERY: [Side; 3] = [Side::Daemon, Side::Dropping, Side::None];
}

/// All sides, once each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Round {
    pub(super) daemon: Beside,
    pub(super) dropping: Beside,
    pub(super) none: Beside,
    /// Who else used the machine.
    pub(super) foreign: Foreign,
}

impl Round {
    pub(super) fn beside(&self, side: Side) -> &Beside {
        match side {
            Side::Daemon => &self.daemon,
            Side::Dropping => &self.dropping,
            Side::None => &self.none,
        }
    }
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct CaseResults {
    pub(super) case: Case,
    /// The daemon before the first round.
    pub(super) before: Usage,
    /// The daemon a while after the last.
    pub(super) after: Usage,
    /// All rounds, clean or not.
    pub(super) rounds: Vec<Round>,
}

impl CaseResults {
    /// A number of every clean round; of every round where none was clean.
    pub(super) fn each(&self, number: impl Fn(&Round) -> f64) -> Vec<f64> {
        let any_clean = self.clean() > 0;
        self.rounds.iter().filter(|round| !any_clean || round.foreign.clean).map(number).collect()
    }

    /// Rounds that count.
    pub(super) fn clean(&self) -> usize {
        self.rounds.iter().filter(|round| round.foreign.clean).count()
    }

    /// The most that the daemon had while it was flooded.
    pub(super) fn peak(&self) -> Usage {
        self.rounds.iter().map(|round| round.daemon.daemon).fold(self.before, Usage::max)
    }
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Results {
    /// Where.
    pub(super) host: Host,
    /// Few and short rounds.
    pub(super) quick: bool,
    /// Length of each side of a round.
    pub(super) seconds: f64,
    /// Requests per second that the flooding tenant may send.
    pub(super) rate_limit: u32,
    /// Share of a core that a flood may use.
    pub(super) cpu_max: f64,
    /// Requests per second of the quiet tenant.
    pub(super) quiet_rate: f64,
    /// By how much the daemon may grow.
    pub(super) bounds: Usage,
    pub(super) cases: Vec<CaseResults>,
}
