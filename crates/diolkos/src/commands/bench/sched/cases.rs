// SPDX-License-Identifier: Apache-2.0
//! What is measured in a round.

use std::path::PathBuf;
use std::time::Duration;

use diolkos_engine::{Class, Session};

use super::super::latencies::Latencies;
use super::drive::{Driven, Load, Sends, drive};
use super::node::{Node, name, open};
use super::results::{Batching, Beside, Many, Round, Sharing};
use super::spin;
use crate::exit::Failure;

/// What the tenant asks for that waits for answers.
const ASKS: Duration = Duration::from_millis(1);

/// And how long it thinks between.
const THINKS: Duration = Duration::from_millis(25);

/// Batch jobs outstanding.
const OUTSTANDING: usize = 32;

/// Clients of the batched model.
pub(super) const CLIENTS: usize = 64;

/// Layers and width of it.
pub(super) const MLP: (usize, usize) = (4, 1024);

/// Clients of the model that gains nothing.
pub(super) const FEW: [usize; 2] = [1, 8];

/// How often batching on and off take turns within a round.
const TURNS: u32 = 6;

/// The batch tenant's jobs where there is no model for them.
const BATCH_JOB: Duration = Duration::from_millis(30);

/// Everything that runs.
pub(super) struct Bench {
    one_slot: Node,
    all_slots: Node,
    batching: Node,
    unbatched: Node,
    mlp: PathBuf,
    mobilenet: Option<PathBuf>,
    slots: usize,
    length: Duration,
}

impl Bench {
    pub(super) fn start(
        mlp: PathBuf,
        mobilenet: Option<PathBuf>,
        length: Duration,
    ) -> Result<Bench, Failure> {
        let slots = std::thread::available_parallelism().map_or(1, usize::from);
        let real: Vec<_> = mobilenet.as_deref().into_iter().collect();
        let both: Vec<_> = [&*mlp].into_iter().chain(real.iter().copied()).collect();
        Ok(Bench {
            one_slot: Node::start(1, true, &real)?,
            all_slots: Node::start(slots, true, &[])?,
            batching: Node::start(slots, true, &both)?,
            unbatched: Node::start(slots, false, &both)?,
            mlp,
            mobilenet,
            slots,
            length,
        })
    }

    /// Rows and gain that the load of the model found.
    pub(super) fn trial(&self) -> Option<(u32, f64)> {
        let session = self.batching.tenant("looks", Class::Standard, 1, 1).ok()?;
        let request = open(&session, &name(&self.mlp)).ok()?;
        let (rows_max, gain) = session[0].bound_version(request.handle).ok()?.batching()?;
        Some((rows_max, gain.factor()))
    }

    pub(super) fn round(&self, number: usize) -> Result<Round, Failure> {
        let seed = number as u64;
        let turn = number % 2 == 1;
        Ok(Round {
            beside: self.beside(seed)?,
            sharing: self.sharing(seed)?,
            weights: self.weights(seed)?,
            batching: self.batching(seed, turn)?,
            few: FEW.iter().map(|clients| self.few(*clients, seed, turn)).collect::<Result<_, _>>()?,
            ..Round::default()
        })
    }

    fn drive(&self, node: &Node, senders: &[Sends], times: u32, seed: u64) -> Driven {
        drive(&node.engine, senders, self.length / 4, self.length * times, seed)
    }

    fn spins(&self, sessions: Vec<Session>, time: Duration, load: Load) -> Result<Sends, Failure> {
        let mut request = open(&sessions, spin::NAME)?;
        request.inputs = vec![spin::input(time)];
        Ok(Sends { sessions, request, load })
    }

    /// Somebody who waits for answers, alone and beside a tenant that saturates the device, with classes and without.
    fn beside(&self, seed: u64) -> Result<Beside, Failure> {
        let node = &self.one_slot;
        let asks =
            |tenant: &str, class| self.spins(node.tenant(tenant, class, 1, 1)?, ASKS, Load::Thinks(THINKS));
        let saturates = |tenant: &str, class| -> Result<Sends, Failure> {
            let sessions = node.tenant(tenant, class, 1, 1)?;
            let load = Load::Outstanding(OUTSTANDING);
            match &self.mobilenet {
                Some(file) => Ok(Sends { request: node.zeros(&sessions, &name(file), 1)?, sessions, load }),
                None => self.spins(sessions, BATCH_JOB, load),
            }
        };
        let alone = self.drive(node, &[asks("asks", Class::Interactive)?], 1, seed);
        let saturated = self.drive(node, &[saturates("saturates", Class::Batch)?], 3, seed);
        // One tenant, one class, no deadline: what comes first runs first.
        let both = [asks("both", Class::Standard)?, saturates("both", Class::Standard)?];
        let fifo = self.drive(node, &both, 6, seed);
        let both = [asks("asks", Class::Interactive)?, saturates("saturates", Class::Batch)?];
        let fair = self.drive(node, &both, 6, seed);
        let used = fair.device.get("asks").copied().unwrap_or_default();
        Ok(Beside {
            alone_p50_ns: alone.quantile_ns(0, 0.5),
            batch_job_ns: 1e9 / saturated.rate(0),
            fifo_p99_ns: fifo.quantile_ns(0, 0.99),
            fifo_batch_rate: fifo.rate(1),
            p50_ns: fair.quantile_ns(0, 0.5),
            p99_ns: fair.quantile_ns(0, 0.99),
            batch_rate: fair.rate(1),
            used: used.as_secs_f64() / fair.window.as_secs_f64(),
            failed: alone.failed() + saturated.failed() + fifo.failed() + fair.failed(),
        })
    }

    fn shares(&self, driven: &Driven, tenants: &[&str]) -> Sharing {
        let device = tenants.iter().map(|tenant| driven.device.get(*tenant).copied().unwrap_or_default());
        let device: Vec<f64> = device.map(|time| time.as_secs_f64()).collect();
        let sum: f64 = device.iter().sum();
        let squares: f64 = device.iter().map(|time| time * time).sum();
        Sharing {
            jain: sum * sum / (device.len() as f64 * squares),
            accounted: sum / driven.cpu.as_secs_f64(),
            device_s: device,
            failed: driven.failed(),
        }
    }

    /// Four equal tenants whose jobs take very different times. One has a hundred sessions, one sends bursts, and nothing
    /// about a request tells how long it will take.
    fn sharing(&self, seed: u64) -> Result<Sharing, Failure> {
        let node = &self.all_slots;
        let tenants = ["sessions", "bursts", "plain", "long"];
        let unit = Duration::from_micros(250);
        let tenant = |name, sessions| node.tenant(name, Class::Standard, 1, sessions);
        let senders = [
            self.spins(tenant(tenants[0], 100)?, unit, Load::Outstanding(100))?,
            self.spins(tenant(tenants[1], 1)?, 4 * unit, Load::Bursts(200))?,
            self.spins(tenant(tenants[2], 1)?, 16 * unit, Load::Outstanding(16))?,
            self.spins(tenant(tenants[3], 1)?, 64 * unit, Load::Outstanding(16))?,
        ];
        let driven = self.drive(node, &senders, 5, seed);
        Ok(self.shares(&driven, &tenants))
    }

    /// Weights 1, 2 and 4.
    fn weights(&self, seed: u64) -> Result<Sharing, Failure> {
        let node = &self.all_slots;
        let tenants = ["one", "two", "four"];
        let mut senders = Vec::new();
        for (name, (weight, micros)) in tenants.iter().zip([(1, 1000), (2, 3000), (4, 500)]) {
            let sessions = node.tenant(name, Class::Standard, weight, 1)?;
            senders.push(self.spins(sessions, Duration::from_micros(micros), Load::Outstanding(32))?);
        }
        let driven = self.drive(node, &senders, 5, seed);
        Ok(self.shares(&driven, &tenants))
    }

    /// Clients of a model on both engines, in turns: the machine changes from second to second by more than what is looked for.
    fn both(
        &self,
        model: &str,
        clients: usize,
        times: u32,
        seed: u64,
        turn: bool,
    ) -> Result<[Many; 2], Failure> {
        // Two tenants, so that rows of both are in a run.
        let tenants = if clients > 1 { 2 } else { 1 };
        let nodes = [&self.batching, &self.unbatched];
        let mut sends = [Vec::new(), Vec::new()];
        for (node, sends) in nodes.into_iter().zip(&mut sends) {
            for tenant in 0..tenants {
                let sessions = node.tenant(&format!("{model} {tenant}"), Class::Standard, 1, 1)?;
                let request = node.zeros(&sessions, model, 1)?;
                sends.push(Sends { sessions, request, load: Load::Outstanding(clients / tenants) });
            }
        }
        let mut driven: [Vec<Driven>; 2] = [Vec::new(), Vec::new()];
        let length = self.length * times / TURNS;
        for number in 0..TURNS {
            // On, off, off, on, so that neither is always first.
            let first = usize::from(number % 2 == 1) ^ usize::from(turn);
            for at in [first, 1 - first] {
                let seed = seed * u64::from(TURNS) + u64::from(number);
                driven[at].push(drive(&nodes[at].engine, &sends[at], length / 8, length, seed));
            }
        }
        Ok(driven.map(|turns| together(&turns, tenants)))
    }

    /// What a row gains in requests of many, with all slots busy: what clients would get who had that many rows each.
    fn gain(&self, rows: u64, seed: u64) -> Result<f64, Failure> {
        let node = &self.unbatched;
        let sessions = || node.tenant("gain", Class::Standard, 1, 1);
        let mut rates = Vec::new();
        for rows in [1, rows] {
            let sessions = sessions()?;
            let request = node.zeros(&sessions, &name(&self.mlp), rows)?;
            let load = Load::Outstanding(2 * self.slots);
            let driven = self.drive(node, &[Sends { sessions, request, load }], 1, seed);
            rates.push(driven.rate(0) * rows as f64);
        }
        Ok(rates[1] / rates[0])
    }

    fn batching(&self, seed: u64, turn: bool) -> Result<Batching, Failure> {
        let model = name(&self.mlp);
        let rows = self.trial().map_or(CLIENTS as u64, |(rows, _)| rows.into());
        Ok(Batching {
            gain: self.gain(rows, seed)?,
            many: self.both(&model, CLIENTS, 3, seed, turn)?,
            one: self.both(&model, 1, 3, seed, turn)?,
        })
    }

    fn few(&self, clients: usize, seed: u64, turn: bool) -> Result<[Many; 2], Failure> {
        match &self.mobilenet {
            Some(file) => self.both(&name(file), clients, 6, seed, turn),
            None => Ok([Many::default(); 2]),
        }
    }
}

/// All turns of one engine.
fn together(turns: &[Driven], tenants: usize) -> Many {
    let window: f64 = turns.iter().map(|driven| driven.window.as_secs_f64()).sum();
    let of = |tenant: usize| {
        let mut all = Latencies::new();
        turns.iter().for_each(|driven| all.merge(&driven.got[tenant].latencies));
        all
    };
    let all: Vec<Latencies> = (0..tenants).map(of).collect();
    let answers: u64 = all.iter().map(Latencies::count).sum();
    let worst = |quantile| all.iter().map(|all| all.quantile_ns(quantile) as f64).fold(0.0, f64::max);
    let runs: u64 = turns.iter().map(|driven| driven.runs).sum();
    Many {
        rate: answers as f64 / window,
        p50_ns: worst(0.5),
        p99_ns: worst(0.99),
        rows: answers as f64 / runs.max(1) as f64,
        failed: turns.iter().map(Driven::failed).sum(),
    }
}
