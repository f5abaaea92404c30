// SPDX-License-Identifier: Apache-2.0
//! What is promised of shares, waits and floors, in simulated time; and random faults. Every run is told by its seed.

use super::sim::{Load, MS, Predicted, Random, SECOND, Sender, Served, Stuck, Takes, jain, simulate};
use super::*;

fn config(slots: usize) -> SchedConfig {
    SchedConfig { slots, queue_max: 100_000, tenant_queue_max: 100_000, ..super::tests::CONFIG }
}

/// How many jobs are simulated with random faults and loads, and with which seed.
fn asked() -> (u64, u64) {
    let number = |name: &str, else_: u64| std::env::var(name).map_or(else_, |text| text.parse().unwrap());
    (number("DIOLKOS_SIM_JOBS", 200_000), number("DIOLKOS_SIM_SEED", 1))
}

fn batch(takes: Nanos, weight: u32, outstanding: usize) -> Sender {
    Sender {
        tenant: TenantKey(0),
        pool: 0,
        class: Class::Batch,
        share: Share { weight, ..Share::ALL },
        takes: Takes::Fixed(takes),
        predicted: Predicted::Always(takes, 0),
        deadline: None,
        cancelled: 0,
        batch: None,
        load: Load::Outstanding(outstanding),
    }
}

/// Each sender is a tenant.
fn run(slots: usize, senders: &[Sender], until: Nanos, seed: u64) -> Vec<Served> {
    let with_tenant =
        |(index, sender): (usize, &Sender)| Sender { tenant: TenantKey(index as u64), ..sender.clone() };
    let senders: Vec<Sender> = senders.iter().enumerate().map(with_tenant).collect();
    simulate(&[config(slots)], &senders, &[], until, seed)
}

#[test]
fn equal_tenants_get_equal_device_time_whatever_their_jobs_take() {
    for (seed, slots) in [(1, 1), (2, 2), (3, 4)] {
        // One has a hundred jobs there, one a few, one lies about what they take.
        let senders = [
            batch(MS, 1, 100),
            batch(4 * MS, 1, 8),
            Sender { predicted: Predicted::Always(1000, 0), ..batch(16 * MS, 1, 8) },
            batch(64 * MS, 1, 8),
        ];
        let served = run(slots, &senders, 200 * SECOND, seed);
        let index = jain(served.iter().map(|served| served.device as f64));
        assert!(index >= 0.99, "seed {seed}, {slots} slots: {index}");
        let used: Nanos = served.iter().map(|served| served.device).sum();
        assert!(used > 199 * SECOND * slots as u64, "work is conserved: {used}");
    }
}

#[test]
fn where_throughput_counts_shares_hold_too() {
    let pool = |slots| [SchedConfig { policy: PoolPolicy::Throughput, ..config(slots) }];
    let tenants = |senders: &[Sender]| -> Vec<Sender> {
        let tenant =
            |(index, sender): (usize, &Sender)| Sender { tenant: TenantKey(index as u64), ..sender.clone() };
        senders.iter().enumerate().map(tenant).collect()
    };
    // One that may run a job at a time, and always has more.
    let bounded = Sender { share: Share { running_max: 1, ..Share::ALL }, ..batch(MS, 1, 16) };
    for (slots, wanted) in [(1, 0.5), (2, 0.5), (4, 0.25)] {
        let served =
            simulate(&pool(slots), &tenants(&[batch(MS, 1, 64), bounded.clone()]), &[], 60 * SECOND, 5);
        let share = served[1].device as f64 / (served[0].device + served[1].device) as f64;
        assert!((share / wanted - 1.0).abs() < 0.05, "{slots} slots: {share}");
    }
    let weighted = tenants(&[batch(MS, 1, 16), batch(3 * MS, 2, 16), batch(7 * MS, 4, 16)]);
    let served = simulate(&pool(2), &weighted, &[], 100 * SECOND, 7);
    let total: Nanos = served.iter().map(|served| served.device).sum();
    for (served, weight) in served.iter().zip([1.0, 2.0, 4.0]) {
        let off = served.device as f64 / total as f64 / (weight / 7.0) - 1.0;
        assert!(off.abs() < 0.03, "weight {weight}: {off}");
    }
    // Tenants that come for one job each keep nobody out.
    let mut senders = vec![batch(MS, 1, 16)];
    senders.extend((0..40).map(|_| Sender { load: Load::Poisson(20 * MS), ..batch(MS, 1, 0) }));
    let served = simulate(&pool(1), &tenants(&senders), &[], 20 * SECOND, 9);
    assert!(served[0].device > SECOND / 5, "{}", served[0].device);
}

#[test]
fn weights_are_shares() {
    for slots in [1, 2] {
        let senders = [batch(MS, 1, 16), batch(3 * MS, 2, 16), batch(2 * MS, 4, 16)];
        let served = run(slots, &senders, 100 * SECOND, 7);
        let total: Nanos = served.iter().map(|served| served.device).sum();
        for (served, weight) in served.iter().zip([1.0, 2.0, 4.0]) {
            let (share, wanted) = (served.device as f64 / total as f64, weight / 7.0);
            assert!((share / wanted - 1.0).abs() < 0.03, "{slots} slots, weight {weight}: {share}");
        }
    }
}

#[test]
fn somebody_who_waits_for_an_answer_waits_for_one_job_at_most() {
    let asks = Sender { class: Class::Interactive, load: Load::Poisson(40 * MS), ..batch(MS, 1, 0) };
    let mut served = run(1, &[asks, batch(10 * MS, 1, 32)], 200 * SECOND, 3);
    let (used, p99) = (served[0].device, served[0].wait(0.99));
    // Now and then two come at once.
    assert!(p99 <= 12 * MS, "{p99}");
    assert!(served[1].device >= (200 * SECOND - used) * 9 / 10, "{served:?}", served = served[1].device);
}

#[test]
fn nobody_starves_and_the_floor_is_kept() {
    let saturates = Sender { class: Class::Interactive, ..batch(MS, 1, 8) };
    let standard = Sender { class: Class::Standard, ..batch(2 * MS, 1, 8) };
    let mut served = run(1, &[saturates, standard, batch(7 * MS, 1, 4)], 100 * SECOND, 5);
    let total: Nanos = served.iter().map(|served| served.device).sum();
    let share = |served: &Served| served.device as f64 / total as f64;
    // A tenth and a twentieth of what the others are served.
    assert!((share(&served[1]) - 0.091).abs() < 0.01, "{}", share(&served[1]));
    assert!((share(&served[2]) - 0.0476).abs() < 0.006, "{}", share(&served[2]));
    let longest = served[2].waits.iter().max().unwrap();
    assert!(*longest < 2 * SECOND, "{longest}");
    assert!(served[0].wait(0.99) < 20 * MS);
}

/// Predictions miss by five percent.
fn noisy(sender: Sender) -> Sender {
    Sender { predicted: Predicted::Always(sender.takes.mean(), 5), ..sender }
}

#[test]
fn predictions_that_miss_a_little_change_no_shares() {
    for (long, short, weight) in [(10 * MS, MS, 1), (10 * MS, MS / 10, 1), (100 * MS, MS, 3)] {
        let senders = [noisy(batch(long, 1, 8)), noisy(batch(short, weight, 8))];
        let served = run(1, &senders, 100 * SECOND, 11);
        let share = served[0].device as f64 / (served[0].device + served[1].device) as f64;
        let wanted = 1.0 / f64::from(1 + weight);
        assert!((share / wanted - 1.0).abs() < 0.03, "{long} and {short}: {share}");
    }
}

#[test]
fn a_floor_is_no_way_to_run_long_jobs_as_short_ones() {
    let saturates = Sender { class: Class::Interactive, ..batch(MS, 1, 8) };
    let lies = Sender { predicted: Predicted::Always(MS, 0), ..batch(100 * MS, 1, 4) };
    let served = run(1, &[saturates, lies], 200 * SECOND, 13);
    let share = served[1].device as f64 / (served[0].device + served[1].device) as f64;
    assert!(share < 0.06, "{share}");
}

#[test]
fn deadlines_do_not_keep_a_class_from_its_floor() {
    let saturates = Sender { class: Class::Interactive, ..batch(MS, 1, 800) };
    let hurries = Sender { deadline: Some(SECOND), ..batch(10 * MS, 1, 2) };
    let served = run(1, &[saturates, hurries], 100 * SECOND, 17);
    let share = served[1].device as f64 / (served[0].device + served[1].device) as f64;
    assert!(share > 0.04, "{share}, {} were late", served[1].late);
}

/// One prediction for jobs that take very different times: too high for one, too low for another.
#[test]
fn predictions_that_are_always_wrong_change_no_shares() {
    let wrong =
        |takes, weight| Sender { predicted: Predicted::Always(2 * MS, 50), ..batch(takes, weight, 32) };
    for slots in [1, 2] {
        let senders = [wrong(MS, 1), wrong(3 * MS, 2), wrong(MS / 2, 4)];
        let served = run(slots, &senders, 50 * SECOND, 19);
        let total: Nanos = served.iter().map(|served| served.device).sum();
        for (served, weight) in served.iter().zip([1.0, 2.0, 4.0]) {
            let off = served.device as f64 / total as f64 / (weight / 7.0) - 1.0;
            assert!(off.abs() < 0.03, "{slots} slots, weight {weight}: {off}");
        }
        // Somebody who comes now and then is not sent behind everybody.
        let rare = Sender { load: Load::Poisson(50 * MS), ..wrong(MS, 1) };
        let mut served = run(slots, &[wrong(MS / 2, 1), wrong(MS / 2, 1), rare], 50 * SECOND, 23);
        assert!(served[2].wait(0.99) < 10 * MS, "{}", served[2].wait(0.99));
    }
}

#[test]
fn shares_hold_with_heavy_tails_bursts_cancellations_and_a_slot_that_hangs() {
    let learned = |sender: Sender| Sender { predicted: Predicted::Learned, ..sender };
    let senders = [
        learned(Sender { takes: Takes::HeavyTailed(2 * MS), ..batch(0, 1, 16) }),
        learned(Sender { load: Load::Bursts(400, 400 * MS), ..batch(2 * MS, 1, 0) }),
        learned(Sender { cancelled: 300, ..batch(3 * MS, 1, 16) }),
        learned(Sender { takes: Takes::About(5 * MS, 60), ..batch(0, 1, 16) }),
    ];
    let tenants: Vec<Sender> = senders
        .iter()
        .enumerate()
        .map(|(index, sender)| Sender { tenant: TenantKey(index as u64), ..sender.clone() })
        .collect();
    for seed in 1..=3 {
        let stuck = [Stuck { at: 50 * SECOND, lasts: 2 * SECOND }, Stuck { at: 90 * SECOND, lasts: SECOND }];
        let served = simulate(&[config(2)], &tenants, &stuck, 400 * SECOND, seed);
        let index = jain(served.iter().map(|served| served.device as f64));
        assert!(index >= 0.99, "seed {seed}: {index}");
        assert!(served[2].cancelled > 1000, "seed {seed}");
    }
}

#[test]
fn a_shared_run_serves_more_and_splits_by_weight() {
    let key = BatchKey { operation: 0, tenant: None };
    let together = Batching { key, rows: 1, rows_max: 16, fixed: 900_000, per_row: 100_000 };
    let sends = |weight, batch| Sender { batch, ..batch_of_one(weight) };
    let alone = run(1, &[sends(1, None), sends(3, None)], 50 * SECOND, 1);
    let both = run(1, &[sends(1, Some(together)), sends(3, Some(together))], 50 * SECOND, 1);
    let done = |served: &[Served]| served.iter().map(|served| served.done).sum::<u64>() as f64;
    // 16 rows take 2.5 ms instead of 16 ms.
    assert!(done(&both) / done(&alone) > 6.0, "{} and {}", done(&both), done(&alone));
    let share = both[1].device as f64 / (both[0].device + both[1].device) as f64;
    assert!((share - 0.75).abs() < 0.02, "{share}");
}

fn batch_of_one(weight: u32) -> Sender {
    batch(MS, weight, 64)
}

/// Whatever happens, each job ends once, no slot is left unused, and nothing is kept of those who are gone.
#[test]
fn random_faults_break_no_invariant() {
    let (jobs, seed) = asked();
    let pool = |slots, policy, lends| SchedConfig {
        slots,
        policy,
        lends,
        queue_max: 500,
        tenant_queue_max: 100,
        ..super::tests::CONFIG
    };
    break_nothing(&[pool(3, PoolPolicy::Fair, false)], jobs, seed);
    let lending = [
        pool(1, PoolPolicy::Latency, true),
        pool(3, PoolPolicy::Fair, true),
        pool(2, PoolPolicy::Throughput, false),
    ];
    break_nothing(&lending, jobs, seed);
}

fn break_nothing(configs: &[SchedConfig], jobs: u64, seed: u64) {
    let mut random = Random::new(seed);
    let mut pools = Pools::new(configs);
    let slots: usize = configs.iter().map(|config| config.slots).sum();
    // Jobs are dealt out to pools.
    let pool_of = |job: JobId| job.0 as usize % configs.len();
    let (mut now, mut job) = (0, 0);
    let mut running: Vec<JobId> = Vec::new();
    let mut open: std::collections::HashSet<JobId> = std::collections::HashSet::new();
    let mut actions = Vec::new();
    let mut alarm: Option<Nanos> = None;
    let mut held: std::collections::HashSet<JobId> = std::collections::HashSet::new();
    while job < jobs || !open.is_empty() {
        let choice = random.below(100);
        let event = if job < jobs && choice < 45 {
            job += 1;
            open.insert(JobId(job));
            let deadline = (random.below(3) == 0).then(|| now + random.exponential(20 * MS));
            Event::Arrive(Arrival {
                job: JobId(job),
                // Tenants come and go.
                tenant: TenantKey(job / 5000 + random.below(20)),
                class: CLASSES[random.below(3) as usize],
                deadline,
                cost: random.exponential(MS),
                batch: (random.below(2) == 0).then(|| Batching {
                    key: BatchKey { operation: random.below(3), tenant: None },
                    rows: 1 + random.below(4) as u32,
                    rows_max: 16,
                    fixed: MS,
                    per_row: MS / 8,
                }),
                run_here: random.below(2) == 0,
                share: Share {
                    running_max: 1 + random.below(4) as usize,
                    waiting_max: 100,
                    weight: 1 + random.below(9) as u32,
                },
            })
        } else if choice < 48 && !running.is_empty() {
            let job = running[random.below(running.len() as u64) as usize];
            if held.contains(&job) {
                continue;
            }
            Event::Taken(job)
        } else if choice < 50 {
            Event::Cancel(JobId(job.saturating_sub(random.below(50))))
        } else if !running.is_empty() {
            // The first slot gets stuck now and then: the others go on.
            let first = usize::from(running.len() > 1 && random.below(50) != 0 && choice < 60);
            let at = first + random.below((running.len() - first) as u64) as usize;
            if held.contains(&running[at]) {
                // What is held up does not run, but it goes when it is time.
                now = alarm.map_or(now, |at| now.max(at));
                continue;
            }
            Event::Finish(running.swap_remove(at), random.exponential(2 * MS))
        } else if alarm.is_some_and(|at| at <= now) {
            alarm = None;
            Event::Tick
        } else {
            now += random.exponential(MS);
            continue;
        };
        now += random.below(20_000);
        actions.clear();
        let of = match event {
            Event::Arrive(Arrival { job, .. })
            | Event::Taken(job)
            | Event::Finish(job, _)
            | Event::Cancel(job) => job,
            Event::Tick => JobId(0),
        };
        pools.step(now, pool_of(of), event, &mut actions);
        for planned in &actions {
            match planned.action {
                Action::Start(job) | Action::Join(job, _) | Action::RunHere(job) => {
                    assert!(open.remove(&job), "seed {seed}: {job} ended twice");
                    running.push(job);
                }
                Action::Refuse(job, _) | Action::Expire(job) | Action::Cancelled(job) => {
                    assert!(open.remove(&job), "seed {seed}: {job} ended twice");
                }
                Action::WakeAt(at) => alarm = Some(at),
                Action::Hold(job) => assert!(held.insert(job), "seed {seed}"),
                Action::Go(job) => assert!(held.remove(&job), "seed {seed}"),
            }
        }
        let sum = |of: fn(&Scheduler) -> usize| pools.each().map(of).sum::<usize>();
        assert_eq!((sum(Scheduler::running), pools.waiting()), (running.len(), open.len()), "seed {seed}");
        assert!(sum(Scheduler::slots_used) <= slots, "seed {seed}");
        assert!(sum(|of| of.tenants.len()) <= running.len() + open.len(), "seed {seed}");
    }
    now += SECOND;
    actions.clear();
    pools.step(now, 0, Event::Tick, &mut actions);
    for planned in &actions {
        if let Action::Go(job) = planned.action {
            assert!(held.remove(&job), "seed {seed}");
        }
    }
    assert!(held.is_empty(), "seed {seed}: {held:?} are held up for ever");
    for job in running.drain(..) {
        pools.step(now, pool_of(job), Event::Finish(job, MS), &mut Vec::new());
    }
    for (index, scheduler) in pools.each().enumerate() {
        assert_eq!((scheduler.slots_used(), scheduler.tenants.len()), (0, 0), "seed {seed}");
        assert_eq!((scheduler.slots(), scheduler.lent()), (configs[index].slots, 0), "seed {seed}");
        assert!(scheduler.classes.iter().all(|class| class.keys() == 0), "seed {seed}");
        assert_eq!(scheduler.crowds.jobs(), 0, "seed {seed}");
    }
}

/// Random loads on random devices, each looked at when it has been going on for a random time: nobody who always has work is ahead of
/// another by more than a job for each slot, whatever is predicted, cancelled, or stuck.
#[test]
fn nobody_is_ahead_of_another_by_more_than_a_job() {
    let (jobs, seed) = asked();
    let mut random = Random::new(seed);
    let (mut done, mut run) = (0, 0);
    while done < jobs {
        run += 1;
        let slots = 1 + random.below(3);
        let sender = |tenant: u64, random: &mut Random| {
            let takes = MS / 10 + random.below(5 * MS);
            Sender {
                tenant: TenantKey(tenant),
                takes: Takes::About(takes, random.below(60)),
                predicted: match random.below(3) {
                    0 => Predicted::Always(MS, 90),
                    1 => Predicted::Always(takes, 10),
                    _ => Predicted::Learned,
                },
                cancelled: [0, 100, 300][random.below(3) as usize],
                ..batch(takes, 1 + random.below(4) as u32, (4 + 4 * slots + random.below(40)) as usize)
            }
        };
        let senders: Vec<Sender> =
            (0..2 + random.below(5)).map(|tenant| sender(tenant, &mut random)).collect();
        let until = SECOND + random.below(30 * SECOND);
        let stuck: Vec<Stuck> = (0..random.below(3))
            .map(|_| Stuck { at: random.below(until), lasts: random.below(100 * MS) })
            .collect();
        let served = simulate(&[config(slots as usize)], &senders, &stuck, until, seed.wrapping_add(run));
        // What one may have at once: a job on each slot, as long as it can be, with the time that slots are stuck.
        let hangs: Nanos = stuck.iter().map(|stuck| stuck.lasts).sum();
        let by_weight = |of: &Served, sender: &Sender| of.device as f64 / f64::from(sender.share.weight);
        let at_once = |sender: &Sender| {
            let longest = sender.takes.mean() * 8 / 5 + MS / 10;
            (longest * slots + hangs) as f64 / f64::from(sender.share.weight)
        };
        for (one, of_one) in senders.iter().zip(&served) {
            for (other, of_other) in senders.iter().zip(&served) {
                let ahead = by_weight(of_one, one) - by_weight(of_other, other);
                // What ran before the other came is nobody's, and what runs of the other is counted only when it ends.
                let allowed = 2.0 * (at_once(one) + at_once(other));
                assert!(
                    ahead <= allowed,
                    "seed {seed}, run {run}: {ahead} ns ahead, {allowed} at most: {one:?} and {other:?}"
                );
            }
        }
        done += served.iter().map(|served| served.came).sum::<u64>();
    }
}

/// The same for classes: one that always has work has its floor, but for a job.
#[test]
fn no_class_starves_below_its_floor() {
    let (jobs, seed) = asked();
    let mut random = Random::new(seed);
    let (mut done, mut run) = (0, 0);
    while done < jobs {
        run += 1;
        let slots = 1 + random.below(3);
        let sender = |tenant: u64, class: Class, random: &mut Random| {
            let takes = MS / 10 + random.below(5 * MS);
            let predicted = if random.below(2) == 0 { Predicted::Always(MS, 90) } else { Predicted::Learned };
            let outstanding = 4 * slots as usize + random.below(40) as usize;
            Sender { tenant: TenantKey(tenant), class, predicted, ..batch(takes, 1, outstanding) }
        };
        let senders = [
            sender(0, Class::Interactive, &mut random),
            sender(1, Class::Standard, &mut random),
            sender(2, Class::Batch, &mut random),
        ];
        let until = 20 * SECOND + random.below(20 * SECOND);
        let served = simulate(&[config(slots as usize)], &senders, &[], until, seed.wrapping_add(run));
        let total: Nanos = served.iter().map(|served| served.device).sum();
        for (index, floor) in [(1, 0.1), (2, 0.05)] {
            // So much of what the others are served.
            let (own, others) = (served[index].device as f64, (total - served[index].device) as f64);
            let job = (senders[index].takes.mean() * (slots + 1)) as f64;
            assert!(
                own + job >= others * floor * 0.98,
                "seed {seed}, run {run}: {own} of {others}: {senders:?}"
            );
        }
        done += served.iter().map(|served| served.came).sum::<u64>();
    }
}
