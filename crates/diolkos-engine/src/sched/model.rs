// SPDX-License-Identifier: Apache-2.0
//! The same policy, written without any index: everything is found by looking at all of it. Too plain to be wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::class::Virtual;
use super::crowd::HOLD_MAX;
use super::*;

/// What the model knows of a job that waits.
#[derive(Clone, Debug)]
pub(super) struct Plain {
    pub(super) arrival: Arrival,
    order: u64,
}

impl Plain {
    fn place(&self) -> (Nanos, u64) {
        (self.arrival.deadline.unwrap_or(Nanos::MAX), self.order)
    }

    fn alone(&self) -> Nanos {
        self.arrival.cost.max(COST_MIN)
    }

    /// What it is thought to cost while it waits.
    fn cost(&self) -> Nanos {
        let part = |batch: Batching| batch.part_of(batch.rows_max.max(batch.rows)).max(COST_MIN);
        self.arrival.batch.map_or(self.alone(), part)
    }
}

/// A run that no thread took yet.
#[derive(Clone, Copy, Debug)]
struct Open {
    class: Class,
    key: BatchKey,
    head: JobId,
    rows: u32,
    rows_max: u32,
    /// It waits for company until then, or for so many jobs.
    hold: Option<(Nanos, usize)>,
    jobs: usize,
}

/// What the model knows of a job that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub(super) tenant: TenantKey,
    pub(super) class: Class,
    pub(super) cost: Nanos,
    pub(super) weight: u32,
    pub(super) due: bool,
    pub(super) slot: bool,
    pub(super) batch: Option<Batching>,
}

#[derive(Debug)]
pub(super) struct Model {
    config: SchedConfig,
    pub(super) running: Vec<(JobId, Running)>,
    pub(super) waiting: Vec<Plain>,
    shares: BTreeMap<TenantKey, Share>,
    start: BTreeMap<(Class, TenantKey), Virtual>,
    now: [Virtual; 3],
    /// The latest start of a job that started.
    started: [Virtual; 3],
    latest: [Virtual; 3],
    aside: [i64; 3],
    open: Vec<Open>,
    /// By class and key: sixteen times the jobs that there usually are, and when the last one came.
    usual: BTreeMap<(Class, BatchKey), (u64, Nanos)>,
    /// Where a tenant began when it came back.
    since: BTreeMap<(Class, TenantKey), Virtual>,
    /// Tenants with jobs that may not run more.
    held: BTreeSet<(Class, TenantKey)>,
    arrivals: u64,
    /// By class: whose run started last.
    last: [Option<TenantKey>; 3],
}

impl Model {
    pub(super) fn new(config: SchedConfig) -> Model {
        Model {
            config,
            running: Vec::new(),
            waiting: Vec::new(),
            shares: BTreeMap::new(),
            start: BTreeMap::new(),
            now: [0; 3],
            started: [0; 3],
            latest: [0; 3],
            aside: [0; 3],
            open: Vec::new(),
            usual: BTreeMap::new(),
            since: BTreeMap::new(),
            held: BTreeSet::new(),
            arrivals: 0,
            last: [None; 3],
        }
    }

    pub(super) fn step(&mut self, now: Nanos, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Arrive(arrival) => self.arrive(now, arrival, &mut actions),
            Event::Taken(job) => {
                self.open.retain(|open| open.head != job);
                return actions;
            }
            Event::Finish(job, took) => self.finish(job, took.max(COST_MIN)),
            Event::Cancel(job) => {
                let before = self.waiting.len();
                self.waiting.retain(|plain| plain.arrival.job != job);
                if self.waiting.len() < before {
                    actions.push(Action::Cancelled(job));
                }
            }
            Event::Tick => {}
        }
        self.expire(now, &mut actions);
        self.fill(now, &mut actions);
        let somebody_waits = self.somebody_waits();
        self.open.sort_unstable_by_key(|open| open.head);
        for open in &mut self.open {
            if open.hold.is_some_and(|(until, _)| somebody_waits || until <= now) {
                open.hold = None;
                actions.push(Action::Go(open.head));
            }
        }
        actions
    }

    /// Somebody could use a slot.
    fn somebody_waits(&self) -> bool {
        self.waiting.iter().any(|plain| self.has_room(plain.arrival.tenant))
    }

    /// When the first run is due that is held up.
    pub(super) fn first_due(&self) -> Option<Nanos> {
        self.open.iter().filter_map(|open| open.hold).map(|(until, _)| until).min()
    }

    /// A job came: those that wait or run, and itself, go into what is usual.
    fn counts(&mut self, now: Nanos, class: Class, batch: Option<Batching>) {
        let Some(batch) = batch else { return };
        let same = |of: Class, other: Option<Batching>| {
            other.is_some_and(|other| (of, other.key) == (class, batch.key))
        };
        let waiting =
            self.waiting.iter().filter(|plain| same(plain.arrival.class, plain.arrival.batch)).count();
        let running = self.running.iter().filter(|(_, running)| same(running.class, running.batch)).count();
        let (usual, last) = self.usual.entry((class, batch.key)).or_default();
        if now.saturating_sub(*last) > 50 * HOLD_MAX {
            *usual = 0;
        }
        *last = now;
        *usual = *usual - *usual / 16 + (waiting + running + 1) as u64;
    }

    pub(super) fn has_room(&self, tenant: TenantKey) -> bool {
        self.runs(tenant) < self.shares[&tenant].running_max.max(1)
    }

    fn runs(&self, tenant: TenantKey) -> usize {
        self.running.iter().filter(|(_, running)| running.tenant == tenant).count()
    }

    pub(super) fn slots_used(&self) -> usize {
        self.running.iter().filter(|(_, running)| running.slot).count()
    }

    /// Device time that a tenant may be ahead.
    fn slice(&self) -> Nanos {
        if self.config.policy == PoolPolicy::Throughput { policy::SLICE } else { 0 }
    }

    fn virtual_time(&self, tenant: TenantKey, cost: Nanos) -> Virtual {
        at_weight(cost, self.weight(tenant))
    }

    fn weight(&self, tenant: TenantKey) -> u32 {
        self.shares[&tenant].weight.max(1)
    }

    /// When a tenant's next job would start.
    fn start_of(&self, class: Class, tenant: TenantKey) -> Virtual {
        self.start.get(&(class, tenant)).copied().unwrap_or(0)
    }

    /// The first job of the tenant that is next, of those who may run another.
    fn next_of(&self, class: Class) -> Option<&Plain> {
        let mine = self.waiting.iter().filter(|plain| plain.arrival.class == class);
        let may = mine.filter(|plain| self.has_room(plain.arrival.tenant));
        let first = may.min_by_key(|plain| {
            (self.start_of(class, plain.arrival.tenant), plain.arrival.tenant, plain.place())
        })?;
        // Where throughput counts, whoever ran last goes on until it is too far ahead.
        let last = self.last[class as usize].filter(|_| self.config.policy == PoolPolicy::Throughput);
        let Some(last) = last.filter(|last| self.shares.contains_key(last) && self.has_room(*last)) else {
            return Some(first);
        };
        let ahead = self.start_of(class, last)
            < self.start_of(class, first.arrival.tenant) + self.virtual_time(last, policy::SLICE);
        let of_last = self
            .waiting
            .iter()
            .filter(|plain| ahead && plain.arrival.class == class && plain.arrival.tenant == last);
        of_last.min_by_key(|plain| plain.place()).or(Some(first))
    }

    fn floor(&self, class: Class) -> u64 {
        match class {
            Class::Interactive => 0,
            Class::Standard => u64::from(self.config.floors.standard),
            Class::Batch => u64::from(self.config.floors.batch),
        }
    }

    fn served(&mut self, served: Class, time: Nanos, due: bool) {
        for class in CLASSES {
            let share = self.floor(class);
            let aside = self.aside[class as usize];
            self.aside[class as usize] = if class == served {
                let left = aside - time as i64 * 1000;
                if due { left } else { left.max(aside.min(0)) }
            } else if self.next_of(class).is_some() {
                aside + (time * share) as i64
            } else {
                aside.min(0)
            };
        }
    }

    fn begin(&mut self, job: JobId, running: Running) {
        let Running { tenant, class, cost, due, slot, .. } = running;
        if slot {
            self.last[class as usize] = Some(tenant);
        }
        let start = self.start_of(class, tenant);
        let next = start + self.virtual_time(tenant, cost);
        self.start.insert((class, tenant), next);
        self.latest[class as usize] = self.latest[class as usize].max(next);
        let least = start.saturating_sub(self.virtual_time(tenant, self.slice()));
        self.started[class as usize] = self.started[class as usize].max(least);
        let passed = self.now[class as usize] + self.passes(class, tenant, self.weight(tenant), cost);
        self.now[class as usize] = passed.max(least);
        self.running.push((job, running));
        self.hold_or_let_go(tenant);
        self.served(class, cost, due);
    }

    fn finish(&mut self, job: JobId, took: Nanos) {
        self.open.retain(|open| open.head != job);
        let at = self.running.iter().position(|&(running, _)| running == job).unwrap();
        let (_, Running { tenant, class, cost, weight, due, .. }) = self.running.remove(at);
        let since = self.since.get(&(class, tenant)).copied().unwrap_or(0);
        let start = self.start_of(class, tenant);
        let now = self.now[class as usize];
        let corrected = if took >= cost {
            self.now[class as usize] = now + self.passes(class, tenant, weight, took - cost);
            start + at_weight(took - cost, weight)
        } else {
            let passed = self.passes(class, tenant, weight, cost - took);
            self.now[class as usize] = now.saturating_sub(passed).max(self.started[class as usize]);
            start.saturating_sub(at_weight(cost - took, weight)).max(since)
        };
        self.start.insert((class, tenant), corrected);
        self.latest[class as usize] = self.latest[class as usize].max(corrected);
        let busy = self.running.iter().any(|(_, running)| running.class == class)
            || self.waiting.iter().any(|plain| plain.arrival.class == class);
        if !busy {
            self.now[class as usize] = self.latest[class as usize];
            self.start.retain(|&(other, _), _| other != class);
            self.since.retain(|&(other, _), _| other != class);
        }
        self.hold_or_let_go(tenant);
        if took >= cost {
            self.served(class, took - cost, due);
            return;
        }
        for other in CLASSES {
            let less = (cost - took) as i64;
            if other == class && due {
                self.aside[other as usize] += less * 1000;
            } else if other != class && self.next_of(other).is_some() {
                self.aside[other as usize] -= less * self.floor(other) as i64;
            }
        }
    }

    fn expire(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        let mut late: Vec<(Nanos, JobId)> = self
            .waiting
            .iter()
            .filter_map(|plain| Some((plain.arrival.deadline?, plain.arrival.job)))
            .filter(|&(deadline, _)| deadline <= now)
            .collect();
        late.sort_unstable();
        for (_, job) in late {
            self.waiting.retain(|plain| plain.arrival.job != job);
            actions.push(Action::Expire(job));
        }
    }

    fn fill(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        while self.slots_used() < self.config.slots {
            let next: Vec<&Plain> = CLASSES.into_iter().filter_map(|class| self.next_of(class)).collect();
            let due = |plain: &&&Plain| {
                let class = plain.arrival.class;
                self.floor(class) > 0 && self.aside[class as usize] >= plain.alone() as i64 * 1000
            };
            let due = next.iter().find(due).map(|&plain| (plain.clone(), true));
            let Some((next, due)) = due.or(next.first().map(|&plain| (plain.clone(), false))) else {
                return;
            };
            let head = next.arrival.job;
            self.waiting.retain(|plain| plain.arrival.job != head);
            let mates = self.mates(&next);
            let rows = |plain: &Plain| plain.arrival.batch.map_or(0, |batch| batch.rows);
            let all: u32 = mates.iter().chain([&next]).map(rows).sum();
            let (alone, jobs) = (mates.is_empty(), 1 + mates.len());
            let first = mates.iter().chain([&next]).filter_map(|plain| plain.arrival.deadline).min();
            let arrival = next.arrival;
            for plain in [next].into_iter().chain(mates) {
                let Arrival { job, tenant, class, batch, .. } = plain.arrival;
                self.waiting.retain(|plain| plain.arrival.job != job);
                let part = batch.filter(|_| !alone).map(|batch| batch.part_of(all).max(COST_MIN));
                let cost = part.unwrap_or(plain.alone());
                self.begin(
                    job,
                    Running {
                        tenant,
                        class,
                        cost,
                        due,
                        slot: job == head,
                        batch,
                        weight: self.weight(tenant),
                    },
                );
                actions.push(if job == head { Action::Start(job) } else { Action::Join(job, head) });
            }
            self.opens(now, &Arrival { deadline: first, ..arrival }, (all, jobs), actions);
        }
    }

    fn opens(
        &mut self,
        now: Nanos,
        arrival: &Arrival,
        (rows, jobs): (u32, usize),
        actions: &mut Vec<Action>,
    ) {
        let Arrival { job: head, class, batch, deadline, .. } = *arrival;
        let Some(batch) = batch else { return };
        let usual = self.usual[&(class, batch.key)].0 / 16 / self.config.slots as u64;
        let wanted = usize::try_from(usual).unwrap().min(batch.rows_max as usize);
        let until = now
            + match self.config.policy {
                PoolPolicy::Latency => 0,
                PoolPolicy::Fair => (batch.fixed / 2).min(HOLD_MAX),
                PoolPolicy::Throughput => batch.fixed.min(10 * HOLD_MAX),
            };
        let holds = jobs < wanted
            && until > now
            && deadline.is_none_or(|deadline| until < deadline)
            && !self.somebody_waits();
        let (key, rows_max) = (batch.key, batch.rows_max);
        if rows < rows_max {
            let older = self.open.iter().find(|open| (open.class, open.key) == (class, key));
            actions.extend(older.filter(|open| open.hold.is_some()).map(|open| Action::Go(open.head)));
            self.open.retain(|open| (open.class, open.key) != (class, key));
            let hold = holds.then_some((until, wanted));
            self.open.push(Open { class, key, head, rows, rows_max, hold, jobs });
        }
        if holds {
            actions.push(Action::Hold(head));
        }
    }

    /// A job joins a run that no thread took yet, if it may and there is one.
    fn joins(&mut self, now: Nanos, arrival: &Arrival, held: bool, actions: &mut Vec<Action>) -> bool {
        let Arrival { job, tenant, class, batch, .. } = *arrival;
        let Some(batch) = batch.filter(|_| self.has_room(tenant)) else { return false };
        let fits = |open: &&mut Open| {
            (open.class, open.key) == (class, batch.key)
                && open.rows + batch.rows <= open.rows_max
                && (!held || open.hold.is_some())
        };
        let Some(open) = self.open.iter_mut().find(fits) else { return false };
        open.rows += batch.rows;
        open.jobs += 1;
        let hurries = |until| arrival.deadline.is_some_and(|deadline| deadline <= until);
        let goes = open.hold.take_if(|(until, wanted)| open.jobs >= *wanted || hurries(*until)).is_some();
        let (head, cost) = (open.head, batch.part_of(open.rows).max(COST_MIN));
        self.counts(now, class, arrival.batch);
        let waits = |plain: &Plain| plain.arrival.tenant == tenant && plain.arrival.class == class;
        if !self.waiting.iter().any(waits) {
            self.come_back(class, tenant);
        }
        self.begin(
            job,
            Running {
                tenant,
                class,
                cost,
                due: false,
                slot: false,
                batch: arrival.batch,
                weight: self.weight(tenant),
            },
        );
        actions.push(Action::Join(job, head));
        if goes {
            actions.push(Action::Go(head));
        }
        true
    }

    /// Who joins a job that is next and does not wait any more: one after the other, whoever would be next of those who may.
    fn mates(&self, head: &Plain) -> Vec<Plain> {
        let Some(batch) = head.arrival.batch else { return Vec::new() };
        let class = head.arrival.class;
        let mut chosen: Vec<Plain> = Vec::new();
        let mut left = batch.rows_max.saturating_sub(batch.rows);
        let mut out: BTreeSet<TenantKey> = BTreeSet::new();
        while left > 0 {
            let taken = |tenant: TenantKey| -> Vec<&Plain> {
                chosen.iter().chain([head]).filter(|plain| plain.arrival.tenant == tenant).collect()
            };
            let may = self.waiting.iter().filter(|plain| {
                let Arrival { job, tenant, class: other, batch: mate, share: _, .. } = plain.arrival;
                other == class
                    && mate.is_some_and(|mate| mate.key == batch.key)
                    && chosen.iter().all(|chosen| chosen.arrival.job != job)
                    && !out.contains(&tenant)
                    && self.runs(tenant) + taken(tenant).len() < self.shares[&tenant].running_max.max(1)
            });
            let next = may.min_by_key(|plain| {
                let tenant = plain.arrival.tenant;
                let moved = taken(tenant).into_iter().map(|plain| {
                    let batch = if plain.arrival.job == head.arrival.job {
                        batch
                    } else {
                        plain.arrival.batch.unwrap()
                    };
                    self.virtual_time(tenant, batch.part_of_full())
                });
                (self.start_of(class, tenant) + moved.sum::<Virtual>(), tenant, plain.place())
            });
            let Some(next) = next.cloned() else { return chosen };
            let rows = next.arrival.batch.unwrap().rows;
            if rows > left {
                out.insert(next.arrival.tenant);
            } else {
                left -= rows;
                chosen.push(next);
            }
        }
        chosen
    }

    fn arrive(&mut self, now: Nanos, mut arrival: Arrival, actions: &mut Vec<Action>) {
        arrival.batch = arrival.batch.map(|batch| self.config.policy.bound(batch));
        let Arrival { job, tenant, class, share, .. } = arrival;
        let had_room = !self.shares.contains_key(&tenant) || self.has_room(tenant);
        self.shares.insert(tenant, share);
        self.hold_or_let_go(tenant);
        if !had_room && self.has_room(tenant) {
            self.expire(now, actions);
            self.fill(now, actions);
        }
        let plain = Plain { arrival, order: self.arrivals };
        let mine = self.waiting.iter().filter(|plain| plain.arrival.tenant == tenant).count();
        if arrival.deadline.is_some_and(|deadline| deadline <= now) {
            actions.push(Action::Expire(job));
        } else if self.joins(now, &arrival, true, actions) {
        } else if self.slots_used() < self.config.slots && self.has_room(tenant) {
            self.come_back(class, tenant);
            self.counts(now, class, arrival.batch);
            self.begin(
                job,
                Running {
                    tenant,
                    class,
                    cost: plain.alone(),
                    due: false,
                    slot: true,
                    batch: arrival.batch,
                    weight: self.weight(tenant),
                },
            );
            let start = if arrival.run_here { Action::RunHere } else { Action::Start };
            actions.push(start(job));
            if !arrival.run_here {
                self.opens(now, &arrival, (arrival.batch.map_or(0, |batch| batch.rows), 1), actions);
            }
        } else if self.joins(now, &arrival, false, actions) {
        } else if self.waiting.len() >= self.config.queue_max {
            actions.push(Action::Refuse(job, Full::Device));
        } else if mine >= self.config.tenant_queue_max.min(share.waiting_max) {
            actions.push(Action::Refuse(job, Full::Tenant));
        } else {
            let wait = self.wait_of(&plain);
            if arrival.deadline.is_some_and(|deadline| now + wait > deadline) {
                return actions.push(Action::Refuse(job, Full::Late(wait)));
            }
            let first = !self
                .waiting
                .iter()
                .any(|other| other.arrival.tenant == tenant && other.arrival.class == class);
            if first {
                self.come_back(class, tenant);
            }
            self.counts(now, class, arrival.batch);
            self.waiting.push(plain);
            self.arrivals += 1;
            self.hold_or_let_go(tenant);
        }
    }

    /// A tenant that may not run more is held up in all classes; one that may again gets no credit for that but for a job.
    fn hold_or_let_go(&mut self, tenant: TenantKey) {
        for class in CLASSES {
            let mine = self
                .waiting
                .iter()
                .filter(|plain| plain.arrival.tenant == tenant && plain.arrival.class == class);
            let first = mine.min_by_key(|plain| plain.place()).map(Plain::cost);
            if !self.has_room(tenant) {
                if first.is_some() {
                    self.held.insert((class, tenant));
                } else {
                    self.held.remove(&(class, tenant));
                }
            } else if self.held.remove(&(class, tenant))
                && let Some(cost) = first
            {
                let one = self.virtual_time(tenant, cost + self.slice());
                let least = self.now[class as usize].saturating_sub(one);
                self.begin_at(class, tenant, least);
                let start = self.start_of(class, tenant);
                self.latest[class as usize] = self.latest[class as usize].max(start);
            }
        }
    }

    /// A pause is no credit.
    fn come_back(&mut self, class: Class, tenant: TenantKey) {
        self.begin_at(class, tenant, self.now[class as usize]);
    }

    fn begin_at(&mut self, class: Class, tenant: TenantKey, at: Virtual) {
        let start = self.start_of(class, tenant);
        if start < at {
            self.since.insert((class, tenant), at);
        }
        self.start.insert((class, tenant), start.max(at));
    }

    fn wait_of(&self, new: &Plain) -> Nanos {
        let Arrival { tenant, class, share, .. } = new.arrival;
        let in_line: Vec<&Plain> =
            self.waiting.iter().filter(|plain| self.has_room(plain.arrival.tenant)).collect();
        let sum = |of: &dyn Fn(&Plain) -> bool| -> Nanos {
            in_line.iter().filter(|plain| of(plain)).map(|plain| plain.cost()).sum()
        };
        let urgent = sum(&|plain| plain.arrival.class < class);
        let all = sum(&|plain| plain.arrival.class == class);
        let mine = self
            .waiting
            .iter()
            .filter(|plain| plain.arrival.class == class && plain.arrival.tenant == tenant);
        let before: Nanos = mine.filter(|plain| plain.place() < new.place()).map(Plain::cost).sum();
        let mut tenants: BTreeSet<TenantKey> = in_line
            .iter()
            .filter(|plain| plain.arrival.class == class)
            .map(|plain| plain.arrival.tenant)
            .collect();
        let all = if tenants.insert(tenant) { all + before } else { all };
        let weights: u64 = tenants.iter().map(|tenant| u64::from(self.shares[tenant].weight.max(1))).sum();
        let stretched = before as u128 * u128::from(weights) / u128::from(share.weight.max(1));
        let own = u64::try_from(stretched).unwrap().min(all);
        let floor = ((own + new.cost()) * 1000).checked_div(self.floor(class)).unwrap_or(Nanos::MAX);
        (own + urgent.min(floor)) / self.config.slots as u64
    }

    /// How far virtual time moves on for a job.
    fn passes(&self, class: Class, tenant: TenantKey, weight: u32, cost: Nanos) -> Virtual {
        Virtual::from(cost) * 1000 / Virtual::from(self.weights_with(class, tenant, weight))
    }

    /// Weights of all who have jobs waiting in a class, and of this one, which is so much if it has none.
    fn weights_with(&self, class: Class, tenant: TenantKey, weight: u32) -> u64 {
        let waiting = self.waiting.iter().filter(|plain| plain.arrival.class == class);
        let tenants: BTreeSet<TenantKey> = waiting.map(|plain| plain.arrival.tenant).collect();
        let own = if tenants.contains(&tenant) { 0 } else { u64::from(weight) };
        tenants.iter().map(|tenant| u64::from(self.weight(*tenant))).sum::<u64>() + own
    }
}

fn at_weight(cost: Nanos, weight: u32) -> Virtual {
    Virtual::from(cost) * 1000 / Virtual::from(weight)
}
