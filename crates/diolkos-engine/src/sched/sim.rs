// SPDX-License-Identifier: Apache-2.0
//! A device in simulated time: tenants who always have work, bursts, lies about costs, cancellations, stuck slots. Every
//! run is told by its seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::*;

/// xorshift64*: small, and the same everywhere.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Exponentially distributed, as the distances of arrivals that know nothing of each other.
    fn exponential(&mut self, mean: Nanos) -> Nanos {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        (-(1.0 - unit).ln() * mean as f64) as Nanos
    }
}

/// Who sends what.
#[derive(Clone, Copy)]
pub(super) struct Sender {
    pub(super) class: Class,
    pub(super) weight: u32,
    /// What a job really takes.
    pub(super) takes: Nanos,
    /// What it is predicted to take.
    pub(super) predicted: Nanos,
    /// By how much predictions miss that, in percent, too much and too little alike.
    pub(super) noise: u64,
    /// When a job must have begun, after it came.
    pub(super) deadline: Option<Nanos>,
    pub(super) load: Load,
}

#[derive(Clone, Copy)]
pub(super) enum Load {
    /// So many jobs are always there.
    Outstanding(usize),
    /// A job now and then.
    Every(Nanos),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Served {
    pub(super) device: Nanos,
    pub(super) late: u64,
    pub(super) waits: Vec<Nanos>,
}

impl Served {
    pub(super) fn wait_p99(&mut self) -> Nanos {
        self.waits.sort_unstable();
        self.waits[(self.waits.len() - 1) * 99 / 100]
    }
}

/// Time, a number that keeps the order of what happens at once, and what it is: a job that ends, or a sender's next one.
type Happens = (Nanos, u64, Result<JobId, usize>);

/// Stands for the alarm where a job would end.
const ALARM: JobId = JobId(u64::MAX);

/// Runs `senders` on a device until it has been simulated for so long.
pub(super) fn simulate(config: SchedConfig, senders: &[Sender], until: Nanos, seed: u64) -> Vec<Served> {
    let mut random = Random::new(seed);
    let mut scheduler = Scheduler::new(config);
    let mut served = vec![Served::default(); senders.len()];
    let mut came: HashMap<JobId, (usize, Nanos)> = HashMap::new();
    let mut events: BinaryHeap<Reverse<Happens>> = BinaryHeap::new();
    let (mut order, mut jobs) = (0, 0);
    for (index, sender) in senders.iter().enumerate() {
        let first = match sender.load {
            Load::Outstanding(count) => count,
            Load::Every(_) => 1,
        };
        for _ in 0..first {
            events.push(Reverse((random.below(1000), order, Err(index))));
            order += 1;
        }
    }
    let mut actions = Vec::new();
    while let Some(Reverse((now, _, what))) = events.pop() {
        if now > until {
            break;
        }
        let event = match what {
            Ok(ALARM) => Event::Tick,
            Ok(job) => {
                let (index, _) = came[&job];
                served[index].device += senders[index].takes;
                if let Load::Outstanding(_) = senders[index].load {
                    events.push(Reverse((now, order, Err(index))));
                    order += 1;
                }
                came.remove(&job);
                Event::Finish(job, senders[index].takes)
            }
            Err(index) => {
                let Sender { class, weight, predicted, noise, deadline, load, .. } = senders[index];
                let cost = predicted * (100 - noise + random.below(2 * noise + 1)) / 100;
                if let Load::Every(mean) = load {
                    events.push(Reverse((now + random.exponential(mean), order, Err(index))));
                    order += 1;
                }
                jobs += 1;
                came.insert(JobId(jobs), (index, now));
                let share = Share { weight, ..Share::ALL };
                let tenant = TenantKey(index as u64);
                Event::Arrive(Arrival {
                    job: JobId(jobs),
                    tenant,
                    class,
                    deadline: deadline.map(|after| now + after),
                    cost,
                    batch: None,
                    run_here: false,
                    share,
                })
            }
        };
        actions.clear();
        scheduler.step(now, event, &mut actions);
        for action in &actions {
            let job = match *action {
                Action::Start(job) => job,
                Action::Refuse(job, _) | Action::Expire(job) => {
                    let (index, _) = came.remove(&job).expect("it came");
                    served[index].late += 1;
                    if let Load::Outstanding(_) = senders[index].load {
                        // It tries again a little later.
                        events.push(Reverse((now + MS, order, Err(index))));
                        order += 1;
                    }
                    continue;
                }
                Action::WakeAt(at) => {
                    events.push(Reverse((at, order, Ok(ALARM))));
                    order += 1;
                    continue;
                }
                _ => panic!("{action:?}: nobody offered or cancelled anything"),
            };
            let (index, since) = came[&job];
            served[index].waits.push(now - since);
            events.push(Reverse((now + senders[index].takes, order, Ok(job))));
            order += 1;
        }
    }
    served
}

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1000 * MS;

fn config(slots: usize) -> SchedConfig {
    SchedConfig { slots, queue_max: 100_000, tenant_queue_max: 100_000, floors: FloorShares::DEFAULT }
}

fn batch(takes: Nanos, weight: u32, outstanding: usize) -> Sender {
    let load = Load::Outstanding(outstanding);
    Sender { class: Class::Batch, weight, takes, predicted: takes, noise: 0, deadline: None, load }
}

/// Jain's index: 1 = all have the same.
fn jain(served: &[Served]) -> f64 {
    let times: Vec<f64> = served.iter().map(|served| served.device as f64).collect();
    let sum: f64 = times.iter().sum();
    sum * sum / (times.len() as f64 * times.iter().map(|time| time * time).sum::<f64>())
}

#[test]
fn equal_tenants_get_equal_device_time_whatever_their_jobs_take() {
    for (seed, slots) in [(1, 1), (2, 2), (3, 4)] {
        // One has a hundred jobs there, one a few, one lies about what they take.
        let senders = [
            batch(MS, 1, 100),
            batch(4 * MS, 1, 8),
            Sender { predicted: 1000, ..batch(16 * MS, 1, 8) },
            batch(64 * MS, 1, 8),
        ];
        let served = simulate(config(slots), &senders, 200 * SECOND, seed);
        let index = jain(&served);
        assert!(index >= 0.99, "seed {seed}, {slots} slots: {index}");
        let used: Nanos = served.iter().map(|served| served.device).sum();
        assert!(used > 199 * SECOND * slots as u64, "work is conserved: {used}");
    }
}

#[test]
fn weights_are_shares() {
    for slots in [1, 2] {
        let senders = [batch(MS, 1, 16), batch(3 * MS, 2, 16), batch(2 * MS, 4, 16)];
        let served = simulate(config(slots), &senders, 100 * SECOND, 7);
        let total: Nanos = served.iter().map(|served| served.device).sum();
        for (served, weight) in served.iter().zip([1.0, 2.0, 4.0]) {
            let (share, wanted) = (served.device as f64 / total as f64, weight / 7.0);
            assert!((share / wanted - 1.0).abs() < 0.03, "{slots} slots, weight {weight}: {share}");
        }
    }
}

#[test]
fn somebody_who_waits_for_an_answer_waits_for_one_job_at_most() {
    let asks = Sender { class: Class::Interactive, load: Load::Every(40 * MS), ..batch(MS, 1, 0) };
    let mut served = simulate(config(1), &[asks, batch(10 * MS, 1, 32)], 200 * SECOND, 3);
    let (used, p99) = (served[0].device, served[0].wait_p99());
    // Now and then two come at once.
    assert!(p99 <= 12 * MS, "{p99}");
    assert!(served[1].device >= (200 * SECOND - used) * 9 / 10, "{served:?}", served = served[1].device);
}

#[test]
fn nobody_starves_and_the_floor_is_kept() {
    let saturates = Sender { class: Class::Interactive, ..batch(MS, 1, 8) };
    let standard = Sender { class: Class::Standard, ..batch(2 * MS, 1, 8) };
    let mut served = simulate(config(1), &[saturates, standard, batch(7 * MS, 1, 4)], 100 * SECOND, 5);
    let total: Nanos = served.iter().map(|served| served.device).sum();
    let share = |served: &Served| served.device as f64 / total as f64;
    // A tenth and a twentieth of what the others are served.
    assert!((share(&served[1]) - 0.091).abs() < 0.01, "{}", share(&served[1]));
    assert!((share(&served[2]) - 0.0476).abs() < 0.006, "{}", share(&served[2]));
    let longest = served[2].waits.iter().max().unwrap();
    assert!(*longest < 2 * SECOND, "{longest}");
    assert!(served[0].wait_p99() < 20 * MS);
}

#[test]
fn predictions_that_miss_a_little_change_no_shares() {
    for (long, short, weight) in [(10 * MS, MS, 1), (10 * MS, MS / 10, 1), (100 * MS, MS, 3)] {
        let senders =
            [Sender { noise: 5, ..batch(long, 1, 8) }, Sender { noise: 5, ..batch(short, weight, 8) }];
        let served = simulate(config(1), &senders, 100 * SECOND, 11);
        let share = served[0].device as f64 / (served[0].device + served[1].device) as f64;
        let wanted = 1.0 / f64::from(1 + weight);
        assert!((share / wanted - 1.0).abs() < 0.03, "{long} and {short}: {share}");
    }
}

#[test]
fn a_floor_is_no_way_to_run_long_jobs_as_short_ones() {
    let saturates = Sender { class: Class::Interactive, ..batch(MS, 1, 8) };
    let lies = Sender { predicted: MS, ..batch(100 * MS, 1, 4) };
    let served = simulate(config(1), &[saturates, lies], 200 * SECOND, 13);
    let share = served[1].device as f64 / (served[0].device + served[1].device) as f64;
    assert!(share < 0.06, "{share}");
}

#[test]
fn deadlines_do_not_keep_a_class_from_its_floor() {
    let saturates = Sender { class: Class::Interactive, ..batch(MS, 1, 800) };
    let hurries = Sender { deadline: Some(SECOND), ..batch(10 * MS, 1, 2) };
    let served = simulate(config(1), &[saturates, hurries], 100 * SECOND, 17);
    let share = served[1].device as f64 / (served[0].device + served[1].device) as f64;
    assert!(share > 0.04, "{share}, {} were late", served[1].late);
}

/// Whatever happens, each job ends once, no slot is left unused, and nothing is kept of those who are gone.
#[test]
fn random_faults_break_no_invariant() {
    let jobs: u64 = std::env::var("DIOLKOS_SIM_JOBS").map_or(200_000, |text| text.parse().unwrap());
    let seed: u64 = std::env::var("DIOLKOS_SIM_SEED").map_or(1, |text| text.parse().unwrap());
    let mut random = Random::new(seed);
    let config =
        SchedConfig { slots: 3, queue_max: 500, tenant_queue_max: 100, floors: FloorShares::DEFAULT };
    let mut scheduler = Scheduler::new(config);
    let (mut now, mut job) = (0, 0);
    let mut running: Vec<JobId> = Vec::new();
    let mut open: std::collections::HashSet<JobId> = std::collections::HashSet::new();
    let mut actions = Vec::new();
    let mut alarm: Option<Nanos> = None;
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
        } else if choice < 50 {
            Event::Cancel(JobId(job.saturating_sub(random.below(50))))
        } else if !running.is_empty() {
            // The first slot gets stuck now and then: the others go on.
            let first = usize::from(running.len() > 1 && random.below(50) != 0 && choice < 60);
            let at = first + random.below((running.len() - first) as u64) as usize;
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
        scheduler.step(now, event, &mut actions);
        for action in &actions {
            match *action {
                Action::Start(job) | Action::Join(job, _) | Action::RunHere(job) => {
                    assert!(open.remove(&job), "seed {seed}: {job} ended twice");
                    running.push(job);
                }
                Action::Refuse(job, _) | Action::Expire(job) | Action::Cancelled(job) => {
                    assert!(open.remove(&job), "seed {seed}: {job} ended twice");
                }
                Action::WakeAt(at) => alarm = Some(at),
            }
        }
        assert_eq!((scheduler.running(), scheduler.waiting()), (running.len(), open.len()), "seed {seed}");
        assert!(
            scheduler.slots_used() <= 3 && scheduler.tenants.len() <= running.len() + open.len(),
            "seed {seed}"
        );
    }
    for job in running.drain(..) {
        scheduler.step(now, Event::Finish(job, MS), &mut Vec::new());
    }
    assert_eq!((scheduler.slots_used(), scheduler.tenants.len()), (0, 0), "seed {seed}");
    assert!(scheduler.classes.iter().all(|class| class.keys() == 0), "seed {seed}");
}
