// SPDX-License-Identifier: Apache-2.0
//! A device: one scheduler, its slots, and the threads that run jobs.
//!
//! The scheduler decides; this module carries out. Its lock is a leaf that is held for one `step` and the
//! moves that follow from it, never while an operation runs or a reply is sent.
//!
//! A thread that brings a job may offer to run it itself ([`Offer`]). If the scheduler accepts, the job comes back as
//! a [`Here`], with its slot; nobody has to be woken for it then.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diolkos_types::{BuildSpread, JobId};

use crate::account::saturating_ns;
use crate::batch;
use crate::explain::{Explained, Standing, Waited};
use crate::job::{Job, Ran, panic_text};
use crate::limits;
use crate::sched::{Action, Arrival, Event, FloorShares, Nanos, SchedConfig, Scheduler, TenantKey};
use crate::status;
use crate::timer::Alarm;

/// How to make a device.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Name, used in metrics and thread names.
    pub name: String,
    /// Jobs that run at once, each on a thread of its own.
    pub slots: usize,
    /// Names of the backends whose operations it runs.
    pub backends: Vec<&'static str>,
    /// What the less urgent classes get whatever the others want.
    pub floors: FloorShares,
}

impl DeviceConfig {
    /// A device named `cpu` with so many slots, for all backends.
    #[must_use]
    pub fn cpu(slots: usize) -> DeviceConfig {
        DeviceConfig { name: "cpu".into(), slots, backends: Vec::new(), floors: FloorShares::DEFAULT }
    }
}

/// A device at one moment.
#[derive(Clone, Debug)]
pub struct DeviceSnapshot {
    /// Name.
    pub name: String,
    /// Jobs that may run at once.
    pub slots: usize,
    /// Jobs that run.
    pub running: usize,
    /// Jobs that wait.
    pub waiting: usize,
    /// Jobs ever taken in, refused ones included.
    pub arrived: u64,
    /// Jobs that ran on the thread that brought them.
    pub ran_here: u64,
    /// Runs that ended: fewer than jobs, where several share one.
    pub runs: u64,
    /// Time that slots were busy, in nanoseconds, of jobs that ended.
    pub busy_ns: u64,
    /// What that was predicted to be.
    pub predicted_ns: u64,
    /// By how much the predictions were wrong, one by one, too much and too little alike.
    pub error_ns: u64,
}

/// What the thread that brings a job offers to run itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Nothing: it may not be held up at all.
    Nothing,
    /// What is known to be short (see [`limits::RUN_HERE_P99`]).
    Short,
    /// Whatever it is. The thread needs as much stack as a device's own ones, and must be missed by nobody meanwhile.
    Any,
}

/// A job that the scheduler gave to the thread that brought it. It holds a slot, so it is to be run at once; one that
/// is dropped is run by a thread of its device.
#[must_use = "the job holds a slot until it has run"]
pub struct Here {
    shared: Arc<Shared>,
    job: Option<Job>,
    short: bool,
}

impl Here {
    /// Whether the job is known to be short. One that is not may take any time.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// Runs the job and answers it.
    ///
    /// After one that was not short, goes on with jobs that its device has ready meanwhile: the thread is as good as
    /// any other for them, and need not wake one.
    pub fn run(mut self) {
        let Some(job) = self.job.take() else { return };
        if self.short {
            return run_guarded(&self.shared, Run::of_one(job), Thread::Other);
        }
        let mut next = Some(Run::of_one(job));
        while let Some(run) = next {
            run_guarded(&self.shared, run, Thread::Device);
            next = self.shared.take_ready(&mut self.shared.lock());
        }
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
        let mut state = self.shared.lock();
        if state.stopping {
            drop(state);
            // The device's threads may be gone.
            return run_guarded(&self.shared, Run::of_one(job), Thread::Other);
        }
        state.ready.push_back(Run::of_one(job));
        drop(state);
        self.shared.work.notify_one();
    }
}

impl fmt::Debug for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Here({:?} on {})", self.job.as_ref().map(Job::id), self.shared.name)
    }
}

/// A scheduler with threads.
pub(crate) struct Device {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    name: String,
    slots: usize,
    origin: Instant,
    state: Mutex<State>,
    work: Condvar,
    alarm: Alarm,
}

struct State {
    scheduler: Scheduler,
    waiting: HashMap<JobId, Job, BuildSpread>,
    ready: VecDeque<Run>,
    actions: Vec<Action>,
    stopping: bool,
    arrived: u64,
    ran_here: u64,
    runs: u64,
    busy_ns: u64,
    predicted_ns: u64,
    error_ns: u64,
}

/// Jobs that share a slot: nearly always one.
struct Run {
    head: Job,
    mates: Vec<Job>,
    /// It waits for others who may join it.
    held: bool,
}

impl Run {
    fn of_one(head: Job) -> Run {
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

/// Which thread steps the scheduler. A device's own thread, and one that stands in for it, takes the next ready job
/// itself, so it need not wake another one for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    Device,
    Other,
}

/// What is left to do once the lock is released.
#[derive(Default)]
struct After {
    run_here: Option<Job>,
    /// Jobs that end here, with the action that ended them. Rarely any, and then rarely more than one.
    ended: Vec<(Job, Action)>,
    wake_at: Option<Nanos>,
    start: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock is a broken invariant of the scheduler; the assertion that found it was
        // logged, and carrying on with the other tenants' jobs beats taking the whole node down.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scheduler's time.
    fn at(&self, instant: Instant) -> Nanos {
        saturating_ns(instant.saturating_duration_since(self.origin))
    }

    /// Steps the scheduler under the lock and does outside of it what must not be done inside.
    fn step(
        &self,
        state: MutexGuard<'_, State>,
        now: Instant,
        event: Event,
        arrived: Option<Job>,
        on: Thread,
    ) -> Option<Job> {
        // What was read before the lock is good enough, unless a deadline may have passed since.
        let late = matches!(event, Event::Arrive(Arrival { deadline: Some(_), .. }));
        let now = if late { Instant::now() } else { now };
        self.step_all(state, now, [event], arrived, on)
    }

    /// Steps the scheduler for several events at once.
    fn step_all(
        &self,
        mut state: MutexGuard<'_, State>,
        now: Instant,
        events: impl IntoIterator<Item = Event>,
        mut arrived: Option<Job>,
        on: Thread,
    ) -> Option<Job> {
        let now = if state.scheduler.needs_time() { Instant::now() } else { now };
        let mut after = After::default();
        for event in events {
            state.step(self.at(now), event, arrived.take(), &mut after);
        }
        // Under the lock, so that of two alarms the one that was decided last is the one that is set. The
        // timer's own lock is a leaf.
        if let Some(at) = after.wake_at {
            self.alarm.set(self.origin + Duration::from_nanos(at));
        }
        drop(state);
        let served_by_this_thread = usize::from(on == Thread::Device);
        for _ in served_by_this_thread..after.start {
            self.work.notify_one();
        }
        for (job, action) in after.ended {
            job.refuse(status::of_scheduler(action));
        }
        after.run_here
    }

    /// The run that is next for a thread.
    fn take_ready(&self, state: &mut State) -> Option<Run> {
        let next = state.ready.iter().position(|run| !run.held || state.stopping)?;
        let run = state.ready.remove(next)?;
        if run.head.batching().is_some() {
            let State { scheduler, actions, .. } = state;
            scheduler.step(self.at(run.head.queued()), Event::Taken(run.head.id()), actions);
            debug_assert!(actions.is_empty(), "nothing follows from it");
        }
        Some(run)
    }

    fn run(&self, run: Run, on: Thread) {
        if run.mates.is_empty() { self.run_one(run.head, on) } else { self.run_together(run, on) }
    }

    fn run_one(&self, job: Job, on: Thread) {
        let predicted = job.predicted();
        let mut slot = Slot { shared: self, job: job.id(), mates: Vec::new(), predicted, on, ended: None };
        let ran = job.run();
        slot.ended = Some((ran.ended, ran.service));
        // The slot is free before the answer is out, so that whoever waits for the answer finds it so.
        drop(slot);
        ran.complete();
    }

    fn run_together(&self, run: Run, on: Thread) {
        let mates = run.mates.iter().map(|mate| (mate.id(), 0)).collect();
        let (job, predicted) = (run.head.id(), run.predicted());
        let mut slot = Slot { shared: self, job, mates, predicted, on, ended: None };
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
        ran.into_iter().for_each(Ran::complete);
    }
}

/// A slot that a job holds. It is given back however the run ends.
struct Slot<'a> {
    shared: &'a Shared,
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
        state.predicted_ns = state.predicted_ns.saturating_add(self.predicted);
        state.error_ns = state.error_ns.saturating_add(all.abs_diff(self.predicted));
        let mates = std::mem::take(&mut self.mates);
        let events = mates.into_iter().chain([(self.job, took)]).map(|(job, took)| Event::Finish(job, took));
        let here = self.shared.step_all(state, ended, events, None, self.on);
        debug_assert!(here.is_none(), "only an arrival may run here");
    }
}

impl State {
    fn step(&mut self, now: Nanos, event: Event, mut arrived: Option<Job>, after: &mut After) {
        let mut actions = std::mem::take(&mut self.actions);
        self.scheduler.step(now, event, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Start(job) => {
                    let job = self.take(job, &mut arrived);
                    self.ready.push_back(Run::of_one(job));
                    after.start += 1;
                }
                Action::Join(mate, head) => {
                    let mate = self.take(mate, &mut arrived);
                    self.started(head).mates.push(mate);
                }
                Action::Hold(head) => {
                    self.started(head).held = true;
                    after.start -= 1;
                }
                Action::Go(head) => {
                    self.started(head).held = false;
                    after.start += 1;
                }
                Action::RunHere(job) => {
                    self.ran_here += 1;
                    after.run_here = Some(self.take(job, &mut arrived));
                }
                Action::Refuse(job, _) | Action::Expire(job) | Action::Cancelled(job) => {
                    after.ended.push((self.take(job, &mut arrived), action));
                }
                Action::WakeAt(at) => after.wake_at = Some(at),
            }
        }
        self.actions = actions;
        if let Some(mut job) = arrived {
            let full = self.scheduler.slots_used() >= self.scheduler.slots();
            job.waits(if full { Waited::Slots } else { Waited::OwnLimit });
            self.waiting.insert(job.id(), job);
        }
    }

    /// A run that was started and that no thread took yet.
    fn started(&mut self, head: JobId) -> &mut Run {
        let run = self.ready.iter_mut().rev().find(|run| run.head.id() == head);
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

impl Device {
    pub(crate) fn start(config: &DeviceConfig, alarm: Alarm) -> std::io::Result<Device> {
        let scheduler = Scheduler::new(SchedConfig {
            slots: config.slots,
            queue_max: limits::DEVICE_QUEUE_MAX,
            tenant_queue_max: limits::TENANT_QUEUE_MAX,
            floors: config.floors,
        });
        let state = State {
            scheduler,
            waiting: HashMap::default(),
            ready: VecDeque::new(),
            actions: Vec::new(),
            stopping: false,
            arrived: 0,
            ran_here: 0,
            runs: 0,
            busy_ns: 0,
            predicted_ns: 0,
            error_ns: 0,
        };
        let shared = Arc::new(Shared {
            name: config.name.clone(),
            slots: config.slots,
            origin: Instant::now(),
            state: Mutex::new(state),
            work: Condvar::new(),
            alarm,
        });
        let device = Device { shared, threads: Mutex::new(Vec::new()) };
        for index in 0..config.slots {
            let shared = device.shared.clone();
            let name = format!("dk-{}-{index}", config.name);
            let thread = std::thread::Builder::new().name(name).spawn(move || serve(&shared))?;
            device.threads().push(thread);
        }
        Ok(device)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a job in. Never blocks. What comes back is for the calling thread to run.
    pub(crate) fn submit(&self, job: Job, offer: Offer) -> Option<Here> {
        let admitted = job.admitted();
        let short = offer != Offer::Nothing && admitted.version.stats.is_short();
        let arrival = Arrival {
            job: job.id(),
            tenant: job.tenant().key(),
            class: admitted.class,
            deadline: admitted.deadline.map(|at| self.shared.at(at)),
            cost: job.predicted(),
            batch: job.batching(),
            run_here: short || offer == Offer::Any,
            share: admitted.share,
        };
        let queued = job.queued();
        let mut job = job;
        let mut state = self.shared.lock();
        state.arrived += 1;
        job.comes(state.scheduler.waiting_of(job.tenant().key()));
        let here = self.shared.step(state, queued, Event::Arrive(arrival), Some(job), Thread::Other);
        here.map(|job| Here { shared: self.shared.clone(), job: Some(job), short })
    }

    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    pub(crate) fn cancel(&self, job: JobId) {
        let here =
            self.shared.step(self.shared.lock(), Instant::now(), Event::Cancel(job), None, Thread::Other);
        debug_assert!(here.is_none(), "only an arrival may run here");
    }

    /// What becomes of a job of this tenant, if it is here.
    pub(crate) fn explain(&self, job: JobId, tenant: TenantKey) -> Option<Explained> {
        let state = self.shared.lock();
        if let Some(waiting) = state.waiting.get(&job).filter(|waiting| waiting.tenant().key() == tenant) {
            let (own_before, wait) = state.scheduler.standing(job)?;
            return Some(Explained::Waits(Standing {
                class: waiting.admitted().class,
                since: waiting.queued().elapsed(),
                own_before: u32::try_from(own_before).unwrap_or(u32::MAX),
                wait: Duration::from_nanos(wait),
                predicted: Duration::from_nanos(waiting.predicted()),
                waits_for: waiting.waited_for(),
            }));
        }
        let (whose, predicted) = state.scheduler.charged(job)?;
        (whose == tenant).then_some(Explained::Runs(Duration::from_nanos(predicted)))
    }

    pub(crate) fn tick(&self) {
        let here = self.shared.step(self.shared.lock(), Instant::now(), Event::Tick, None, Thread::Other);
        debug_assert!(here.is_none(), "only an arrival may run here");
    }

    pub(crate) fn snapshot(&self) -> DeviceSnapshot {
        let state = self.shared.lock();
        DeviceSnapshot {
            name: self.shared.name.clone(),
            slots: self.shared.slots,
            running: state.scheduler.running(),
            waiting: state.scheduler.waiting(),
            arrived: state.arrived,
            ran_here: state.ran_here,
            runs: state.runs,
            busy_ns: state.busy_ns,
            predicted_ns: state.predicted_ns,
            error_ns: state.error_ns,
        }
    }

    /// Runs what is queued and ends the threads.
    pub(crate) fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.work.notify_all();
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

/// One execution thread: takes ready jobs until told to stop and nothing is left.
fn serve(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if let Some(run) = shared.take_ready(&mut state) {
            drop(state);
            run_guarded(shared, run, Thread::Device);
            state = shared.lock();
        } else if state.stopping && state.scheduler.waiting() == 0 {
            drop(state);
            shared.work.notify_all();
            return;
        } else {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
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
