// SPDX-License-Identifier: Apache-2.0
//! The scheduler against a model that is too plain to be wrong, and single rules of it.

use std::collections::{BTreeMap, BTreeSet};

use diolkos_types::JobId;
use proptest::prelude::*;

use super::model::Model;
use super::*;

/// What a test does next; indices choose among what is there.
#[derive(Clone, Debug)]
pub(super) enum Move {
    Arrive {
        tenant: u64,
        class: Class,
        deadline_in: Option<u64>,
        cost: u64,
        batch: Option<Batching>,
        run_here: bool,
        share: Share,
    },
    Finish {
        which: usize,
        took: u64,
    },
    Take {
        which: usize,
    },
    Cancel {
        which: usize,
    },
    Pass {
        time: u64,
    },
}

impl Move {
    /// The same, with longer times.
    fn scaled(self, scale: u64) -> Move {
        match self {
            Move::Arrive { tenant, class, deadline_in, cost, batch, run_here, share } => Move::Arrive {
                tenant,
                class,
                deadline_in: deadline_in.map(|time| time * scale),
                cost: cost * scale,
                batch: batch.map(|batch| Batching {
                    fixed: batch.fixed * scale,
                    per_row: batch.per_row * scale,
                    ..batch
                }),
                run_here,
                share,
            },
            Move::Finish { which, took } => Move::Finish { which, took: took * scale },
            Move::Pass { time } => Move::Pass { time: time * scale },
            Move::Take { .. } | Move::Cancel { .. } => self,
        }
    }
}

pub(super) fn policies() -> impl Strategy<Value = PoolPolicy> {
    prop_oneof![Just(PoolPolicy::Fair), Just(PoolPolicy::Latency), Just(PoolPolicy::Throughput)]
}

fn classes() -> impl Strategy<Value = Class> {
    prop_oneof![Just(Class::Interactive), Just(Class::Standard), Just(Class::Batch)]
}

pub(super) fn moves() -> impl Strategy<Value = Move> {
    let deadline = proptest::option::of(0u64..60_000);
    prop_oneof![
        5 => (0u64..4, classes(), deadline, 0u64..9000, batches(), any::<bool>(), shares()).prop_map(
            |(tenant, class, deadline_in, cost, batch, run_here, share)| {
                Move::Arrive { tenant, class, deadline_in, cost, batch, run_here, share }
            }
        ),
        4 => (any::<usize>(), 0u64..20_000).prop_map(|(which, took)| Move::Finish { which, took }),
        2 => any::<usize>().prop_map(|which| Move::Take { which }),
        1 => any::<usize>().prop_map(|which| Move::Cancel { which }),
        2 => (0u64..40_000).prop_map(|time| Move::Pass { time }),
    ]
}

fn batches() -> impl Strategy<Value = Option<Batching>> {
    let batch = (0u64..2, 1u32..4, 1u32..10, 0u64..6000, 0u64..3000).prop_map(
        |(operation, rows, rows_max, fixed, per_row)| {
            let key = BatchKey { operation, tenant: None };
            Batching { key, rows, rows_max, fixed, per_row }
        },
    );
    proptest::option::weighted(0.6, batch)
}

fn shares() -> impl Strategy<Value = Share> {
    prop_oneof![
        1 => Just(Share::ALL),
        1 => (1usize..4, 0usize..6, 1u32..5).prop_map(|(running_max, waiting_max, weight)| Share {
            running_max,
            waiting_max,
            weight
        }),
    ]
}

fn without_timers(actions: &[Action]) -> Vec<Action> {
    actions.iter().copied().filter(|action| !matches!(action, Action::WakeAt(_))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn agrees_with_the_plain_model(
        slots in 1usize..4,
        queue_max in 1usize..12,
        tenant_queue_max in 1usize..8,
        floors in (0u16..300, 0u16..300),
        policy in policies(),
        scale in prop_oneof![Just(1u64), Just(10_000)],
        moves in proptest::collection::vec(moves(), 0..200),
    ) {
        let floors = FloorShares { standard: floors.0, batch: floors.1 };
        let config = SchedConfig { slots, queue_max, tenant_queue_max, floors, policy, lends: false };
        let mut scheduler = Scheduler::new(config);
        let mut model = Model::new(config);
        let mut now = 0;
        let mut arrived = 0;
        let mut ends: BTreeMap<JobId, Action> = BTreeMap::new();
        let mut alarm = None;
        let mut held: BTreeSet<JobId> = BTreeSet::new();
        for next in moves {
            let event = match next.scaled(scale) {
                Move::Arrive { tenant, class, deadline_in, cost, batch, run_here, share } => {
                    arrived += 1;
                    let deadline = deadline_in.map(|after| now + after);
                    let (job, tenant) = (JobId(arrived), TenantKey(tenant));
                    Event::Arrive(Arrival { job, tenant, class, deadline, cost, batch, run_here, share })
                }
                Move::Finish { which, took } if !model.running.is_empty() => {
                    let (job, _) = model.running[which % model.running.len()];
                    if held.contains(&job) {
                        continue;
                    }
                    Event::Finish(job, took)
                }
                Move::Take { which } if !model.running.is_empty() => {
                    let (job, _) = model.running[which % model.running.len()];
                    if held.contains(&job) {
                        continue;
                    }
                    Event::Taken(job)
                }
                Move::Finish { .. } | Move::Take { .. } => continue,
                Move::Cancel { which } => Event::Cancel(JobId(which as u64 % (arrived + 2))),
                Move::Pass { time } => {
                    now += time;
                    if alarm.is_none_or(|at| at > now) {
                        continue;
                    }
                    alarm = None;
                    Event::Tick
                }
            };
            let mut actions = Vec::new();
            scheduler.step(now, event, &mut actions);
            let expected = model.step(now, event);
            prop_assert_eq!(without_timers(&actions), expected, "after {:?} at {}", event, now);
            for action in actions {
                if let Action::WakeAt(at) = action {
                    alarm = Some(at);
                }
                match action {
                    Action::Hold(head) => prop_assert!(held.insert(head)),
                    Action::Go(head) => prop_assert!(held.remove(&head)),
                    _ => {}
                }
                if let Action::WakeAt(_) | Action::Hold(_) | Action::Go(_) = action {
                    continue;
                }
                let (Action::Start(job) | Action::Join(job, _) | Action::RunHere(job) | Action::Refuse(job, _) | Action::Expire(job)
                    | Action::Cancelled(job)) = action else { unreachable!() };
                prop_assert!(ends.insert(job, action).is_none(), "{job} ended twice");
            }
            prop_assert!(scheduler.slots_used() <= slots);
            for head in &held {
                prop_assert!(scheduler.open.holds(*head), "{head} is held up and nobody knows");
            }
            prop_assert_eq!(scheduler.slots_used(), model.slots_used());
            prop_assert_eq!((scheduler.running(), scheduler.waiting()), (model.running.len(), model.waiting.len()));
            let deadlines = model.waiting.iter().filter_map(|plain| plain.arrival.deadline);
            let first = deadlines.chain(model.first_due()).min();
            prop_assert!(first.is_none() || alarm.is_some_and(|at| Some(at) <= first), "nobody wakes for {first:?}");
            let idle_slot = scheduler.slots_used() < slots;
            let may_run = model.waiting.iter().any(|plain| model.has_room(plain.arrival.tenant));
            prop_assert!(!(idle_slot && may_run), "a slot is free and somebody could use it");
            prop_assert!(scheduler.tenants.len() <= scheduler.running() + scheduler.waiting());
        }
        let waiting: BTreeSet<JobId> = model.waiting.iter().map(|plain| plain.arrival.job).collect();
        for job in (1..=arrived).map(JobId) {
            prop_assert!(ends.contains_key(&job) != waiting.contains(&job), "{job} is lost or answered twice");
        }
    }
}

pub(super) const CONFIG: SchedConfig = SchedConfig {
    slots: 1,
    queue_max: 99,
    tenant_queue_max: 99,
    floors: FloorShares::DEFAULT,
    policy: PoolPolicy::Fair,
    lends: false,
};

pub(super) fn arrival(job: u64, tenant: u64) -> Arrival {
    Arrival {
        job: JobId(job),
        tenant: TenantKey(tenant),
        class: Class::Standard,
        deadline: None,
        cost: 1000,
        batch: None,
        run_here: false,
        share: Share::ALL,
    }
}

fn step(scheduler: &mut Scheduler, now: Nanos, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    scheduler.step(now, event, &mut actions);
    without_timers(&actions)
}

#[test]
fn a_tenant_at_its_bound_holds_up_nobody() {
    let mut scheduler = Scheduler::new(SchedConfig { slots: 3, ..CONFIG });
    let share = Share { running_max: 1, ..Share::ALL };
    for job in 1..=3 {
        step(&mut scheduler, 0, Event::Arrive(Arrival { share, ..arrival(job, 0) }));
    }
    assert_eq!((scheduler.running(), scheduler.waiting()), (1, 2));
    assert_eq!(step(&mut scheduler, 0, Event::Arrive(arrival(100, 1))), [Action::Start(JobId(100))]);
    assert_eq!(step(&mut scheduler, 0, Event::Finish(JobId(1), 5)), [Action::Start(JobId(2))]);
    // The bound is raised by the next that comes, and those who wait go first.
    let actions = step(&mut scheduler, 0, Event::Arrive(arrival(4, 0)));
    assert_eq!(actions, [Action::Start(JobId(3))]);
}

#[test]
fn what_comes_too_late_is_told_at_once_how_long_it_would_wait() {
    let mut scheduler = Scheduler::new(CONFIG);
    for job in 1..=4 {
        step(&mut scheduler, 0, Event::Arrive(Arrival { cost: 10_000, ..arrival(job, 0) }));
    }
    let late = Arrival { deadline: Some(25_000), ..arrival(5, 0) };
    // Deadlines go before jobs without one.
    assert_eq!(step(&mut scheduler, 0, Event::Arrive(late)), []);
    let other = Arrival { deadline: Some(5000), cost: 1000, class: Class::Batch, ..arrival(6, 1) };
    assert_eq!(
        step(&mut scheduler, 0, Event::Arrive(other)),
        [Action::Refuse(JobId(6), Full::Late(20_000))],
        "what is more urgent goes first, but only until the floor is due"
    );
    let urgent = Arrival { deadline: Some(5000), class: Class::Interactive, ..arrival(7, 1) };
    assert_eq!(step(&mut scheduler, 0, Event::Arrive(urgent)), []);
    assert_eq!(step(&mut scheduler, 1, Event::Finish(JobId(1), 1)), [Action::Start(JobId(7))]);
}

#[test]
fn the_earliest_deadline_of_a_tenant_goes_first() {
    let mut scheduler = Scheduler::new(CONFIG);
    step(&mut scheduler, 0, Event::Arrive(arrival(1, 0)));
    for (job, deadline) in [(2, None), (3, Some(90_000)), (4, Some(50_000)), (5, None)] {
        step(&mut scheduler, 0, Event::Arrive(Arrival { deadline, ..arrival(job, 0) }));
    }
    for (running, next) in [(1, 4), (4, 3), (3, 2), (2, 5)] {
        let event = Event::Finish(JobId(running), 1000);
        assert_eq!(step(&mut scheduler, 0, event), [Action::Start(JobId(next))]);
    }
}

#[test]
fn tenants_that_are_gone_are_forgotten() {
    let mut scheduler = Scheduler::new(CONFIG);
    step(&mut scheduler, 0, Event::Arrive(arrival(0, 0)));
    for tenant in 1..10_000 {
        // One after the other, and somebody always waits, so that nobody is forgotten by a pause.
        step(&mut scheduler, 0, Event::Arrive(arrival(tenant, tenant)));
        step(&mut scheduler, 0, Event::Finish(JobId(tenant - 1), 1000));
    }
    assert_eq!(scheduler.tenants.len(), 1);
    let flows = scheduler.classes[Class::Standard as usize].flows();
    assert!(flows < 200, "{flows}");
}

const BATCHING: Batching = Batching {
    key: BatchKey { operation: 1, tenant: None },
    rows: 1,
    rows_max: 8,
    fixed: 8000,
    per_row: 1000,
};

pub(super) fn batched(job: u64, tenant: u64) -> Arrival {
    Arrival { cost: 9000, batch: Some(BATCHING), ..arrival(job, tenant) }
}

/// The jobs of a run, the one that was started first.
fn run(actions: &[Action]) -> Vec<u64> {
    let job = |action: &Action| match *action {
        Action::Start(job) => job.0,
        Action::Join(job, _) => job.0,
        other => panic!("{other:?}"),
    };
    actions.iter().map(job).collect()
}

#[test]
fn what_waits_for_the_same_operation_shares_a_run() {
    let mut scheduler = Scheduler::new(CONFIG);
    let actions = step(&mut scheduler, 0, Event::Arrive(batched(1, 0)));
    assert_eq!(actions, [Action::Start(JobId(1))], "nobody waits for company");
    step(&mut scheduler, 0, Event::Taken(JobId(1)));
    let mut come = |arrival: Arrival| step(&mut scheduler, 0, Event::Arrive(arrival));
    let other = Batching { key: BatchKey { operation: 2, tenant: None }, ..BATCHING };
    let alone = Batching { key: BatchKey { operation: 1, tenant: Some(TenantKey(3)) }, ..BATCHING };
    come(batched(2, 0));
    come(Arrival { batch: Some(other), ..batched(3, 1) });
    come(Arrival { class: Class::Batch, ..batched(4, 1) });
    come(Arrival { batch: Some(alone), ..batched(5, 3) });
    come(arrival(6, 1));
    come(batched(7, 2));
    let actions = step(&mut scheduler, 0, Event::Finish(JobId(1), 9000));
    assert_eq!(run(&actions), [2, 7], "whoever waits for it, of this class and with this key");
    assert_eq!((scheduler.running(), scheduler.slots_used()), (2, 1));
    assert_eq!(step(&mut scheduler, 0, Event::Finish(JobId(7), 5000)), [], "the run goes on");
    assert_eq!(run(&step(&mut scheduler, 0, Event::Finish(JobId(2), 5000))), [3]);
    assert_eq!(run(&step(&mut scheduler, 0, Event::Finish(JobId(3), 9000))), [5]);
    assert_eq!(run(&step(&mut scheduler, 0, Event::Finish(JobId(5), 9000))), [6]);
    assert_eq!(run(&step(&mut scheduler, 0, Event::Finish(JobId(6), 1000))), [4]);
    assert!(scheduler.classes.iter().all(|class| class.keys() == 0));
}

#[test]
fn a_part_of_a_run_is_bounded_by_weight_while_others_want_it() {
    let mut scheduler = Scheduler::new(CONFIG);
    step(&mut scheduler, 0, Event::Arrive(arrival(1, 9)));
    for job in 0..20 {
        step(&mut scheduler, 0, Event::Arrive(batched(100 + job, 1)));
    }
    for job in 0..20 {
        let share = Share { weight: 3, ..Share::ALL };
        step(&mut scheduler, 0, Event::Arrive(Arrival { share, ..batched(200 + job, 2) }));
    }
    step(&mut scheduler, 0, Event::Arrive(batched(300, 3)));
    let first = run(&step(&mut scheduler, 0, Event::Finish(JobId(1), 1000)));
    let of = |run: &[u64], hundred| run.iter().filter(|job| *job / 100 == hundred).count();
    assert_eq!(first.len(), 8, "{first:?}");
    assert_eq!((of(&first, 2), of(&first, 3)), (5, 1), "{first:?}");
    // The slot is free when the job ends that was started, and what is left goes on.
    for job in &first[1..] {
        step(&mut scheduler, 0, Event::Finish(JobId(*job), 2000));
    }
    let second = run(&step(&mut scheduler, 0, Event::Finish(JobId(first[0]), 2000)));
    assert_eq!((of(&second, 1), of(&second, 2)), (2, 6), "{second:?}");
}

#[test]
fn a_tenant_at_its_bound_has_no_larger_part_of_a_run() {
    let mut scheduler = Scheduler::new(CONFIG);
    step(&mut scheduler, 0, Event::Arrive(arrival(1, 9)));
    let share = Share { running_max: 2, ..Share::ALL };
    for job in 10..16 {
        step(&mut scheduler, 0, Event::Arrive(Arrival { share, ..batched(job, 1) }));
    }
    step(&mut scheduler, 0, Event::Arrive(batched(20, 2)));
    let first = run(&step(&mut scheduler, 0, Event::Finish(JobId(1), 1000)));
    assert_eq!(first, [10, 20, 11]);
}

#[test]
fn rows_that_do_not_fit_wait_for_the_next_run() {
    let mut scheduler = Scheduler::new(CONFIG);
    step(&mut scheduler, 0, Event::Arrive(arrival(1, 9)));
    let rows = |rows| Some(Batching { rows, ..BATCHING });
    step(&mut scheduler, 0, Event::Arrive(Arrival { batch: rows(5), ..batched(2, 0) }));
    step(&mut scheduler, 0, Event::Arrive(Arrival { batch: rows(4), ..batched(3, 0) }));
    step(&mut scheduler, 0, Event::Arrive(Arrival { batch: rows(3), ..batched(4, 1) }));
    step(&mut scheduler, 0, Event::Arrive(Arrival { batch: rows(20), ..batched(5, 1) }));
    assert_eq!(run(&step(&mut scheduler, 0, Event::Finish(JobId(1), 1000))), [2, 4]);
    step(&mut scheduler, 0, Event::Finish(JobId(4), 1000));
    assert_eq!(run(&step(&mut scheduler, 0, Event::Finish(JobId(2), 1000))), [3]);
    let actions = step(&mut scheduler, 0, Event::Finish(JobId(3), 1000));
    assert_eq!(run(&actions), [5], "more than a run has is a run");
}

#[test]
fn who_comes_before_a_thread_took_the_run_joins_it() {
    let mut scheduler = Scheduler::new(CONFIG);
    let come = |scheduler: &mut Scheduler, arrival: Arrival| step(scheduler, 0, Event::Arrive(arrival));
    come(&mut scheduler, batched(1, 0));
    let head = JobId(1);
    assert_eq!(come(&mut scheduler, batched(2, 1)), [Action::Join(JobId(2), head)]);
    let urgent = Arrival { class: Class::Interactive, ..batched(3, 0) };
    assert_eq!(come(&mut scheduler, urgent), [], "another class is another run");
    let full = Arrival { share: Share { running_max: 1, ..Share::ALL }, ..batched(4, 1) };
    assert_eq!(come(&mut scheduler, full), [], "not more than its tenant may run");
    step(&mut scheduler, 0, Event::Taken(head));
    assert_eq!(come(&mut scheduler, batched(5, 2)), [], "the run goes on as it is");
    assert_eq!((scheduler.running(), scheduler.slots_used()), (2, 1));
    // One that the thread runs at once that brought it is nobody's to join.
    let mut scheduler = Scheduler::new(CONFIG);
    come(&mut scheduler, Arrival { run_here: true, ..batched(1, 0) });
    assert_eq!(come(&mut scheduler, batched(2, 1)), []);
}

/// A scheduler at which eight clients usually are, and nobody is now.
fn crowded() -> Scheduler {
    let mut scheduler = Scheduler::new(CONFIG);
    for round in 0..20 {
        for client in 0..8 {
            scheduler.step(0, Event::Arrive(batched(10 * round + client, client)), &mut Vec::new());
        }
        let mut running: Vec<JobId> = scheduler.jobs.all_running().collect();
        while let Some(job) = running.pop() {
            let mut actions = Vec::new();
            scheduler.step(5000, Event::Finish(job, 5000), &mut actions);
            running.extend(actions.iter().filter_map(|action| match action {
                Action::Start(job) | Action::Join(job, _) => Some(*job),
                _ => None,
            }));
        }
    }
    assert_eq!((scheduler.running(), scheduler.waiting()), (0, 0));
    scheduler
}

#[test]
fn while_many_are_usual_a_run_waits_a_moment_for_them() {
    let mut scheduler = crowded();
    let mut actions = Vec::new();
    let first = JobId(500);
    scheduler.step(10_000, Event::Arrive(batched(500, 0)), &mut actions);
    // Half of what a run costs whatever its rows.
    assert_eq!(actions, [Action::Start(first), Action::Hold(first), Action::WakeAt(14_000)]);
    assert_eq!(
        step(&mut scheduler, 11_000, Event::Arrive(batched(501, 1))),
        [Action::Join(JobId(501), first)]
    );
    assert_eq!(step(&mut scheduler, 14_000, Event::Tick), [Action::Go(first)], "they don't come");
    // Or until there are as many as usual.
    let mut scheduler = crowded();
    let mut last = Vec::new();
    for job in 500..508 {
        last = step(&mut scheduler, 10_000, Event::Arrive(batched(job, job % 8)));
        if last.contains(&Action::Go(first)) {
            break;
        }
    }
    assert!(matches!(last[..], [Action::Join(..), Action::Go(_)]) && scheduler.running() > 2, "{last:?}");
    // Or until somebody waits for the slot.
    let mut scheduler = crowded();
    step(&mut scheduler, 10_000, Event::Arrive(batched(500, 0)));
    assert_eq!(step(&mut scheduler, 10_001, Event::Arrive(arrival(501, 1))), [Action::Go(first)]);
    // A deadline is not missed for it.
    let mut scheduler = crowded();
    let hurries = Arrival { deadline: Some(12_000), ..batched(500, 0) };
    assert_eq!(step(&mut scheduler, 10_000, Event::Arrive(hurries)), [Action::Start(first)]);
}

#[test]
fn a_run_that_is_held_up_goes_when_another_takes_its_place() {
    let mut scheduler = Scheduler::new(SchedConfig { slots: 2, ..CONFIG });
    let rows = |rows| Some(Batching { rows, rows_max: 16, ..BATCHING });
    // Eight clients are usual.
    for round in 0..20 {
        for client in 0..8 {
            scheduler.step(0, Event::Arrive(batched(10 * round + client, client)), &mut Vec::new());
        }
        while let Some(job) = scheduler.jobs.all_running().min() {
            scheduler.step(0, Event::Finish(job, 5000), &mut Vec::new());
        }
    }
    let first = JobId(500);
    let actions = step(&mut scheduler, 10, Event::Arrive(Arrival { batch: rows(10), ..batched(500, 0) }));
    assert_eq!(actions, [Action::Start(first), Action::Hold(first)]);
    // It does not fit, and begins a run of its own in the other slot.
    let actions = step(&mut scheduler, 10, Event::Arrive(Arrival { batch: rows(8), ..batched(501, 1) }));
    assert!(
        actions.contains(&Action::Start(JobId(501))) && actions.contains(&Action::Go(first)),
        "{actions:?}"
    );
}

#[test]
fn what_was_usual_is_forgotten() {
    let mut scheduler = crowded();
    let later = 10_000 + 60 * crowd::HOLD_MAX;
    let actions = step(&mut scheduler, later, Event::Arrive(batched(500, 0)));
    assert_eq!(actions, [Action::Start(JobId(500))], "nobody is held up by those who left");
    // Who hurries is not held up with others.
    let mut scheduler = crowded();
    step(&mut scheduler, 10_000, Event::Arrive(batched(500, 0)));
    let hurries = Arrival { deadline: Some(12_000), ..batched(501, 1) };
    let actions = step(&mut scheduler, 10_000, Event::Arrive(hurries));
    assert_eq!(actions, [Action::Join(JobId(501), JobId(500)), Action::Go(JobId(500))]);
}
