// SPDX-License-Identifier: Apache-2.0
//! The daemon against a bare server: the same client code, the same bytes, turn by turn.
//!
//! All connections stay open for all rounds, and the one whose turn it is not waits. The order within a round
//! alternates (AB, BA, AB, …), so that whoever comes second has no lasting advantage.

use std::time::Duration;

use super::super::caller::{Caller, Question, Route};
use super::super::children::{Kind, Server};
use super::super::latencies::Latencies;
use super::super::procfs::Foreign;
use super::super::schedule::{Arrivals, Schedule};
use super::super::{closed, open, payload};
use super::results::{Open, Pair, PairRound, Side};
use super::rounds::{Plan, Watch};
use crate::client::Address;
use crate::exit::Failure;

/// Clients of a closed loop.
const CLIENTS: [usize; 2] = [1, 8];

/// Rate of the open loop, relative to the bare server's greatest one.
const OPEN_LOAD: f64 = 0.5;

/// Clients of the open loop.
const OPEN_CLIENTS: usize = 32;

/// What an open loop may take longer.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
struct Protocol {
    name: &'static str,
    bare: Kind,
    route: fn(Address) -> Route,
}

const PROTOCOLS: [Protocol; 2] = [
    Protocol { name: "gRPC", bare: Kind::Tonic, route: Route::Grpc },
    Protocol { name: "REST", bare: Kind::Axum, route: Route::Rest },
];

/// Both protocols, both transports, one client and several.
pub(super) async fn measure(plan: &Plan, step: &impl Fn(String)) -> Result<Vec<Pair>, Failure> {
    let question = payload::echo_image();
    let mut pairs = Vec::new();
    for protocol in PROTOCOLS {
        let daemon = Server::start(Kind::Daemon, &[]).await?;
        let bare = Server::start(protocol.bare, &[]).await?;
        for (transport, of_daemon, of_bare) in
            [("unix", &daemon.unix, &bare.unix), ("tcp", &daemon.tcp, &bare.tcp)]
        {
            for clients in CLIENTS {
                let a = Contender::open(&daemon, &(protocol.route)(of_daemon.clone()), &question, clients)
                    .await?;
                let b =
                    Contender::open(&bare, &(protocol.route)(of_bare.clone()), &question, clients).await?;
                let empty = Pair {
                    protocol: protocol.name.into(),
                    transport: transport.into(),
                    clients,
                    rounds: Vec::new(),
                    daemon: Side::default(),
                    bare: Side::default(),
                };
                step(empty.name());
                pairs.push(duel(empty, a, b, plan).await?);
            }
        }
    }
    Ok(pairs)
}

async fn duel(
    mut pair: Pair,
    mut a: Contender<'_>,
    mut b: Contender<'_>,
    plan: &Plan,
) -> Result<Pair, Failure> {
    let pids = [a.server.pid(), b.server.pid()];
    let mut clean = 0;
    while !plan.is_done(clean, pair.rounds.len()) {
        let (turn_a, turn_b) = if pair.rounds.len().is_multiple_of(2) {
            let turn_a = a.turn(plan, &pids).await?;
            (turn_a, b.turn(plan, &pids).await?)
        } else {
            let turn_b = b.turn(plan, &pids).await?;
            (a.turn(plan, &pids).await?, turn_b)
        };
        let round = PairRound {
            daemon_rate: turn_a.rate,
            bare_rate: turn_b.rate,
            daemon_foreign: turn_a.foreign,
            bare_foreign: turn_b.foreign,
        };
        clean += usize::from(round.is_clean());
        pair.rounds.push(round);
        a.count(turn_a, round.is_clean());
        b.count(turn_b, round.is_clean());
    }
    (pair.daemon, pair.bare) = (a.into_side(), b.into_side());
    Ok(pair)
}

/// A server, its clients, and what they saw.
struct Contender<'a> {
    server: &'a Server,
    callers: Vec<Caller>,
    clean: Seen,
    all: Seen,
    failed: u64,
}

#[derive(Default)]
struct Seen {
    latencies: Option<Latencies>,
    answers: u64,
    cpu: Duration,
}

impl Seen {
    fn add(&mut self, turn: &Turn) {
        self.latencies.get_or_insert_with(Latencies::new).merge(turn.tally.latencies());
        self.answers += turn.answers;
        self.cpu += turn.cpu;
    }
}

struct Turn {
    tally: super::super::tally::Tally,
    rate: f64,
    foreign: Foreign,
    /// The server's CPU time, over warm-up and all.
    cpu: Duration,
    /// Answers in that time, estimated from the rate.
    answers: u64,
}

impl<'a> Contender<'a> {
    async fn open(
        server: &'a Server,
        route: &Route,
        question: &Question,
        clients: usize,
    ) -> Result<Contender<'a>, Failure> {
        let callers = Caller::open_many(route, question, clients).await?;
        Ok(Contender { server, callers, clean: Seen::default(), all: Seen::default(), failed: 0 })
    }

    async fn turn(&mut self, plan: &Plan, pids: &[u32]) -> Result<Turn, Failure> {
        let callers = std::mem::take(&mut self.callers);
        let watch = Watch::begin(pids)?;
        let cpu = self.server.cpu_time()?;
        let (callers, closed) = closed::run(callers, plan.warmup, plan.length).await;
        let cpu = self.server.cpu_time()?.saturating_sub(cpu);
        let foreign = watch.end()?;
        self.callers = callers;
        let rate = closed.rate();
        let answers = (rate * (plan.warmup + plan.length).as_secs_f64()) as u64;
        Ok(Turn { rate, tally: closed.tally, foreign, cpu, answers })
    }

    fn count(&mut self, turn: Turn, clean: bool) {
        self.failed += turn.tally.failed();
        self.all.add(&turn);
        if clean {
            self.clean.add(&turn);
        }
    }

    fn into_side(self) -> Side {
        let seen = if self.clean.answers > 0 { self.clean } else { self.all };
        Side {
            latency: seen.latencies.as_ref().map(Into::into).unwrap_or_default(),
            cpu_ns: seen.cpu.as_nanos() as f64 / (seen.answers.max(1)) as f64,
            failed: self.failed,
        }
    }
}

/// The open loop over unix sockets, at a part of the rate that the bare server reached with several clients.
pub(super) async fn measure_open(
    plan: &Plan,
    pairs: &[Pair],
    step: &impl Fn(String),
) -> Result<Vec<Open>, Failure> {
    let question = payload::echo_image();
    let mut all = Vec::new();
    for protocol in PROTOCOLS {
        let fits =
            |pair: &&Pair| pair.protocol == protocol.name && pair.transport == "unix" && pair.clients > 1;
        let Some((_, bare_rate)) = pairs.iter().find(fits).and_then(Pair::rates) else { continue };
        let rate = (bare_rate * OPEN_LOAD).round().max(1.0);
        step(format!("{} at {rate} requests per second", protocol.name));
        let servers = [Server::start(Kind::Daemon, &[]).await?, Server::start(protocol.bare, &[]).await?];
        let pids = [servers[0].pid(), servers[1].pid()];
        let mut callers = Vec::new();
        for server in &servers {
            let route = (protocol.route)(server.unix.clone());
            callers.push(Caller::open_many(&route, &question, OPEN_CLIENTS).await?);
        }
        let mut kept = [Latencies::new(), Latencies::new()];
        let mut any = kept.clone();
        let mut lag = Latencies::new();
        let (mut rounds, mut clean, mut failed) = (0, 0, 0);
        let length = plan.warmup + 2 * plan.length;
        while !plan.is_done(clean, rounds) {
            let mut latencies = Vec::new();
            let mut both_clean = true;
            for own in &mut callers {
                let watch = Watch::begin(&pids)?;
                let schedule = Schedule::new(Arrivals::Poisson, rate, length, rounds as u64);
                let (back, tally) =
                    open::run(std::mem::take(own), schedule, plan.warmup, length, GRACE).await;
                both_clean &= watch.end()?.clean;
                *own = back;
                failed += tally.all.failed();
                lag.merge(&tally.lag);
                latencies.push(tally.all.latencies().clone());
            }
            rounds += 1;
            clean += usize::from(both_clean);
            for (index, latencies) in latencies.iter().enumerate() {
                any[index].merge(latencies);
                if both_clean {
                    kept[index].merge(latencies);
                }
            }
        }
        let [daemon, bare] = if clean > 0 { &kept } else { &any };
        let (daemon, bare) = (daemon.into(), bare.into());
        let (protocol, lag) = (protocol.name.into(), lag.summary());
        all.push(Open { protocol, rate, daemon, bare, lag, failed, rounds, clean });
    }
    Ok(all)
}
