// SPDX-License-Identifier: Apache-2.0
//! The scheduler of one pool: takes in what happens, and says what to do.

use diolkos_types::JobId;

use super::batch::{self, Batching, Joined, OpenRuns};
use super::class::{ClassQueue, Place};
use super::crowd::{Crowds, Hold};
use super::floors::Floors;
use super::heap::Heap;
use super::jobs::{Charged, Job, Jobs};
use super::tenants::Tenants;
use super::{Action, Arrival, CLASSES, COST_MIN, Class, Event, Full, Nanos, SchedConfig, Share, TenantKey};

/// The scheduler of one pool.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedConfig,
    pub(super) classes: [ClassQueue; CLASSES.len()],
    floors: Floors,
    pub(super) tenants: Tenants,
    pub(super) jobs: Jobs,
    slots_used: usize,
    /// Slots of its own that another pool has.
    lent: usize,
    /// Slots of another pool.
    borrowed: usize,
    pub(super) open: OpenRuns,
    pub(super) crowds: Crowds,
    /// Of jobs that wait, by their numbers.
    deadlines: Heap<(Nanos, JobId)>,
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
            jobs: Jobs::default(),
            slots_used: 0,
            lent: 0,
            borrowed: 0,
            open: OpenRuns::default(),
            crowds: Crowds::default(),
            deadlines: Heap::default(),
            arrivals: 0,
            wake_at: None,
        }
    }

    /// Jobs that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.jobs.waiting()
    }

    /// Jobs of one tenant that wait.
    #[must_use]
    pub fn waiting_of(&self, tenant: TenantKey) -> usize {
        self.tenants.waiting(tenant)
    }

    /// Jobs that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.jobs.running()
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

    /// Slots of its own that another pool has now.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.lent
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
    pub(super) fn lend(&mut self) {
        assert!(!self.is_full() && self.lent < self.config.slots, "only what is idle, and its own, is lent");
        self.lent += 1;
    }

    /// Has a slot back that was lent, and uses it.
    pub(super) fn take_back(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        self.lent -= 1;
        self.settle(now, actions);
    }

    /// Has a slot more, for the next run.
    pub(super) fn borrow(&mut self) {
        self.borrowed += 1;
    }

    /// Has it no more. Whatever runs there ends now.
    pub(super) fn give_back(&mut self) {
        self.borrowed -= 1;
    }

    /// Of a job that waits: how many of its tenant and class go before it, as far as that is counted, and how long it
    /// will still wait, if nobody else comes and predictions hold.
    #[must_use]
    pub fn standing(&self, job: JobId) -> Option<(usize, Nanos)> {
        let Job { tenant, class, flow, place, run, .. } = self.jobs[self.jobs.find(job)?];
        if run.is_some() {
            return None;
        }
        let (before, cost) = self.classes[class as usize].standing(flow, place)?;
        Some((before, self.wait_of(tenant, class, place, cost)))
    }

    /// Of a job that runs: whose it is, and what it was charged when it began.
    #[must_use]
    pub fn charged(&self, job: JobId) -> Option<(TenantKey, Nanos)> {
        let job = &self.jobs[self.jobs.find(job)?];
        Some((self.tenants.of(job.tenant).key, job.run?.cost))
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
                let tenant = self.arrive(now, arrival, actions);
                // One that was refused may be all that its tenant had.
                self.tenants.forget_idle(tenant);
            }
            Event::Taken(job) => return self.open.close(job),
            Event::Finish(job, took) => self.finish(job, took),
            Event::Cancel(job) => {
                let waits = |number: &usize| self.jobs[*number].run.is_none();
                if let Some(number) = self.jobs.find(job).filter(waits) {
                    self.remove(number);
                    actions.push(Action::Cancelled(job));
                }
            }
            // The alarm went off, so it is set no more, whichever time it was set to.
            Event::Tick => self.wake_at = None,
        }
        self.settle(now, actions);
    }

    /// Lets end what is late, and start what can.
    pub(super) fn settle(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        self.expire(now, actions);
        self.fill_slots(now, actions);
        // Nobody waits for a slot that is held up for company.
        let somebody_waits = self.wants_slot();
        self.open.let_go((!somebody_waits).then_some(now), |head| actions.push(Action::Go(head)));
        self.set_timer(actions);
    }

    /// Lets all runs go that are held up: somebody of another pool waits for the slots.
    pub(super) fn let_go(&mut self, actions: &mut Vec<Action>) {
        self.open.let_go(None, |head| actions.push(Action::Go(head)));
        self.set_timer(actions);
    }

    /// Takes a job in, and gives the number of its tenant.
    fn arrive(&mut self, now: Nanos, mut arrival: Arrival, actions: &mut Vec<Action>) -> usize {
        arrival.batch = arrival.batch.map(|batch| self.config.policy.bound(batch));
        // The end of the clock is none.
        arrival.deadline = arrival.deadline.filter(|deadline| *deadline < Nanos::MAX);
        let tenant = self.allow(now, arrival.tenant, arrival.share, actions);
        if arrival.deadline.is_some_and(|deadline| deadline <= now) {
            actions.push(Action::Expire(arrival.job));
        } else if !self.begin_arrived(now, tenant, &arrival, actions) {
            actions.extend(self.queue(now, tenant, &arrival).map(|full| Action::Refuse(arrival.job, full)));
        }
        tenant
    }

    /// Lets a job run that comes, if it may.
    fn begin_arrived(
        &mut self,
        now: Nanos,
        tenant: usize,
        arrival: &Arrival,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Arrival { job, class, batch, run_here, deadline, .. } = *arrival;
        let whose = *self.tenants.of(tenant);
        if !whose.has_room() {
            return false;
        }
        if let Some(batch) = batch.filter(|batch| self.open.is_held(class, *batch))
            && self.join(now, tenant, arrival, batch, actions)
        {
            return true;
        }
        // No slot is free while somebody waits who may run, so with a free one this job is next.
        if !self.is_full() {
            let charged = Charged {
                cost: arrival.cost.max(COST_MIN),
                weight: whose.share.weight,
                due: false,
                slot: true,
            };
            self.begin_at_once(now, tenant, arrival, charged);
            actions.push(if run_here { Action::RunHere(job) } else { Action::Start(job) });
            if let Some(batch) = batch.filter(|_| !run_here) {
                self.open(now, class, job, batch, (batch.rows, 1), deadline, actions);
            }
            return true;
        }
        batch.is_some_and(|batch| self.join(now, tenant, arrival, batch, actions))
    }

    /// Lets a job wait, or says why it can't.
    fn queue(&mut self, now: Nanos, tenant: usize, arrival: &Arrival) -> Option<Full> {
        let Arrival { job: id, class, deadline, batch, share, .. } = *arrival;
        let whose = *self.tenants.of(tenant);
        if self.jobs.waiting() >= self.config.queue_max {
            return Some(Full::Device);
        }
        if whose.waiting >= self.config.tenant_queue_max.min(share.waiting_max) {
            return Some(Full::Tenant);
        }
        let place = (deadline.unwrap_or(Nanos::MAX), self.arrivals);
        let alone = arrival.cost.max(COST_MIN);
        let cost = batch.map_or(alone, |batch| batch.part_of_full().max(COST_MIN));
        if let Some(deadline) = deadline {
            let wait = self.wait_of(tenant, class, place, cost);
            if now.saturating_add(wait) > deadline {
                return Some(Full::Late(wait));
            }
        }
        self.arrivals += 1;
        self.crowds.comes(now, class, batch);
        let queue = &mut self.classes[class as usize];
        let flow = queue.flow(whose.key);
        let number = self.jobs.add(Job { id, tenant, class, flow, place, alone, batch, run: None });
        if let Some(deadline) = deadline {
            self.deadlines.set(number, (deadline, id));
        }
        queue.push(flow, whose.share.weight, place, number, cost, batch.map(|batch| batch.key));
        self.tenants.waits(tenant);
        if whose.has_room() {
            queue.line_up_flow(flow);
        } else {
            queue.step_out(whose.key);
        }
        None
    }

    /// A job that comes joins a run that no thread took yet, if there is one with room.
    fn join(
        &mut self,
        now: Nanos,
        tenant: usize,
        arrival: &Arrival,
        batch: Batching,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Arrival { job, class, deadline, .. } = *arrival;
        let Some(Joined { head, rows, goes }) = self.open.join(class, batch, deadline) else { return false };
        let weight = self.tenants.of(tenant).share.weight;
        let charged = Charged { cost: batch.part_of(rows).max(COST_MIN), weight, due: false, slot: false };
        self.begin_at_once(now, tenant, arrival, charged);
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

    /// Says what a tenant may have from now on, which may let one go that waits, or hold one up. Gives its number.
    fn allow(&mut self, now: Nanos, key: TenantKey, share: Share, actions: &mut Vec<Action>) -> usize {
        let (tenant, before) = self.tenants.allow(key, share);
        let after = self.tenants.of(tenant);
        if after.share.weight != before.share.weight {
            self.classes.iter_mut().for_each(|class| class.set_weight(key, after.share.weight));
        }
        match (before.has_room(), after.has_room()) {
            (false, true) => {
                // Those who wait go before the one that just comes.
                self.line_up(tenant);
                self.expire(now, actions);
                self.fill_slots(now, actions);
            }
            (true, false) => self.classes.iter_mut().for_each(|class| class.step_out(key)),
            _ => {}
        }
        tenant
    }

    /// How long a job at this place would wait if everything takes as long as predicted and nobody else comes: what its
    /// tenant has before it, stretched by the weights of others of the class, and what more urgent classes have, up to where the
    /// floor is due. What can't run now, because its tenant may not run more, is left out: rather wait and be late
    /// than be refused for nothing.
    fn wait_of(&self, tenant: usize, class: Class, place: Place, cost: Nanos) -> Nanos {
        let urgent = self.classes[..class as usize].iter().map(ClassQueue::line_work);
        let urgent = urgent.fold(0, Nanos::saturating_add);
        let tenant = self.tenants.of(tenant);
        let own = self.classes[class as usize].work_before(tenant.key, tenant.share.weight, place);
        let floor = self.floors.wait_for(class, own.saturating_add(cost)).unwrap_or(Nanos::MAX);
        own.saturating_add(urgent.min(floor)) / self.config.slots as u64
    }

    /// A job begins that never waited.
    fn begin_at_once(&mut self, now: Nanos, tenant: usize, arrival: &Arrival, charged: Charged) {
        let Arrival { job: id, class, batch, .. } = *arrival;
        self.crowds.comes(now, class, batch);
        let queue = &mut self.classes[class as usize];
        let flow = queue.flow(arrival.tenant);
        queue.start_at_once(flow, charged.weight, charged.cost);
        let (place, alone) = ((Nanos::MAX, 0), arrival.cost.max(COST_MIN));
        self.jobs.add(Job { id, tenant, class, flow, place, alone, batch, run: Some(charged) });
        self.begins(tenant, class, charged);
    }

    /// A job begins that waited, and was taken out of its class.
    fn begin_waiting(&mut self, number: usize, cost: Nanos, due: bool, slot: bool) {
        let Job { tenant, class, flow, place, .. } = self.jobs[number];
        if place.0 < Nanos::MAX {
            self.deadlines.remove(number);
        }
        let charged = Charged { cost, weight: self.tenants.of(tenant).share.weight, due, slot };
        self.jobs.runs(number, charged);
        self.classes[class as usize].start(flow, charged.weight, cost);
        self.tenants.waits_no_more(tenant);
        self.begins(tenant, class, charged);
    }

    /// Notes that a job runs, which its class charged.
    fn begins(&mut self, tenant: usize, class: Class, charged: Charged) {
        self.tenants.runs(tenant);
        let whose = self.tenants.of(tenant);
        if charged.slot {
            self.slots_used += 1;
            self.classes[class as usize].goes_on_with(whose.key);
        }
        if !whose.has_room() {
            self.classes.iter_mut().for_each(|class| class.step_out(whose.key));
        }
        self.serve(class, charged.cost, charged.due);
    }

    /// A class has so much of the device, and those who wait are owed a part of it.
    fn serve(&mut self, class: Class, time: Nanos, due: bool) {
        self.floors.served(class, time, due, |class| self.classes[class as usize].has_line());
    }

    fn finish(&mut self, job: JobId, took: Nanos) {
        let number = self.jobs.find(job).expect("a job finishes that is here");
        let Job { tenant, class, flow, batch, run, .. } = self.jobs.remove(number);
        let Charged { cost, weight, due, slot } = run.expect("a job finishes that runs");
        self.slots_used -= usize::from(slot);
        self.open.close(job);
        self.crowds.goes(class, batch);
        let took = took.max(COST_MIN);
        self.classes[class as usize].correct(flow, weight, cost, took);
        let was_full = !self.tenants.of(tenant).has_room();
        self.tenants.finished(tenant);
        if was_full && self.tenants.of(tenant).has_room() {
            self.line_up(tenant);
        }
        self.tenants.forget_idle(tenant);
        if took >= cost {
            self.serve(class, took - cost, due);
        } else {
            let classes = &self.classes;
            self.floors.took_less(class, cost - took, due, |class| classes[class as usize].has_line());
        }
    }

    /// The tenant may run another job, so what it has waiting is in line.
    fn line_up(&mut self, tenant: usize) {
        let whose = self.tenants.of(tenant);
        if whose.waiting > 0 {
            self.classes.iter_mut().for_each(|class| class.line_up(whose.key));
        }
    }

    fn expire(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        while let Some(((deadline, job), number)) = self.deadlines.first() {
            if deadline > now {
                return;
            }
            self.remove(number);
            actions.push(Action::Expire(job));
        }
    }

    fn fill_slots(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        while !self.is_full() {
            let Some((class, number, due)) = self.next_job() else { return };
            self.start_next(now, class, number, due, actions);
        }
    }

    /// Starts a job that is next in its class, with those who share its run.
    fn start_next(&mut self, now: Nanos, class: Class, number: usize, due: bool, actions: &mut Vec<Action>) {
        let head = self.jobs[number];
        let queue = &mut self.classes[class as usize];
        queue.take(head.flow, head.place, head.batch.map(|batch| batch.key));
        actions.push(Action::Start(head.id));
        let Some(batch) = head.batch else {
            return self.begin_waiting(number, head.alone, due, true);
        };
        let mates = batch::mates(queue, &self.jobs, &self.tenants, &head, batch);
        let rows = mates.iter().filter_map(|mate| self.jobs[*mate].batch);
        let rows = rows.fold(batch.rows, |sum, mate| sum.saturating_add(mate.rows));
        let (alone, jobs) = (mates.is_empty(), 1 + mates.len());
        let part = |job: &Job| match job.batch.filter(|_| !alone) {
            Some(batch) => batch.part_of(rows).max(COST_MIN),
            None => job.alone,
        };
        self.begin_waiting(number, part(&head), due, true);
        let mut first = head.place.0;
        for mate in mates {
            let job = self.jobs[mate];
            first = first.min(job.place.0);
            self.classes[class as usize].take(job.flow, job.place, Some(batch.key));
            self.begin_waiting(mate, part(&job), due, false);
            actions.push(Action::Join(job.id, head.id));
        }
        let deadline = (first < Nanos::MAX).then_some(first);
        self.open(now, class, head.id, batch, (rows, jobs), deadline, actions);
    }

    /// The first job of the most urgent class with somebody in line, unless a floor is due; and whether that is why.
    fn next_job(&self) -> Option<(Class, usize, bool)> {
        let mut first = None;
        for class in CLASSES {
            let Some(number) = self.classes[class as usize].next() else { continue };
            if self.floors.is_due(class, self.jobs[number].alone) {
                return Some((class, number, true));
            }
            first = first.or(Some((class, number, false)));
        }
        first
    }

    /// When time changes something: a deadline passes, or a run is due that is held up.
    pub(super) fn first_due(&self) -> Option<Nanos> {
        let deadline = self.deadlines.first().map(|((deadline, _), _)| deadline);
        deadline.into_iter().chain(self.open.first_due()).min()
    }

    fn set_timer(&mut self, actions: &mut Vec<Action>) {
        let next = self.first_due();
        if next != self.wake_at {
            self.wake_at = next;
            actions.extend(next.map(Action::WakeAt));
        }
    }

    /// Takes a job out that waits.
    fn remove(&mut self, number: usize) {
        let Job { tenant, class, flow, place, batch, .. } = self.jobs.remove(number);
        self.crowds.goes(class, batch);
        self.classes[class as usize].take(flow, place, batch.map(|batch| batch.key));
        self.tenants.waits_no_more(tenant);
        self.tenants.forget_idle(tenant);
        if place.0 < Nanos::MAX {
            self.deadlines.remove(number);
        }
    }
}
