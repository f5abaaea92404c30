// SPDX-License-Identifier: Apache-2.0
//! A device: the schedulers of its pools, its slots, and the threads that run jobs.
//!
//! The schedulers decide; this module carries out. Their lock is a leaf that is held for one `step` and the
//! moves that follow from it, never while an operation runs or a reply is sent.
//!
//! Each pool has as many threads as slots. A run that has a slot of another pool runs on a thread of that one.
//!
//! A thread that brings a job may offer to run it itself ([`Offer`]). If the scheduler accepts, the job comes back as
//! a [`Here`], with its slot; nobody has to be woken for it then.

mod config;
mod here;
mod shared;

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diolkos_types::JobId;

pub use config::{DeviceConfig, DeviceSnapshot, PoolConfig, PoolSnapshot};
pub use here::{Here, Offer};
use shared::{Pool, Run, Shared, State, Thread};

use crate::cpus::CpuSet;
use crate::engine::StartError;
use crate::explain::{Explained, Standing};
use crate::job::{Job, panic_text};
use crate::sched::{Arrival, Event, Pools, SchedConfig, Scheduler, TenantKey};
use crate::timer::Alarm;

/// A scheduler with threads.
pub(crate) struct Device {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Device {
    pub(crate) fn start(config: &DeviceConfig, alarm: Alarm) -> Result<Device, StartError> {
        let schedulers: Vec<SchedConfig> =
            config.pools.iter().map(|pool| pool.scheduler(config.floors)).collect();
        let pool = |config: &PoolConfig| Pool { config: config.clone(), work: Condvar::new() };
        let shared = Arc::new(Shared {
            name: config.name.clone(),
            pools: config.pools.iter().map(pool).collect(),
            origin: Instant::now(),
            state: Mutex::new(State::new(Pools::new(&schedulers), schedulers.len())),
            alarm,
        });
        let device = Device { shared, threads: Mutex::new(Vec::new()) };
        let alone = config.pools.len() == 1;
        for (index, pool) in config.pools.iter().enumerate() {
            let of = if alone { &config.name } else { &pool.name };
            for slot in 0..pool.slots {
                let thread = device.start_thread(index, format!("dk-{of}-{slot}"))?;
                device.threads().push(thread);
            }
        }
        Ok(device)
    }

    /// Starts a thread of a pool, on its CPUs.
    fn start_thread(&self, index: usize, name: String) -> Result<JoinHandle<()>, StartError> {
        let pool = &self.shared.pools[index].config;
        let may = CpuSet::of_this_thread();
        let pin = |cpus: &CpuSet, source| StartError::Pin {
            pool: pool.name.clone(),
            cpus: cpus.clone(),
            may: may.as_ref().map_or("unknown".into(), ToString::to_string),
            source,
        };
        if let (Some(cpus), Some(may)) = (&pool.cpus, &may)
            && !cpus.is_within(may)
        {
            // The system is content with one that is there, and slots were counted for all.
            return Err(pin(cpus, io::Error::other("not all of them are there")));
        }
        let (shared, cpus) = (self.shared.clone(), pool.cpus.clone());
        let (pinned, wait) = mpsc::sync_channel(1);
        let serve = move || {
            let outcome = cpus.map_or(Ok(()), |cpus| cpus.pin_this_thread());
            let stays = outcome.is_ok();
            // Whoever starts the thread waits for it.
            let _ = pinned.send(outcome);
            if stays {
                serve(&shared, index);
            }
        };
        let thread = std::thread::Builder::new().name(name).spawn(serve).map_err(|source| {
            StartError::Thread { what: format!("device `{}`", self.shared.name), source }
        })?;
        match (wait.recv().expect("the thread says how it went"), &pool.cpus) {
            (Err(source), Some(cpus)) => Err(pin(cpus, source)),
            _ => Ok(thread),
        }
    }

    /// Which pool a lease means: the one it names, or the first.
    pub(crate) fn pool(&self, name: Option<&str>) -> usize {
        let named = |name: &str| self.shared.pools.iter().position(|pool| pool.config.name == name);
        name.and_then(named).unwrap_or(0)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a job into one of its pools. Never blocks. What comes back is for the calling thread to run.
    pub(crate) fn submit(&self, mut job: Job, pool: usize, offer: Offer) -> Option<Here> {
        job.enters(pool);
        let admitted = job.admitted();
        let short = offer != Offer::Nothing && admitted.version.stats.is_short();
        let arrival = Arrival {
            job: job.id(),
            tenant: job.tenant().key(),
            class: admitted.class,
            deadline: admitted.deadline.map(|at| self.shared.at(at)),
            cost: job.predicted(),
            batch: job.batching(),
            // Long runs belong on the CPUs of a pool.
            run_here: short || (offer == Offer::Any && !self.shared.pools[pool].is_pinned()),
            share: admitted.share,
        };
        let queued = job.queued();
        let mut state = self.shared.lock();
        state.arrived += 1;
        job.comes(state.pools.of(pool).waiting_of(job.tenant().key()));
        let here = self.shared.step(state, queued, pool, Event::Arrive(arrival), Some(job), Thread::Other);
        let here = here.map(|(job, slot)| Here { shared: self.shared.clone(), job: Some(job), slot, short });
        // One that is dropped goes to the threads of its slot, on whose CPUs long runs belong.
        here.filter(|here| short || !self.shared.pools[here.slot].is_pinned())
    }

    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    pub(crate) fn cancel(&self, job: JobId) {
        let state = self.shared.lock();
        // One that runs, or is not here, is nobody's to cancel.
        let Some(pool) = state.waiting.get(&job).map(Job::pool) else { return };
        let here = self.shared.step(state, Instant::now(), pool, Event::Cancel(job), None, Thread::Other);
        debug_assert!(here.is_none(), "only an arrival may run here");
    }

    /// What becomes of a job of this tenant, if it is here.
    pub(crate) fn explain(&self, job: JobId, tenant: TenantKey) -> Option<Explained> {
        let state = self.shared.lock();
        if let Some(waiting) = state.waiting.get(&job).filter(|waiting| waiting.tenant().key() == tenant) {
            let (own_before, wait) = state.pools.of(waiting.pool()).standing(job)?;
            return Some(Explained::Waits(Standing {
                class: waiting.admitted().class,
                since: waiting.queued().elapsed(),
                own_before: u32::try_from(own_before).unwrap_or(u32::MAX),
                wait: Duration::from_nanos(wait),
                predicted: Duration::from_nanos(waiting.predicted()),
                waits_for: waiting.waited_for(),
            }));
        }
        let (whose, predicted) = state.pools.charged(job)?;
        (whose == tenant).then_some(Explained::Runs(Duration::from_nanos(predicted)))
    }

    pub(crate) fn tick(&self) {
        let here = self.shared.step(self.shared.lock(), Instant::now(), 0, Event::Tick, None, Thread::Other);
        debug_assert!(here.is_none(), "only an arrival may run here");
    }

    pub(crate) fn snapshot(&self) -> DeviceSnapshot {
        let state = self.shared.lock();
        let pool = |(index, pool): (usize, &Pool)| {
            let (scheduler, totals) = (state.pools.of(index), state.totals[index]);
            PoolSnapshot {
                name: pool.config.name.clone(),
                policy: pool.config.policy,
                cpus: pool.config.cpus.clone(),
                slots: pool.config.slots,
                lent: scheduler.lent(),
                running: scheduler.running(),
                waiting: scheduler.waiting(),
                loans: totals.loans,
                busy_ns: totals.busy_ns,
            }
        };
        DeviceSnapshot {
            name: self.shared.name.clone(),
            slots: self.shared.pools.iter().map(|pool| pool.config.slots).sum(),
            running: state.pools.each().map(Scheduler::running).sum(),
            waiting: state.pools.waiting(),
            arrived: state.arrived,
            ran_here: state.ran_here,
            runs: state.runs,
            busy_ns: state.busy_ns,
            predicted_ns: state.predicted_ns,
            error_ns: state.error_ns,
            pools: self.shared.pools.iter().enumerate().map(pool).collect(),
        }
    }

    /// Runs what is queued and ends the threads.
    pub(crate) fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.wake_all();
        for thread in std::mem::take(&mut *self.threads()) {
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!(device = self.shared.name, "a device thread panicked");
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One execution thread of a pool: takes ready jobs until told to stop and nothing is left.
fn serve(shared: &Shared, pool: usize) {
    let mut state = shared.lock();
    loop {
        if let Some(run) = shared.take_ready(&mut state, pool) {
            drop(state);
            run_guarded(shared, run, Thread::OfPool(pool));
            state = shared.lock();
        } else if state.stopping && state.pools.waiting() == 0 {
            drop(state);
            shared.wake_all();
            return;
        } else {
            state = shared.pools[pool].work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Backends' panics end inside the job. One that arrives here is ours (a reply sink's, say): it costs that
/// job, and the thread goes on.
fn run_guarded(shared: &Shared, run: Run, on: Thread) {
    let run = std::panic::AssertUnwindSafe(|| shared.run(run, on));
    if let Err(panic) = std::panic::catch_unwind(run) {
        tracing::error!(device = shared.name, reason = panic_text(&*panic), "a job's completion panicked");
    }
}
