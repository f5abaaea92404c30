// SPDX-License-Identifier: Apache-2.0
//! Clients of an engine in this process, all driven by one thread: it sends when there is something to send, and waits
//! otherwise, so that it takes next to nothing from what is measured.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use diolkos_backend::Seeded;
use diolkos_engine::{Engine, Reply, Request, Session};

use super::super::latencies::Latencies;

/// When a client sends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// So many requests are always out.
    Outstanding(usize),
    /// One after the other, with pauses between half and one and a half of this.
    Thinks(Duration),
    /// So many at once, and again when all are answered.
    Bursts(usize),
}

/// What one tenant sends.
pub(super) struct Sends {
    /// Requests go through them in turns.
    pub(super) sessions: Vec<Session>,
    pub(super) request: Request,
    pub(super) load: Load,
}

/// What it got.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) latencies: Latencies,
    pub(super) failed: u64,
}

/// Everything within the window.
#[derive(Debug)]
pub(super) struct Driven {
    /// In the order of the senders.
    pub(super) got: Vec<Got>,
    /// Device time by tenant.
    pub(super) device: BTreeMap<String, Duration>,
    /// Runs on all devices.
    pub(super) runs: u64,
    /// CPU time of this process.
    pub(super) cpu: Duration,
    pub(super) window: Duration,
}

impl Driven {
    /// Answers per second.
    pub(super) fn rate(&self, sender: usize) -> f64 {
        self.got[sender].latencies.count() as f64 / self.window.as_secs_f64()
    }

    pub(super) fn quantile_ns(&self, sender: usize, quantile: f64) -> f64 {
        self.got[sender].latencies.quantile_ns(quantile) as f64
    }

    pub(super) fn failed(&self) -> u64 {
        self.got.iter().map(|got| got.failed).sum()
    }
}

struct Answer {
    sender: usize,
    latency: Duration,
    ok: bool,
}

struct Driver<'a> {
    senders: &'a [Sends],
    answers: Sender<Answer>,
    sent: Vec<usize>,
    out: Vec<usize>,
}

impl Driver<'_> {
    fn send(&mut self, sender: usize) {
        let Sends { sessions, request, .. } = &self.senders[sender];
        let session = &sessions[self.sent[sender] % sessions.len()];
        let (answers, began) = (self.answers.clone(), Instant::now());
        let sink = move |reply: Reply| {
            let answer = Answer { sender, latency: began.elapsed(), ok: reply.result.is_ok() };
            // The driver stays until everything is answered.
            let _ = answers.send(answer);
        };
        self.sent[sender] += 1;
        self.out[sender] += 1;
        // Nobody cancels.
        drop(session.submit(request.clone(), Box::new(sink)));
    }
}

/// Device time by tenant, CPU time of this process, and runs, until now.
fn used(engine: &Engine) -> (BTreeMap<String, Duration>, Duration, u64) {
    let device = |tenant: diolkos_engine::TenantSnapshot| {
        (tenant.id.to_string(), Duration::from_nanos(tenant.device_ns))
    };
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let runs = engine.devices().iter().map(|device| device.runs).sum();
    (engine.tenants().into_iter().map(device).collect(), Duration::try_from(cpu).unwrap_or_default(), runs)
}

/// Sends, and counts what is answered within `length` after `warmup`.
pub(super) fn drive(
    engine: &Engine,
    senders: &[Sends],
    warmup: Duration,
    length: Duration,
    seed: u64,
) -> Driven {
    let (answers, receive) = mpsc::channel();
    let mut random = Seeded::new(seed);
    let mut driver = Driver { senders, answers, sent: vec![0; senders.len()], out: vec![0; senders.len()] };
    let mut got: Vec<Got> = senders.iter().map(|_| Got { latencies: Latencies::new(), failed: 0 }).collect();
    // When those who think send again.
    let mut due: Vec<(Instant, usize)> = Vec::new();
    let start = Instant::now();
    let (begin, end) = (start + warmup, start + warmup + length);
    for (index, sender) in senders.iter().enumerate() {
        match sender.load {
            Load::Outstanding(count) | Load::Bursts(count) => (0..count).for_each(|_| driver.send(index)),
            Load::Thinks(_) => due.push((start, index)),
        }
    }
    let mut before = None;
    let mut after = None;
    while after.is_none() || driver.out.iter().any(|out| *out > 0) {
        let now = Instant::now();
        if before.is_none() && now >= begin {
            before = Some((used(engine), now));
        }
        if after.is_none() && now >= end {
            after = Some((used(engine), now));
        }
        if after.is_none()
            && let Some(at) = due.iter().position(|(at, _)| *at <= now)
        {
            let (_, index) = due.swap_remove(at);
            driver.send(index);
            continue;
        }
        let marks = [before.is_none().then_some(begin), after.is_none().then_some(end)];
        let next = due.iter().map(|(at, _)| *at).chain(marks.into_iter().flatten()).min();
        let wait = next.map_or(Duration::from_secs(60), |at| at.saturating_duration_since(now));
        let answer = match receive.recv_timeout(wait) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => unreachable!("the driver holds a sender"),
        };
        let Answer { sender, latency, ok } = answer;
        driver.out[sender] -= 1;
        if before.is_some() && after.is_none() {
            if ok {
                got[sender].latencies.record(latency);
            } else {
                got[sender].failed += 1;
            }
        }
        if after.is_some() {
            continue;
        }
        match senders[sender].load {
            Load::Outstanding(_) => driver.send(sender),
            Load::Bursts(count) if driver.out[sender] == 0 => (0..count).for_each(|_| driver.send(sender)),
            Load::Bursts(_) => {}
            Load::Thinks(mean) => {
                let part = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
                due.push((Instant::now() + mean.mul_f64(0.5 + part), sender));
            }
        }
    }
    let ((device_before, cpu_before, runs_before), begun) = before.expect("the window begins before it ends");
    let ((device_after, cpu_after, runs_after), ended) = after.expect("the loop ends after it");
    let device = device_after.into_iter().map(|(tenant, time)| {
        let before = device_before.get(&tenant).copied().unwrap_or_default();
        (tenant, time.saturating_sub(before))
    });
    Driven {
        got,
        device: device.collect(),
        runs: runs_after - runs_before,
        cpu: cpu_after.saturating_sub(cpu_before),
        window: ended - begun,
    }
}
