// SPDX-License-Identifier: Apache-2.0
//! What the threads of a device share: the schedulers of its pools, and the jobs.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diolkos_types::{BuildSpread, JobId};

use super::PoolConfig;
use crate::account::saturating_ns;
use crate::batch;
use crate::explain::Waited;
use crate::job::{Job, Ran};
use crate::limits;
use crate::sched::{Action, Arrival, Event, Nanos, Planned, Pools};
use crate::status;
use crate::timer::Alarm;

pub(super) struct Shared {
    pub(super) name: String,
    pub(super) pools: Vec<Pool>,
    pub(super) origin: Instant,
    pub(super) state: Mutex<State>,
    pub(super) alarm: Alarm,
}

/// What is the same of a pool all the time.
pub(super) struct Pool {
    pub(super) config: PoolConfig,
    /// Something is ready for its threads.
    pub(super) work: Condvar,
}

impl Pool {
    /// Its threads run on CPUs of their own.
    pub(super) fn is_pinned(&self) -> bool {
        self.config.cpus.is_some()
    }
}

pub(super) struct State {
    pub(super) pools: Pools,
    pub(super) waiting: HashMap<JobId, Job, BuildSpread>,
    /// Runs for the threads of each pool: whose slot it is, which may be lent.
    pub(super) ready: Vec<VecDeque<Run>>,
    plan: Vec<Planned>,
    /// Of each pool.
    pub(super) totals: Vec<PoolTotals>,
    pub(super) stopping: bool,
    pub(super) arrived: u64,
    pub(super) ran_here: u64,
    pub(super) runs: u64,
    pub(super) busy_ns: u64,
    pub(super) predicted_ns: u64,
    pub(super) error_ns: u64,
}

/// What is counted for each pool.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PoolTotals {
    /// Runs of others that began on its slots.
    pub(super) loans: u64,
    /// Device time of its jobs.
    pub(super) busy_ns: u64,
}

/// Jobs that share a slot: nearly always one.
pub(super) struct Run {
    head: Job,
    mates: Vec<Job>,
    /// It waits for others who may join it.
    held: bool,
}

impl Run {
    pub(super) fn of_one(head: Job) -> Run {
        Run { head, mates: Vec::new(), held: false }
    }

    /// What the scheduler took it to cost.
    fn predicted(&self) -> Nanos {
        if self.mates.is_empty() {
            return self.head.predicted();
        }
        let jobs = || self.mates.iter().chain([&self.head]).filter_map(Job::batching);
        let rows = jobs().fold(0u32, |sum, batching| sum.saturating_add(batching.rows));
        jobs().fold(0, |sum, batching| sum.saturating_add(batching.part_of(rows)))
    }
}

/// Which thread steps the schedulers. One of a pool, and one that stands in for it, takes the next run that is ready there itself, so
/// it need not wake another one for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Thread {
    OfPool(usize),
    Other,
}

/// What is left to do once the lock is released.
#[derive(Default)]
struct After {
    /// With the pool whose slot it has.
    run_here: Option<(Job, usize)>,
    /// Jobs that end here, with the action that ended them. Rarely any, and then rarely more than one.
    ended: Vec<(Job, Action)>,
    wake_at: Option<Nanos>,
    /// Runs that are ready for threads of each pool.
    start: [usize; limits::POOLS_MAX],
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock is a broken invariant of the scheduler; the assertion that found it was
        // logged, and carrying on with the other tenants' jobs beats taking the whole node down.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all threads, of all pools.
    pub(super) fn wake_all(&self) {
        self.pools.iter().for_each(|pool| pool.work.notify_all());
    }

    /// The scheduler's time.
    pub(super) fn at(&self, instant: Instant) -> Nanos {
        saturating_ns(instant.saturating_duration_since(self.origin))
    }

    /// Steps the scheduler of a pool under the lock and does outside of it what must not be done inside.
    pub(super) fn step(
        &self,
        state: MutexGuard<'_, State>,
        now: Instant,
        pool: usize,
        event: Event,
        arrived: Option<Job>,
        on: Thread,
    ) -> Option<(Job, usize)> {
        // What was read before the lock is good enough, unless a deadline may have passed since.
        let late = matches!(event, Event::Arrive(Arrival { deadline: Some(_), .. }));
        let now = if late { Instant::now() } else { now };
        self.step_all(state, now, pool, [event], arrived, on)
    }

    /// Steps the scheduler of a pool for several events at once.
    fn step_all(
        &self,
        mut state: MutexGuard<'_, State>,
        now: Instant,
        pool: usize,
        events: impl IntoIterator<Item = Event>,
        mut arrived: Option<Job>,
        on: Thread,
    ) -> Option<(Job, usize)> {
        let now = if state.pools.needs_time() { Instant::now() } else { now };
        let mut after = After::default();
        for event in events {
            state.step(self.at(now), pool, event, arrived.take(), &mut after);
        }
        // Under the lock, so that of two alarms the one that was decided last is the one that is set. The
        // timer's own lock is a leaf.
        if let Some(at) = after.wake_at {
            self.alarm.set(self.origin + Duration::from_nanos(at));
        }
        drop(state);
        for (index, (pool, start)) in self.pools.iter().zip(after.start).enumerate() {
            let served_by_this_thread = usize::from(on == Thread::OfPool(index));
            for _ in served_by_this_thread..start {
                pool.work.notify_one();
            }
        }
        for (job, action) in after.ended {
            job.refuse(status::of_scheduler(action));
        }
        after.run_here
    }

    /// The run that is next for a thread of a pool.
    pub(super) fn take_ready(&self, state: &mut State, pool: usize) -> Option<Run> {
        let next = state.ready[pool].iter().position(|run| !run.held || state.stopping)?;
        let run = state.ready[pool].remove(next)?;
        if run.head.batching().is_some() {
            let State { pools, plan, .. } = state;
            pools.step(self.at(run.head.queued()), run.head.pool(), Event::Taken(run.head.id()), plan);
            debug_assert!(plan.is_empty(), "nothing follows from it");
        }
        Some(run)
    }

    pub(super) fn run(&self, run: Run, on: Thread) {
        if run.mates.is_empty() { self.run_one(run.head, on) } else { self.run_together(run, on) }
    }

    fn run_one(&self, job: Job, on: Thread) {
        let predicted = job.predicted();
        let mut slot = Slot {
            shared: self,
            pool: job.pool(),
            job: job.id(),
            mates: Vec::new(),
            predicted,
            on,
            ended: None,
        };
        let ran = job.run();
        slot.ended = Some((ran.ended, ran.service));
        // The slot is free before the answer is out, so that whoever waits for the answer finds it so.
        drop(slot);
        // The clock is a good part of an empty call, and hardly anything happened since.
        let now = ran.ended;
        ran.complete(now);
    }

    fn run_together(&self, run: Run, on: Thread) {
        let mates = run.mates.iter().map(|mate| (mate.id(), 0)).collect();
        let (pool, job, predicted) = (run.head.pool(), run.head.id(), run.predicted());
        let mut slot = Slot { shared: self, pool, job, mates, predicted, on, ended: None };
        let ran = batch::run([run.head].into_iter().chain(run.mates));
        slot.mates.clear();
        for Ran { service, ended, .. } in &ran {
            if let Some((last, _)) = slot.ended {
                slot.ended = slot.ended.map(|(_, took)| (last.max(*ended), took));
            } else {
                slot.ended = Some((*ended, *service));
            }
        }
        slot.mates.extend(ran.iter().skip(1).map(|ran| (ran.id(), saturating_ns(ran.service))));
        drop(slot);
        ran.into_iter().for_each(|ran| ran.complete(Instant::now()));
    }
}

/// A slot that a job holds. It is given back however the run ends.
struct Slot<'a> {
    shared: &'a Shared,
    /// Of the job; the slot may be lent.
    pool: usize,
    job: JobId,
    /// Jobs that share it, and how much of the time was for each.
    mates: Vec<(JobId, Nanos)>,
    predicted: Nanos,
    on: Thread,
    /// When, and after how long.
    ended: Option<(Instant, Duration)>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let (ended, service) = self.ended.unwrap_or_else(|| (Instant::now(), Duration::ZERO));
        let mut state = self.shared.lock();
        let took = saturating_ns(service);
        let all = self.mates.iter().fold(took, |sum, (_, took)| sum.saturating_add(*took));
        state.runs += 1;
        state.busy_ns = state.busy_ns.saturating_add(all);
        let of_pool = &mut state.totals[self.pool].busy_ns;
        *of_pool = of_pool.saturating_add(all);
        state.predicted_ns = state.predicted_ns.saturating_add(self.predicted);
        state.error_ns = state.error_ns.saturating_add(all.abs_diff(self.predicted));
        let mates = std::mem::take(&mut self.mates);
        let events = mates.into_iter().chain([(self.job, took)]).map(|(job, took)| Event::Finish(job, took));
        let here = self.shared.step_all(state, ended, self.pool, events, None, self.on);
        debug_assert!(here.is_none(), "only an arrival may run here");
    }
}

impl State {
    pub(super) fn new(pools: Pools, count: usize) -> State {
        State {
            pools,
            waiting: HashMap::default(),
            ready: (0..count).map(|_| VecDeque::new()).collect(),
            plan: Vec::new(),
            totals: vec![PoolTotals::default(); count],
            stopping: false,
            arrived: 0,
            ran_here: 0,
            runs: 0,
            busy_ns: 0,
            predicted_ns: 0,
            error_ns: 0,
        }
    }

    fn step(&mut self, now: Nanos, pool: usize, event: Event, mut arrived: Option<Job>, after: &mut After) {
        let mut plan = std::mem::take(&mut self.plan);
        self.pools.step(now, pool, event, &mut plan);
        for Planned { action, slot } in plan.drain(..) {
            match action {
                Action::Start(job) => {
                    let job = self.take(job, &mut arrived);
                    self.totals[slot].loans += u64::from(job.pool() != slot);
                    self.ready[slot].push_back(Run::of_one(job));
                    after.start[slot] += 1;
                }
                Action::Join(mate, head) => {
                    let mate = self.take(mate, &mut arrived);
                    self.started(slot, head).mates.push(mate);
                }
                Action::Hold(head) => {
                    self.started(slot, head).held = true;
                    after.start[slot] -= 1;
                }
                Action::Go(head) => {
                    self.started(slot, head).held = false;
                    after.start[slot] += 1;
                }
                Action::RunHere(job) => {
                    let job = self.take(job, &mut arrived);
                    self.ran_here += 1;
                    self.totals[slot].loans += u64::from(job.pool() != slot);
                    after.run_here = Some((job, slot));
                }
                Action::Refuse(job, _) | Action::Expire(job) | Action::Cancelled(job) => {
                    after.ended.push((self.take(job, &mut arrived), action));
                }
                Action::WakeAt(at) => after.wake_at = Some(at),
            }
        }
        self.plan = plan;
        if let Some(mut job) = arrived {
            job.waits(match (self.pools.of(pool).is_full(), self.pools.of(pool).lent()) {
                (false, _) => Waited::OwnLimit,
                (true, 0) => Waited::Slots,
                (true, _) => Waited::Lent,
            });
            self.waiting.insert(job.id(), job);
        }
    }

    /// A run that was started and that no thread took yet.
    fn started(&mut self, slot: usize, head: JobId) -> &mut Run {
        let run = self.ready[slot].iter_mut().rev().find(|run| run.head.id() == head);
        run.expect("no thread took it, or the scheduler would not name it")
    }

    /// The job an action names: the one that just arrived, or one that waits.
    fn take(&mut self, id: JobId, arrived: &mut Option<Job>) -> Job {
        if arrived.as_ref().is_some_and(|job| job.id() == id) {
            return arrived.take().expect("it was just looked at");
        }
        self.waiting.remove(&id).expect("the scheduler names only jobs that wait")
    }
}
