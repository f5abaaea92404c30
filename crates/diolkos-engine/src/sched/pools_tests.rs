// SPDX-License-Identifier: Apache-2.0
//! What is promised of pools, and single rules of lending.

use std::collections::{BTreeMap, BTreeSet};

use diolkos_types::JobId;
use proptest::prelude::*;

use super::tests::{CONFIG, Move, arrival, batched, moves, policies};
use super::*;

/// What a device would know: which runs there are, and where.
#[derive(Debug, Default)]
struct Seen {
    /// Of each job that came: its pool.
    pool: BTreeMap<JobId, usize>,
    waiting: BTreeSet<JobId>,
    /// Of each run: whose slot it has, and its jobs, the first one first.
    runs: BTreeMap<JobId, (usize, Vec<JobId>)>,
    held: BTreeSet<JobId>,
    ends: BTreeSet<JobId>,
    alarm: Option<Nanos>,
}

impl Seen {
    fn carry_out(&mut self, plan: &[Planned]) {
        for &Planned { action, slot } in plan {
            match action {
                Action::Start(job) | Action::RunHere(job) => {
                    self.began(job);
                    assert!(self.runs.insert(job, (slot, vec![job])).is_none());
                }
                Action::Join(job, head) => {
                    self.began(job);
                    let (of, jobs) = self.runs.get_mut(&head).expect("it joins a run");
                    assert_eq!((*of, self.pool[&job]), (slot, self.pool[&head]));
                    jobs.push(job);
                }
                Action::Hold(head) => {
                    assert_eq!(self.runs[&head].0, self.pool[&head], "nobody holds up a slot of others");
                    assert!(self.held.insert(head));
                }
                Action::Go(head) => {
                    assert_eq!(self.runs[&head].0, slot);
                    assert!(self.held.remove(&head));
                }
                Action::Refuse(job, _) | Action::Expire(job) | Action::Cancelled(job) => self.began(job),
                Action::WakeAt(at) => self.alarm = Some(at),
            }
        }
    }

    /// A run ends with the job that it began with.
    fn ends(&mut self, event: Event) {
        if let Event::Finish(job, _) = event {
            self.runs.remove(&job);
        }
    }

    /// It waits no more.
    fn began(&mut self, job: JobId) {
        self.waiting.remove(&job);
        assert!(self.ends.insert(job), "{job} has two ends");
    }

    fn runs_on(&self, slot: usize) -> impl Iterator<Item = JobId> {
        self.runs.iter().filter(move |(_, (of, _))| *of == slot).map(|(head, _)| *head)
    }
}

/// The event of a move, with the pool that it is for.
fn event_of(next: &Move, seen: &mut Seen, now: &mut Nanos, pools: usize) -> Option<Vec<(usize, Event)>> {
    let run = |which: usize| {
        seen.runs.keys().filter(|head| !seen.held.contains(head)).nth(which % seen.runs.len().max(1))
    };
    Some(match *next {
        Move::Arrive { tenant, class, deadline_in, cost, batch, run_here, share } => {
            let job = JobId(seen.pool.len() as u64 + 1);
            let (pool, deadline) = (cost as usize % pools, deadline_in.map(|after| *now + after));
            seen.pool.insert(job, pool);
            seen.waiting.insert(job);
            let tenant = TenantKey(tenant);
            vec![(
                pool,
                Event::Arrive(Arrival { job, tenant, class, deadline, cost, batch, run_here, share }),
            )]
        }
        Move::Finish { which, took } => {
            let head = *run(which)?;
            let (_, jobs) = &seen.runs[&head];
            jobs.iter().rev().copied().map(|job| (seen.pool[&job], Event::Finish(job, took))).collect()
        }
        Move::Take { which } => {
            let head = *run(which)?;
            vec![(seen.pool[&head], Event::Taken(head))]
        }
        Move::Cancel { which } => {
            let job = JobId(which as u64 % (seen.pool.len() as u64 + 1));
            vec![(*seen.pool.get(&job)?, Event::Cancel(job))]
        }
        Move::Pass { time } => {
            *now += time;
            seen.alarm.take_if(|at| *at <= *now)?;
            vec![(0, Event::Tick)]
        }
    })
}

fn configs(lends: impl Strategy<Value = bool>) -> impl Strategy<Value = Vec<SchedConfig>> {
    let config = (1usize..4, policies(), lends).prop_map(|(slots, policy, lends)| SchedConfig {
        slots,
        policy,
        lends,
        queue_max: 8,
        ..CONFIG
    });
    proptest::collection::vec(config, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn slots_are_lent_and_come_back(
        configs in configs(any::<bool>()),
        moves in proptest::collection::vec(moves(), 0..200),
    ) {
        let mut pools = Pools::new(&configs);
        let mut seen = Seen::default();
        let mut now = 0;
        for next in moves {
            let Some(events) = event_of(&next, &mut seen, &mut now, configs.len()) else { continue };
            for (pool, event) in events {
                let wanted_before: Vec<bool> = pools.each().map(Scheduler::wants_slot).collect();
                let mut plan = Vec::new();
                pools.step(now, pool, event, &mut plan);
                seen.ends(event);
                seen.carry_out(&plan);
                for (owner, config) in configs.iter().enumerate() {
                    let runs: Vec<JobId> = seen.runs_on(owner).collect();
                    prop_assert!(runs.len() <= config.slots, "{runs:?} on the slots of {owner}");
                    let own = |head: &&JobId| seen.pool[*head] == owner;
                    prop_assert!(config.lends || runs.iter().filter(own).count() == runs.len());
                    prop_assert_eq!(pools.of(owner).lent(), runs.len() - runs.iter().filter(own).count());
                    // What began on a slot while its owner wanted one is the owner's.
                    let begun = plan.iter().find(|planned| planned.slot == owner && matches!(planned.action, Action::Start(_) | Action::RunHere(_)));
                    if let Some(Planned { action: Action::Start(head) | Action::RunHere(head), .. }) = begun {
                        let wanted = wanted_before[owner] && pools.of(owner).wants_slot();
                        prop_assert!(!wanted || seen.pool[head] == owner, "{head} took what {owner} waits for");
                    }
                }
                let idle = |config: &SchedConfig, scheduler: &Scheduler| config.lends && !scheduler.is_full();
                let may_lend = configs.iter().zip(pools.each()).any(|(config, scheduler)| idle(config, scheduler));
                prop_assert!(!(may_lend && pools.each().any(Scheduler::wants_slot)), "a slot is idle that somebody wants");
                prop_assert!(pools.each().all(|scheduler| scheduler.is_full() || !scheduler.wants_slot()));
                let held = |head: &JobId| configs[seen.pool[head]].lends;
                prop_assert!(!(pools.each().any(Scheduler::wants_slot) && seen.held.iter().any(held)), "a slot is held up that somebody wants");
                let due = pools.each().filter_map(Scheduler::first_due).min();
                prop_assert!(due.is_none() || seen.alarm.is_some_and(|at| Some(at) <= due), "nobody wakes for {due:?}");
                prop_assert_eq!(pools.waiting(), seen.waiting.len());
            }
        }
        let running: usize = seen.runs.values().map(|(_, jobs)| jobs.len()).sum();
        prop_assert_eq!(pools.each().map(Scheduler::running).sum::<usize>(), running);
    }

    #[test]
    fn pools_that_lend_nothing_know_nothing_of_each_other(
        configs in configs(Just(false)),
        moves in proptest::collection::vec(moves(), 0..200),
    ) {
        let mut pools = Pools::new(&configs);
        let mut apart: Vec<Scheduler> = configs.iter().map(|config| Scheduler::new(*config)).collect();
        let mut seen = Seen::default();
        let mut now = 0;
        for next in moves {
            let Some(events) = event_of(&next, &mut seen, &mut now, configs.len()) else { continue };
            for (pool, event) in events {
                if let Event::Tick = event {
                    continue;
                }
                let (mut plan, mut actions) = (Vec::new(), Vec::new());
                pools.step(now, pool, event, &mut plan);
                seen.ends(event);
                seen.carry_out(&plan);
                apart[pool].step(now, event, &mut actions);
                let without_timer = |action: &Action| !matches!(action, Action::WakeAt(_));
                actions.retain(without_timer);
                let planned: Vec<Action> = plan.iter().map(|planned| planned.action).filter(without_timer).collect();
                prop_assert_eq!(planned, actions, "after {:?} in {}", event, pool);
                prop_assert!(plan.iter().all(|planned| planned.slot == pool || !without_timer(&planned.action)));
            }
        }
    }
}

fn step(pools: &mut Pools, pool: usize, event: Event) -> Vec<(Action, usize)> {
    let mut plan = Vec::new();
    pools.step(0, pool, event, &mut plan);
    plan.iter().map(|planned| (planned.action, planned.slot)).collect()
}

fn two_pools(first_lends: bool) -> Pools {
    Pools::new(&[SchedConfig { lends: first_lends, ..CONFIG }, CONFIG])
}

#[test]
fn an_idle_slot_is_lent_for_one_run() {
    let mut pools = two_pools(true);
    let mut step = |pool, event| step(&mut pools, pool, event);
    assert_eq!(step(1, Event::Arrive(arrival(1, 1))), [(Action::Start(JobId(1)), 1)]);
    let here = Arrival { run_here: true, ..arrival(2, 1) };
    assert_eq!(step(1, Event::Arrive(here)), [(Action::RunHere(JobId(2)), 0)], "on a slot of the other pool");
    assert_eq!(step(1, Event::Arrive(arrival(3, 1))), []);
    // Its owner's job waits for that one run, and goes before what waits elsewhere.
    assert_eq!(step(0, Event::Arrive(arrival(4, 0))), []);
    assert_eq!(step(1, Event::Finish(JobId(2), 1000)), [(Action::Start(JobId(4)), 0)]);
    // Then it is lent anew, to who waits.
    assert_eq!(step(0, Event::Finish(JobId(4), 1000)), [(Action::Start(JobId(3)), 0)]);
    assert_eq!(step(1, Event::Finish(JobId(1), 1000)), []);
    assert_eq!(step(1, Event::Finish(JobId(3), 1000)), []);
    assert_eq!(pools.of(0).lent(), 0);
}

#[test]
fn what_is_not_lent_is_idle_and_there_at_once() {
    let mut pools = two_pools(false);
    let mut step = |pool, event| step(&mut pools, pool, event);
    step(1, Event::Arrive(arrival(1, 1)));
    assert_eq!(step(1, Event::Arrive(arrival(2, 1))), []);
    assert_eq!(step(0, Event::Arrive(arrival(3, 0))), [(Action::Start(JobId(3)), 0)]);
    assert_eq!(step(1, Event::Finish(JobId(1), 1000)), [(Action::Start(JobId(2)), 1)]);
}

#[test]
fn a_deadline_that_a_lent_slot_meets_is_no_reason_to_refuse() {
    let mut pools = two_pools(true);
    let mut step = |pool, event| step(&mut pools, pool, event);
    step(1, Event::Arrive(Arrival { cost: 1_000_000, ..arrival(1, 1) }));
    step(0, Event::Arrive(arrival(2, 0)));
    step(1, Event::Arrive(Arrival { cost: 1_000_000, ..arrival(3, 1) }));
    step(0, Event::Finish(JobId(2), 1000));
    // The slot went to the job that waited; with the next it is the same.
    step(1, Event::Finish(JobId(3), 1000));
    let hurries = Arrival { deadline: Some(500), ..arrival(4, 1) };
    assert_eq!(step(1, Event::Arrive(hurries)), [(Action::Start(JobId(4)), 0)]);
}

#[test]
fn who_borrowed_longest_ago_is_lent_to_first() {
    let mut pools = Pools::new(&[SchedConfig { lends: true, ..CONFIG }, CONFIG, CONFIG]);
    let mut step = |pool, event| step(&mut pools, pool, event);
    step(1, Event::Arrive(arrival(1, 1)));
    step(2, Event::Arrive(arrival(2, 2)));
    step(0, Event::Arrive(arrival(3, 0)));
    for job in 4..8 {
        step(1, Event::Arrive(arrival(job, 1)));
        step(2, Event::Arrive(arrival(10 + job, 2)));
    }
    let mut lent = Vec::new();
    let (mut pool, mut running) = (0, JobId(3));
    for _ in 0..4 {
        let plan = step(pool, Event::Finish(running, 1000));
        let [(Action::Start(next), 0)] = plan[..] else { panic!("{plan:?}") };
        (pool, running) = (if next.0 < 10 { 1 } else { 2 }, next);
        lent.push(pool);
    }
    assert_eq!(lent, [1, 2, 1, 2]);
}

#[test]
fn where_throughput_counts_a_tenant_goes_on_for_a_while() {
    let ms = 1_000_000;
    let job = |job, tenant| Arrival { cost: 10 * ms, ..arrival(job, tenant) };
    let order = |policy| {
        let mut pools = Pools::new(&[SchedConfig { policy, ..CONFIG }]);
        step(&mut pools, 0, Event::Arrive(arrival(1, 9)));
        for n in 0..20 {
            step(&mut pools, 0, Event::Arrive(job(100 + n, 1)));
            step(&mut pools, 0, Event::Arrive(job(200 + n, 2)));
        }
        let (mut running, mut order) = (JobId(1), Vec::new());
        for _ in 0..24 {
            let plan = step(&mut pools, 0, Event::Finish(running, 10 * ms));
            let [(Action::Start(next), 0)] = plan[..] else { panic!("{plan:?}") };
            running = next;
            order.push(next.0 / 100);
        }
        order
    };
    let turns = |order: &[u64]| order.chunk_by(|one, next| one == next).map(<[u64]>::len).collect::<Vec<_>>();
    assert_eq!(turns(&order(PoolPolicy::Fair)), [1; 24]);
    // The first is 50 ms ahead then, and each of the others begins as much behind.
    assert_eq!(turns(&order(PoolPolicy::Throughput)), [5, 10, 9]);
}

#[test]
fn a_slot_of_others_is_not_held_up_for_company() {
    // Eight clients are usual in the second pool, and nobody is there now.
    let crowded = || {
        let mut pools = two_pools(true);
        for round in 0..20 {
            let mut running = Vec::new();
            let note = |plan: Vec<(Action, usize)>, running: &mut Vec<JobId>| {
                running.extend(plan.into_iter().filter_map(|(action, _)| match action {
                    Action::Start(job) | Action::Join(job, _) => Some(job),
                    _ => None,
                }));
            };
            for client in 0..8 {
                let plan = step(&mut pools, 1, Event::Arrive(batched(10 * round + client, client)));
                note(plan, &mut running);
            }
            while let Some(job) = running.pop() {
                let plan = step(&mut pools, 1, Event::Finish(job, 5000));
                note(plan, &mut running);
            }
        }
        pools
    };
    let first = JobId(500);
    let actions = step(&mut crowded(), 1, Event::Arrive(batched(500, 0)));
    assert!(actions.contains(&(Action::Hold(first), 1)), "in its own slot it is: {actions:?}");
    let mut pools = crowded();
    step(&mut pools, 1, Event::Arrive(arrival(400, 1)));
    assert_eq!(step(&mut pools, 1, Event::Arrive(batched(500, 0))), [(Action::Start(first), 0)]);
}
