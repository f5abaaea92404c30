// SPDX-License-Identifier: Apache-2.0
//! The scheduler against a model that is too plain to be wrong: lists that are searched from the front.

use std::collections::{BTreeMap, BTreeSet};

use diolkos_types::JobId;
use proptest::prelude::*;

use super::*;

/// What the model knows of a job that waits.
#[derive(Clone, Debug)]
struct Plain {
    arrival: Arrival,
    order: u64,
}

/// The same policy, written without any index: everything is found by looking at all of it.
#[derive(Debug)]
struct Model {
    config: SchedConfig,
    running: Vec<(JobId, TenantKey)>,
    waiting: Vec<Plain>,
    /// Tenants with waiting jobs and room, next one first.
    line: Vec<TenantKey>,
    /// Tenants that had their turn and no room.
    blocked: Vec<TenantKey>,
    /// Jobs that a tenant may run at once, as its last arrival said.
    running_max: BTreeMap<TenantKey, usize>,
    arrivals: u64,
}

impl Model {
    fn step(&mut self, now: Nanos, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Arrive(arrival) => self.arrive(now, arrival, &mut actions),
            Event::Finish(job, tenant) => {
                self.running.retain(|&(running, _)| running != job);
                self.unblock(tenant);
            }
            Event::Cancel(job) => {
                if self.forget(job) {
                    actions.push(Action::Cancelled(job));
                }
            }
            Event::Tick => {}
        }
        self.expire(now, &mut actions);
        self.fill(&mut actions);
        actions
    }

    fn has_room(&self, tenant: TenantKey) -> bool {
        let running = self.running.iter().filter(|&&(_, other)| other == tenant).count();
        running < self.running_max.get(&tenant).copied().unwrap_or(usize::MAX)
    }

    fn unblock(&mut self, tenant: TenantKey) -> bool {
        let unblocked = self.blocked.contains(&tenant) && self.has_room(tenant);
        if unblocked {
            self.blocked.retain(|&other| other != tenant);
            self.line.push(tenant);
        }
        unblocked
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
            self.forget(job);
            actions.push(Action::Expire(job));
        }
    }

    fn fill(&mut self, actions: &mut Vec<Action>) {
        while self.running.len() < self.config.slots && !self.line.is_empty() {
            let tenant = self.line.remove(0);
            if !self.has_room(tenant) {
                self.blocked.push(tenant);
                continue;
            }
            let mine = self.waiting.iter().filter(|plain| plain.arrival.tenant == tenant);
            let first = mine.min_by_key(|plain| (plain.arrival.class, plain.order)).unwrap().arrival.job;
            self.waiting.retain(|plain| plain.arrival.job != first);
            if self.waiting.iter().any(|plain| plain.arrival.tenant == tenant) {
                self.line.push(tenant);
            }
            self.running.push((first, tenant));
            actions.push(Action::Start(first));
        }
    }

    fn arrive(&mut self, now: Nanos, arrival: Arrival, actions: &mut Vec<Action>) {
        self.running_max.insert(arrival.tenant, arrival.share.running_max);
        if self.unblock(arrival.tenant) {
            self.expire(now, actions);
            self.fill(actions);
        }
        let mine = self.waiting.iter().filter(|plain| plain.arrival.tenant == arrival.tenant).count();
        if arrival.deadline.is_some_and(|deadline| deadline <= now) {
            actions.push(Action::Expire(arrival.job));
        } else if self.running.len() < self.config.slots
            && self.line.is_empty()
            && self.has_room(arrival.tenant)
        {
            self.running.push((arrival.job, arrival.tenant));
            let start = if arrival.run_here { Action::RunHere } else { Action::Start };
            actions.push(start(arrival.job));
        } else if self.waiting.len() >= self.config.queue_max {
            actions.push(Action::Refuse(arrival.job, Full::Device));
        } else if mine >= self.config.tenant_queue_max.min(arrival.share.waiting_max) {
            actions.push(Action::Refuse(arrival.job, Full::Tenant));
        } else {
            if mine == 0 {
                self.line.push(arrival.tenant);
            }
            self.waiting.push(Plain { arrival, order: self.arrivals });
            self.arrivals += 1;
        }
    }

    fn forget(&mut self, job: JobId) -> bool {
        let Some(index) = self.waiting.iter().position(|plain| plain.arrival.job == job) else {
            return false;
        };
        let tenant = self.waiting.remove(index).arrival.tenant;
        if !self.waiting.iter().any(|plain| plain.arrival.tenant == tenant) {
            self.line.retain(|&other| other != tenant);
            self.blocked.retain(|&other| other != tenant);
        }
        true
    }
}

/// What a test does next; indices choose among what is there.
#[derive(Clone, Debug)]
enum Move {
    Arrive { tenant: u64, class: Class, deadline_in: Option<u64>, run_here: bool, share: Share },
    Finish { which: usize },
    Cancel { which: usize },
    Pass { time: u64 },
}

fn moves() -> impl Strategy<Value = Move> {
    let class = prop_oneof![Just(Class::Interactive), Just(Class::Standard), Just(Class::Batch)];
    prop_oneof![
        5 => (0u64..4, class, proptest::option::of(0u64..60), any::<bool>(), shares()).prop_map(
            |(tenant, class, deadline_in, run_here, share)| {
                Move::Arrive { tenant, class, deadline_in, run_here, share }
            }
        ),
        4 => any::<usize>().prop_map(|which| Move::Finish { which }),
        1 => any::<usize>().prop_map(|which| Move::Cancel { which }),
        2 => (0u64..40).prop_map(|time| Move::Pass { time }),
    ]
}

fn shares() -> impl Strategy<Value = Share> {
    prop_oneof![
        1 => Just(Share::ALL),
        1 => (1usize..4, 0usize..6).prop_map(|(running_max, waiting_max)| Share { running_max, waiting_max }),
    ]
}

fn without_timers(actions: &[Action]) -> Vec<Action> {
    actions.iter().copied().filter(|action| !matches!(action, Action::WakeAt(_))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn agrees_with_the_plain_model(
        slots in 1usize..4,
        queue_max in 1usize..12,
        tenant_queue_max in 1usize..8,
        moves in proptest::collection::vec(moves(), 0..200),
    ) {
        let config = SchedConfig { slots, queue_max, tenant_queue_max };
        let mut scheduler = Scheduler::new(config);
        let mut model = Model {
            config,
            running: Vec::new(),
            waiting: Vec::new(),
            line: Vec::new(),
            blocked: Vec::new(),
            running_max: BTreeMap::new(),
            arrivals: 0,
        };
        let mut now = 0;
        let mut arrived = 0;
        let mut ends: BTreeMap<JobId, Action> = BTreeMap::new();
        let mut alarm = None;
        for next in moves {
            let event = match next {
                Move::Arrive { tenant, class, deadline_in, run_here, share } => {
                    arrived += 1;
                    let deadline = deadline_in.map(|after| now + after);
                    let (job, tenant) = (JobId(arrived), TenantKey(tenant));
                    Event::Arrive(Arrival { job, tenant, class, deadline, run_here, share })
                }
                Move::Finish { which } if !model.running.is_empty() => {
                    let (job, tenant) = model.running[which % model.running.len()];
                    Event::Finish(job, tenant)
                }
                Move::Finish { .. } => continue,
                Move::Cancel { which } => Event::Cancel(JobId(which as u64 % (arrived + 2))),
                Move::Pass { time } => {
                    now += time;
                    Event::Tick
                }
            };
            let mut actions = Vec::new();
            scheduler.step(now, event, &mut actions);
            let expected = model.step(now, event);
            prop_assert_eq!(without_timers(&actions), expected, "after {:?}", event);
            for action in actions {
                match action {
                    Action::WakeAt(at) => alarm = Some(at),
                    Action::Start(job) | Action::RunHere(job) | Action::Refuse(job, _)
                    | Action::Expire(job) | Action::Cancelled(job) => {
                        prop_assert!(ends.insert(job, action).is_none(), "{job} got two answers");
                    }
                }
            }
            prop_assert_eq!(scheduler.running(), model.running.len());
            prop_assert!(scheduler.running() <= slots);
            let could_run = |plain: &Plain| model.has_room(plain.arrival.tenant);
            prop_assert!(
                scheduler.running() == slots || !model.waiting.iter().any(could_run),
                "a slot idles"
            );
            // Whoever waits with a deadline has an alarm set no later than it.
            let earliest = model.waiting.iter().filter_map(|plain| plain.arrival.deadline).min();
            if let Some(earliest) = earliest {
                prop_assert!(alarm.is_some_and(|at| at <= earliest));
            }
        }
        let waiting: BTreeSet<JobId> = model.waiting.iter().map(|plain| plain.arrival.job).collect();
        for job in (1..=arrived).map(JobId) {
            prop_assert!(ends.contains_key(&job) != waiting.contains(&job), "{job} is lost or answered twice");
        }
    }
}

fn arrival(job: u64, tenant: u64) -> Event {
    Event::Arrive(Arrival {
        job: JobId(job),
        tenant: TenantKey(tenant),
        class: Class::Standard,
        deadline: None,
        run_here: false,
        share: Share::ALL,
    })
}

#[test]
fn tenants_take_turns_however_much_one_of_them_sends() {
    let mut scheduler = Scheduler::new(SchedConfig { slots: 1, queue_max: 100, tenant_queue_max: 100 });
    let mut actions = Vec::new();
    for job in 0..20 {
        scheduler.step(0, arrival(job, 0), &mut actions);
    }
    scheduler.step(0, arrival(100, 1), &mut actions);
    scheduler.step(0, arrival(101, 1), &mut actions);
    actions.clear();
    for job in [0, 1, 100, 2] {
        scheduler.step(0, Event::Finish(JobId(job), TenantKey(u64::from(job >= 100))), &mut actions);
    }
    let started = [1, 100, 2, 101].map(|job| Action::Start(JobId(job)));
    assert_eq!(actions, started);
}

#[test]
fn a_short_job_runs_here_only_on_an_idle_device() {
    let mut scheduler = Scheduler::new(SchedConfig { slots: 1, queue_max: 9, tenant_queue_max: 9 });
    let here = |job| {
        Event::Arrive(Arrival {
            job: JobId(job),
            tenant: TenantKey(0),
            class: Class::Standard,
            deadline: None,
            run_here: true,
            share: Share::ALL,
        })
    };
    let mut actions = Vec::new();
    scheduler.step(0, here(1), &mut actions);
    scheduler.step(0, here(2), &mut actions);
    scheduler.step(0, Event::Finish(JobId(1), TenantKey(0)), &mut actions);
    assert_eq!(actions, [Action::RunHere(JobId(1)), Action::Start(JobId(2))]);
}

#[test]
fn a_tenant_at_its_bound_holds_up_nobody() {
    let mut scheduler = Scheduler::new(SchedConfig { slots: 3, queue_max: 9, tenant_queue_max: 9 });
    let from = |job, tenant, running_max, waiting_max| {
        Event::Arrive(Arrival {
            job: JobId(job),
            tenant: TenantKey(tenant),
            class: Class::Standard,
            deadline: None,
            run_here: false,
            share: Share { running_max, waiting_max },
        })
    };
    let mut actions = Vec::new();
    for job in 1..=4 {
        scheduler.step(0, from(job, 0, 1, 2), &mut actions);
    }
    assert_eq!(actions, [Action::Start(JobId(1)), Action::Refuse(JobId(4), Full::Tenant)]);
    actions.clear();
    scheduler.step(0, from(5, 1, 9, 9), &mut actions);
    assert_eq!(actions, [Action::Start(JobId(5))], "others have the slots that it may not use");
    actions.clear();
    scheduler.step(0, Event::Finish(JobId(1), TenantKey(0)), &mut actions);
    assert_eq!(actions, [Action::Start(JobId(2))]);
    actions.clear();
    // A larger share takes effect with the next arrival, and those who wait go first.
    scheduler.step(0, from(6, 0, 2, 9), &mut actions);
    assert_eq!(actions, [Action::Start(JobId(3))]);
}
