// SPDX-License-Identifier: Apache-2.0
//! Who runs next on one device. Pure: `step(now, event) -> actions`, with no lock, clock, thread or I/O.
//!
//! The currency is device time. A job comes with what it is predicted to cost, is charged that when it starts, and the
//! difference to what it took when it ends, so that a wrong guess is nobody's gain.
//!
//! * **Between classes** `interactive` goes before `standard` before `batch`, but each class that waits has a floor: a share
//!   of device time that the others leave it ([`floors`]).
//! * **Between tenants of a class** device time is divided by weight: start-time fair queueing (Goyal, Vin, Cheng 1996;
//!   [`class`]). It was chosen before deficit round robin because it needs no quantum, which would have to be larger than
//!   the longest job, and because a charge can be corrected afterwards.
//! * **Inside a tenant and class** the earliest deadline goes first, then the order of arrival.
//!
//! Jobs that wait for the same operation may share a run ([`batch`]). A device's slots may be divided into pools, each with a
//! scheduler and a policy of its own, that lend each other what is idle ([`pools`], [`policy`]).
//!
//! A job that is cancelled or late while it waits never starts, and one whose deadline would pass while it waits for what is
//! before it is refused when it comes.
//!
//! ```text
//!            Arrive
//!              │ queue full, or too late ──> Refuse
//!              ▼
//!           waiting ── Cancel ──> Cancelled
//!              │    └─ deadline ─> Expire
//!              ▼ turn and free slot
//!  Start / RunHere ──> running ── Finish ──> (slot free again, charge corrected)
//!     Join ──────────────^  Start may be followed by Hold: no thread takes the run before Go, and those who come join it
//! ```
//!
//! Invariants, checked by the property tests against a plainer model and by the simulator:
//!
//! * Every job that arrives gets exactly one of `Start`, `Join`, `RunHere`, `Refuse`, `Expire`, `Cancelled`.
//! * Never are there more runs than slots, nor run more jobs of one tenant than it may run at once; and no slot is free, or held up,
//!   while a job waits whose tenant may run another.
//! * What is kept does not grow with tenants or jobs that are gone.

pub mod batch;
pub mod class;
pub mod crowd;
pub mod floors;
#[cfg(test)]
mod model;
pub mod policy;
pub mod pools;
#[cfg(test)]
mod pools_tests;
pub mod sim;
#[cfg(test)]
mod sim_tests;
mod tenants;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

pub use diolkos_backend::endpoint::Class;
use diolkos_types::{BuildSpread, JobId};

pub use batch::{BatchKey, Batching};
use batch::{Joined, OpenRuns};
use class::{ClassQueue, Place, Queued};
use crowd::{Crowds, Hold};
pub use floors::FloorShares;
use floors::Floors;
pub use policy::PoolPolicy;
pub use pools::{Planned, Pools};
use tenants::Tenants;

/// Nanoseconds: of device time, or since an origin that the caller chose.
pub type Nanos = u64;

/// All classes, the most urgent first.
pub const CLASSES: [Class; 3] = [Class::Interactive, Class::Standard, Class::Batch];

/// No job is charged less: a prediction of nothing must not be a way to run for nothing.
pub const COST_MIN: Nanos = 1000;

/// The scheduler's name for a tenant; no other tenant ever gets the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantKey(pub u64);

/// A job as the scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Which.
    pub job: JobId,
    /// Whose.
    pub tenant: TenantKey,
    /// How urgent.
    pub class: Class,
    /// Must have begun by then.
    pub deadline: Option<Nanos>,
    /// Device time that it will take alone, as far as one can tell.
    pub cost: Nanos,
    /// What it may share a run with.
    pub batch: Option<Batching>,
    /// The thread that brings it offers to run it.
    pub run_here: bool,
    /// What its tenant may have here, from now on.
    pub share: Share,
}

/// What a tenant may have on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Jobs that may run at once; at least one.
    pub running_max: usize,
    /// Jobs that may wait.
    pub waiting_max: usize,
    /// Its part of the device time beside others of the same class: twice the weight, twice the time. At least 1.
    pub weight: u32,
}

impl Share {
    /// As much as the device has.
    pub const ALL: Share = Share { running_max: usize::MAX, waiting_max: usize::MAX, weight: 1 };
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A job was admitted.
    Arrive(Arrival),
    /// A thread begins with a run, so nobody joins it any more.
    Taken(JobId),
    /// A job that ran has ended, after so much time on the device; where several shared a run, its part of it. The slot is free
    /// when the one that was started has ended.
    Finish(JobId, Nanos),
    /// Nobody wants this job any more. Ignored for a job that runs or is unknown.
    Cancel(JobId),
    /// Time passed (a `WakeAt` came due).
    Tick,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give this job a slot's thread.
    Start(JobId),
    /// Let the first job share the run of the second, which was started and not taken yet.
    Join(JobId, JobId),
    /// Don't take this run, which was just started, until it goes: others may join it.
    Hold(JobId),
    /// Let a run be taken that was held up.
    Go(JobId),
    /// Run this job, which just arrived, on the thread that brought it. It holds a slot all the same.
    RunHere(JobId),
    /// Answer that there is no room for it.
    Refuse(JobId, Full),
    /// Answer that the deadline passed.
    Expire(JobId),
    /// Answer that it was cancelled.
    Cancelled(JobId),
    /// Send `Tick` at this time. Replaces an earlier `WakeAt`.
    WakeAt(Nanos),
}

/// Which bound a job met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The device's queue.
    Device,
    /// The tenant's part of it.
    Tenant,
    /// Its deadline: it would wait so long.
    Late(Nanos),
}

/// Sizes and policy of one scheduler.
#[derive(Clone, Copy, Debug)]
pub struct SchedConfig {
    /// Jobs that may run at once; at least one.
    pub slots: usize,
    /// Jobs that may wait.
    pub queue_max: usize,
    /// Jobs of one tenant that may wait.
    pub tenant_queue_max: usize,
    /// What the less urgent classes get whatever the others want.
    pub floors: FloorShares,
    /// What the slots are for.
    pub policy: PoolPolicy,
    /// Other pools of the device may use slots that are idle. Means nothing to a scheduler alone.
    pub lends: bool,
}

/// Where a waiting job stands, so that it can be taken out of the middle.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    tenant: TenantKey,
    class: Class,
    place: Place,
    batch: Option<Batching>,
}

/// What a running job was charged, and to whom.
#[derive(Clone, Copy, Debug)]
struct Running {
    tenant: TenantKey,
    class: Class,
    cost: Nanos,
    /// Of its tenant, when it started.
    weight: u32,
    /// It started because the floor of its class was due.
    due: bool,
    /// It holds a slot. Those who joined it do not.
    slot: bool,
    batch: Option<Batching>,
}

/// The scheduler of one device.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedConfig,
    classes: [ClassQueue; CLASSES.len()],
    floors: Floors,
    tenants: Tenants,
    waiting: HashMap<JobId, Waiting, BuildSpread>,
    running: HashMap<JobId, Running, BuildSpread>,
    slots_used: usize,
    /// Slots of its own that another pool has.
    lent: usize,
    /// Slots of another pool.
    borrowed: usize,
    open: OpenRuns,
    crowds: Crowds,
    deadlines: BTreeSet<(Nanos, JobId)>,
    arrivals: u64,
    wake_at: Option<Nanos>,
}

impl Scheduler {
    /// An idle scheduler.
    #[must_use]
    pub fn new(config: SchedConfig) -> Scheduler {
        assert!(config.slots > 0, "a device without slots can run nothing");
        Scheduler {
            config,
            classes: std::array::from_fn(|_| ClassQueue::new(config.policy.slice())),
            floors: Floors::new(config.floors),
            tenants: Tenants::default(),
            waiting: HashMap::default(),
            running: HashMap::default(),
            slots_used: 0,
            lent: 0,
            borrowed: 0,
            open: OpenRuns::default(),
            crowds: Crowds::default(),
            deadlines: BTreeSet::new(),
            arrivals: 0,
            wake_at: None,
        }
    }

    /// Jobs that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Jobs of one tenant that wait.
    #[must_use]
    pub fn waiting_of(&self, tenant: TenantKey) -> usize {
        self.tenants.waiting(tenant)
    }

    /// Jobs that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Slots that they hold: fewer, where jobs share runs.
    #[must_use]
    pub fn slots_used(&self) -> usize {
        self.slots_used
    }

    /// Slots that it may use now: its own but for those that are lent, and those that are borrowed.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.config.slots - self.lent + self.borrowed
    }

    /// Whether all of these are taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.slots_used >= self.slots()
    }

    /// Whether somebody waits who could run, were there a slot.
    #[must_use]
    pub fn wants_slot(&self) -> bool {
        self.classes.iter().any(ClassQueue::has_line)
    }

    /// Gives an idle slot away.
    fn lend(&mut self) {
        assert!(!self.is_full() && self.lent < self.config.slots, "only what is idle, and its own, is lent");
        self.lent += 1;
    }

    /// Has a slot back that was lent, and uses it.
    fn take_back(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        self.lent -= 1;
        self.settle(now, actions);
    }

    /// Has a slot more, for the next run.
    fn borrow(&mut self) {
        self.borrowed += 1;
    }

    /// Has it no more. Whatever runs there ends now.
    fn give_back(&mut self) {
        self.borrowed -= 1;
    }

    /// Of a job that waits: how many of its tenant and class go before it, as far as that is counted, and how long it
    /// will still wait, if nobody else comes and predictions hold.
    #[must_use]
    pub fn standing(&self, job: JobId) -> Option<(usize, Nanos)> {
        let &Waiting { tenant, class, place, .. } = self.waiting.get(&job)?;
        let (before, queued) = self.classes[class as usize].standing(tenant, place)?;
        Some((before, self.wait_of(tenant, class, place, queued.cost)))
    }

    /// Of a job that runs: whose it is, and what it was charged when it began.
    #[must_use]
    pub fn charged(&self, job: JobId) -> Option<(TenantKey, Nanos)> {
        self.running.get(&job).map(|running| (running.tenant, running.cost))
    }

    /// Whether what a step does depends on the time: some job has a deadline, or a run is held up.
    #[must_use]
    pub fn needs_time(&self) -> bool {
        !self.deadlines.is_empty() || self.open.first_due().is_some()
    }

    /// Takes in what happened and appends what to do about it to `actions`.
    pub fn step(&mut self, now: Nanos, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Arrive(arrival) => {
                self.arrive(now, arrival, actions);
                // One that was refused may be all that its tenant had.
                self.tenants.forget_idle(arrival.tenant);
            }
            Event::Taken(job) => return self.open.close(job),
            Event::Finish(job, took) => self.finish(job, took),
            Event::Cancel(job) => {
                if self.remove(job) {
                    actions.push(Action::Cancelled(job));
                }
            }
            // The alarm went off, so it is set no more, whichever time it was set to.
            Event::Tick => self.wake_at = None,
        }
        self.settle(now, actions);
    }

    /// Lets end what is late, and start what can.
    fn settle(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        self.expire(now, actions);
        self.fill_slots(now, actions);
        // Nobody waits for a slot that is held up for company.
        let somebody_waits = self.wants_slot();
        let going = self.open.let_go((!somebody_waits).then_some(now));
        actions.extend(going.into_iter().map(Action::Go));
        self.set_timer(actions);
    }

    fn arrive(&mut self, now: Nanos, mut arrival: Arrival, actions: &mut Vec<Action>) {
        arrival.batch = arrival.batch.map(|batch| self.config.policy.bound(batch));
        let Arrival { job, tenant, class, deadline, run_here, share, .. } = arrival;
        let alone = arrival.cost.max(COST_MIN);
        self.allow(now, tenant, share, actions);
        if deadline.is_some_and(|deadline| deadline <= now) {
            return actions.push(Action::Expire(job));
        }
        if self.tenants.has_room(tenant)
            && let Some(batch) = arrival.batch.filter(|batch| self.open.is_held(class, *batch))
            && self.join(now, &arrival, batch, actions)
        {
            return;
        }
        // No slot is free while somebody waits who may run, so with a free one this job is next.
        if !self.is_full() && self.tenants.has_room(tenant) {
            let weight = self.tenants.weight(tenant);
            self.classes[class as usize].start_at_once(tenant, weight, alone);
            self.crowds.comes(now, class, arrival.batch);
            let batch = arrival.batch;
            self.begin(job, Running { tenant, class, cost: alone, weight, due: false, slot: true, batch });
            actions.push(if run_here { Action::RunHere(job) } else { Action::Start(job) });
            if let Some(batch) = batch.filter(|_| !run_here) {
                self.open(now, class, job, batch, (batch.rows, 1), deadline, actions);
            }
            return;
        }
        if self.tenants.has_room(tenant)
            && let Some(batch) = arrival.batch
            && self.join(now, &arrival, batch, actions)
        {
            return;
        }
        if self.waiting.len() >= self.config.queue_max {
            return actions.push(Action::Refuse(job, Full::Device));
        }
        if self.tenants.waiting(tenant) >= self.config.tenant_queue_max.min(share.waiting_max) {
            return actions.push(Action::Refuse(job, Full::Tenant));
        }
        let place = (deadline.unwrap_or(Nanos::MAX), self.arrivals);
        let cost = arrival.batch.map_or(alone, |batch| batch.part_of_full().max(COST_MIN));
        if let Some(deadline) = deadline {
            let wait = self.wait_of(tenant, class, place, cost);
            if now.saturating_add(wait) > deadline {
                return actions.push(Action::Refuse(job, Full::Late(wait)));
            }
            self.deadlines.insert((deadline, job));
        }
        self.arrivals += 1;
        self.crowds.comes(now, class, arrival.batch);
        let known = self.waiting.insert(job, Waiting { tenant, class, place, batch: arrival.batch });
        assert!(known.is_none(), "job {job} arrived twice");
        let queued = Queued { job, alone, cost, batch: arrival.batch };
        self.classes[class as usize].push(tenant, self.tenants.weight(tenant), place, queued);
        self.tenants.waits(tenant);
        if self.tenants.has_room(tenant) {
            self.classes[class as usize].line_up(tenant);
        } else {
            self.classes[class as usize].step_out(tenant);
        }
    }

    /// A job that comes joins a run that no thread took yet, if there is one with room.
    fn join(&mut self, now: Nanos, arrival: &Arrival, batch: Batching, actions: &mut Vec<Action>) -> bool {
        let Arrival { job, tenant, class, deadline, .. } = *arrival;
        let Some(Joined { head, rows, goes }) = self.open.join(class, batch, deadline) else { return false };
        let cost = batch.part_of(rows).max(COST_MIN);
        let weight = self.tenants.weight(tenant);
        self.crowds.comes(now, class, arrival.batch);
        self.classes[class as usize].start_at_once(tenant, weight, cost);
        self.begin(
            job,
            Running { tenant, class, cost, weight, due: false, slot: false, batch: arrival.batch },
        );
        actions.push(Action::Join(job, head));
        if goes {
            actions.push(Action::Go(head));
        }
        true
    }

    /// A run was started that others may join; perhaps it waits for them.
    #[allow(clippy::too_many_arguments, reason = "it is what is known of the run")]
    fn open(
        &mut self,
        now: Nanos,
        class: Class,
        head: JobId,
        batch: Batching,
        (rows, jobs): (u32, usize),
        deadline: Option<Nanos>,
        actions: &mut Vec<Action>,
    ) {
        let hold_max = self.config.policy.hold_max(batch.fixed);
        let hold = self.crowds.hold(now, hold_max, class, batch, jobs, self.config.slots);
        let in_time = |hold: &Hold| deadline.is_none_or(|deadline| hold.until < deadline);
        // Whoever borrows has too much to do for waiting, and the slot's owner may want it back.
        let may_wait = !self.wants_slot() && self.borrowed == 0;
        let hold = hold.filter(|hold| may_wait && in_time(hold));
        let older = self.open.open(class, head, batch, (rows, jobs), hold);
        actions.extend(older.map(Action::Go));
        if hold.is_some() {
            actions.push(Action::Hold(head));
        }
    }

    /// Says what a tenant may have from now on, which may let one go that waits, or hold one up.
    fn allow(&mut self, now: Nanos, tenant: TenantKey, share: Share, actions: &mut Vec<Action>) {
        let (had_room, weight) = (self.tenants.has_room(tenant), self.tenants.weight(tenant));
        self.tenants.allow(tenant, share);
        if self.tenants.weight(tenant) != weight {
            let weight = self.tenants.weight(tenant);
            self.classes.iter_mut().for_each(|class| class.set_weight(tenant, weight));
        }
        match (had_room, self.tenants.has_room(tenant)) {
            (false, true) => {
                // Those who wait go before the one that just comes.
                self.line_up(tenant);
                self.expire(now, actions);
                self.fill_slots(now, actions);
            }
            (true, false) => self.classes.iter_mut().for_each(|class| class.step_out(tenant)),
            _ => {}
        }
    }

    /// How long a job at this place would wait if everything takes as long as predicted and nobody else comes: what its
    /// tenant has before it, stretched by the weights of others of the class, and what more urgent classes have, up to where the
    /// floor is due. What can't run now, because its tenant may not run more, is left out: rather wait and be late
    /// than be refused for nothing.
    fn wait_of(&self, tenant: TenantKey, class: Class, place: Place, cost: Nanos) -> Nanos {
        let urgent = self.classes[..class as usize].iter().map(ClassQueue::line_work);
        let urgent = urgent.fold(0, Nanos::saturating_add);
        let own = self.classes[class as usize].work_before(tenant, self.tenants.weight(tenant), place);
        let floor = self.floors.wait_for(class, own.saturating_add(cost)).unwrap_or(Nanos::MAX);
        own.saturating_add(urgent.min(floor)) / self.config.slots as u64
    }

    /// Notes that a job runs, which its class charged.
    fn begin(&mut self, job: JobId, running: Running) {
        let Running { tenant, class, cost, due, slot, .. } = running;
        if slot {
            self.slots_used += 1;
            self.classes[class as usize].goes_on_with(tenant);
        }
        self.tenants.runs(tenant);
        let known = self.running.insert(job, running);
        assert!(known.is_none(), "job {job} started twice");
        if !self.tenants.has_room(tenant) {
            self.classes.iter_mut().for_each(|class| class.step_out(tenant));
        }
        self.serve(class, cost, due);
    }

    /// Takes a job that waits, and lets it run.
    fn begin_waiting(
        &mut self,
        class: Class,
        tenant: TenantKey,
        queued: Queued,
        cost: Nanos,
        due: bool,
        slot: bool,
    ) {
        let waited =
            self.waiting.remove(&queued.job).expect("every queued job is in the table of waiting jobs");
        if waited.place.0 < Nanos::MAX {
            self.deadlines.remove(&(waited.place.0, queued.job));
        }
        let weight = self.tenants.weight(tenant);
        self.classes[class as usize].start_waited(tenant, weight, cost);
        self.tenants.waits_no_more(tenant);
        self.begin(queued.job, Running { tenant, class, cost, weight, due, slot, batch: queued.batch });
    }

    /// A class has so much of the device, and those who wait are owed a part of it.
    fn serve(&mut self, class: Class, time: Nanos, due: bool) {
        self.floors.served(class, time, due, |class| self.classes[class as usize].has_line());
    }

    fn finish(&mut self, job: JobId, took: Nanos) {
        let Running { tenant, class, cost, weight, due, slot, batch } =
            self.running.remove(&job).expect("a job finishes that runs");
        self.slots_used -= usize::from(slot);
        self.open.close(job);
        self.crowds.goes(class, batch);
        let took = took.max(COST_MIN);
        self.classes[class as usize].correct(tenant, weight, cost, took);
        let was_full = !self.tenants.has_room(tenant);
        self.tenants.finished(tenant);
        if was_full && self.tenants.has_room(tenant) {
            self.line_up(tenant);
        }
        self.tenants.forget_idle(tenant);
        if took > cost {
            self.serve(class, took - cost, due);
        }
    }

    /// The tenant may run another job, so what it has waiting is in line.
    fn line_up(&mut self, tenant: TenantKey) {
        if self.tenants.waiting(tenant) > 0 {
            self.classes.iter_mut().for_each(|class| class.line_up(tenant));
        }
    }

    fn expire(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        while let Some(&(deadline, job)) = self.deadlines.first() {
            if deadline > now {
                return;
            }
            let removed = self.remove(job);
            debug_assert!(removed, "a deadline outlived its job");
            actions.push(Action::Expire(job));
        }
    }

    fn fill_slots(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        while !self.is_full() {
            let Some((class, due)) = self.next_class() else { return };
            self.start_next(now, class, due, actions);
        }
    }

    /// Starts the job of a class that is next, with those who share its run.
    fn start_next(&mut self, now: Nanos, class: Class, due: bool, actions: &mut Vec<Action>) {
        let queue = &mut self.classes[class as usize];
        let (tenant, place, _) = queue.next().expect("the caller saw somebody in line");
        let head = queue.take(tenant, place);
        actions.push(Action::Start(head.job));
        let Some(batch) = head.batch else {
            return self.begin_waiting(class, tenant, head, head.alone, due, true);
        };
        let mates = batch::mates(queue, &self.tenants, tenant, batch);
        let rows = mates.iter().filter_map(|(_, _, mate)| mate.batch);
        let rows = rows.fold(batch.rows, |sum, mate| sum.saturating_add(mate.rows));
        let (alone, jobs) = (mates.is_empty(), 1 + mates.len());
        let first = mates.iter().map(|(_, place, _)| place.0).chain([place.0]).min().unwrap_or(Nanos::MAX);
        let part = |queued: &Queued| match queued.batch.filter(|_| !alone) {
            Some(batch) => batch.part_of(rows).max(COST_MIN),
            None => queued.alone,
        };
        self.begin_waiting(class, tenant, head, part(&head), due, true);
        for (tenant, place, mate) in mates {
            self.classes[class as usize].take(tenant, place);
            self.begin_waiting(class, tenant, mate, part(&mate), due, false);
            actions.push(Action::Join(mate.job, head.job));
        }
        let deadline = (first < Nanos::MAX).then_some(first);
        self.open(now, class, head.job, batch, (rows, jobs), deadline, actions);
    }

    /// The most urgent class with somebody in line, unless a floor is due; and whether that is why.
    fn next_class(&self) -> Option<(Class, bool)> {
        let next_cost = |class: Class| self.classes[class as usize].next().map(|(_, _, next)| next.alone);
        let mut in_line = CLASSES.into_iter().filter(|&class| self.classes[class as usize].has_line());
        let due = |class: &Class| next_cost(*class).is_some_and(|cost| self.floors.is_due(*class, cost));
        let due = in_line.clone().find(due).map(|class| (class, true));
        due.or_else(|| in_line.next().map(|class| (class, false)))
    }

    /// When time changes something: a deadline passes, or a run is due that is held up.
    fn first_due(&self) -> Option<Nanos> {
        let deadline = self.deadlines.first().map(|&(deadline, _)| deadline);
        deadline.into_iter().chain(self.open.first_due()).min()
    }

    fn set_timer(&mut self, actions: &mut Vec<Action>) {
        let next = self.first_due();
        if next != self.wake_at {
            self.wake_at = next;
            actions.extend(next.map(Action::WakeAt));
        }
    }

    fn remove(&mut self, job: JobId) -> bool {
        let Some(Waiting { tenant, class, place, batch }) = self.waiting.remove(&job) else { return false };
        self.crowds.goes(class, batch);
        self.classes[class as usize].take(tenant, place);
        self.tenants.waits_no_more(tenant);
        self.tenants.forget_idle(tenant);
        if place.0 < Nanos::MAX {
            self.deadlines.remove(&(place.0, job));
        }
        true
    }
}
