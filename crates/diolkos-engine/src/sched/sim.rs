// SPDX-License-Identifier: Apache-2.0
//! A device in simulated time: hours of it in seconds. The same scheduler as in the daemon decides, so what is seen here is
//! what would happen if jobs took what the senders say. Every run is told by its seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use diolkos_types::{BuildSpread, JobId};

use super::{Action, Arrival, Batching, Class, Event, Nanos, Planned, Pools, SchedConfig, Share, TenantKey};

/// Nanoseconds of a millisecond.
pub const MS: Nanos = 1_000_000;

/// Nanoseconds of a second.
pub const SECOND: Nanos = 1000 * MS;

/// How long a sender waits after it was refused, if it always has something to send.
const TRIES_AGAIN: Nanos = MS;

/// xorshift64*: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`, or 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// From 0 to 1, without 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Exponentially distributed, as the distances of arrivals that know nothing of each other.
    pub fn exponential(&mut self, mean: Nanos) -> Nanos {
        (-(1.0 - self.unit()).ln() * mean as f64) as Nanos
    }

    /// Pareto distributed with shape 1.5, so that a few are very large, a thousand times the mean at most.
    pub fn heavy_tailed(&mut self, mean: Nanos) -> Nanos {
        let least = mean as f64 / 3.0;
        let number = least / (1.0 - self.unit()).powf(1.0 / 1.5);
        number.min(mean as f64 * 1000.0) as Nanos
    }
}

/// What one job takes of the device.
#[derive(Clone, Copy, Debug)]
pub enum Takes {
    /// Always as long.
    Fixed(Nanos),
    /// About as long: by so many percent more or less.
    About(Nanos, u64),
    /// A mean, and a few take very much longer ([`Random::heavy_tailed`]).
    HeavyTailed(Nanos),
}

impl Takes {
    /// The mean.
    #[must_use]
    pub fn mean(self) -> Nanos {
        match self {
            Takes::Fixed(mean) | Takes::About(mean, _) | Takes::HeavyTailed(mean) => mean,
        }
    }

    fn draw(self, random: &mut Random) -> Nanos {
        match self {
            Takes::Fixed(time) => time,
            Takes::About(mean, percent) => noisy(mean, percent, random),
            Takes::HeavyTailed(mean) => random.heavy_tailed(mean),
        }
    }
}

fn noisy(mean: Nanos, percent: u64, random: &mut Random) -> Nanos {
    mean * (100 - percent.min(100) + random.below(2 * percent.min(100) + 1)) / 100
}

/// What a job is predicted to take.
#[derive(Clone, Copy, Debug)]
pub enum Predicted {
    /// Learned from those before, as the daemon does for inputs of one size.
    Learned,
    /// This, more or less so many percent.
    Always(Nanos, u64),
}

/// When jobs come.
#[derive(Clone, Debug)]
pub enum Load {
    /// So many are always there: the next comes when one ends.
    Outstanding(usize),
    /// One now and then, with this mean distance.
    Poisson(Nanos),
    /// So many at once, every so often.
    Bursts(usize, Nanos),
    /// At these times, and what each takes.
    Recorded(Vec<(Nanos, Nanos)>),
}

/// Who sends what.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Whose jobs these are; several senders may be one tenant.
    pub tenant: TenantKey,
    /// In which pool they run.
    pub pool: usize,
    /// How urgent.
    pub class: Class,
    /// What the tenant may have.
    pub share: Share,
    /// What a job takes, alone.
    pub takes: Takes,
    /// What it is predicted to take.
    pub predicted: Predicted,
    /// When a job must have begun, after it came.
    pub deadline: Option<Nanos>,
    /// So many of a thousand jobs are cancelled, a moment after they came.
    pub cancelled: u64,
    /// What jobs may share runs with. `fixed` and `per_row` are also what such a run takes.
    pub batch: Option<Batching>,
    /// When jobs come.
    pub load: Load,
}

/// A slot that hangs: the first job that starts then or later takes so much longer.
#[derive(Clone, Copy, Debug)]
pub struct Stuck {
    /// When.
    pub at: Nanos,
    /// How much longer.
    pub lasts: Nanos,
}

/// What a sender got.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// Device time of its jobs that ended.
    pub device: Nanos,
    /// Jobs that came.
    pub came: u64,
    /// Jobs that ran to their end.
    pub done: u64,
    /// Jobs that were refused, or not begun in time.
    pub late: u64,
    /// Jobs that were cancelled while they waited.
    pub cancelled: u64,
    /// How long each waited that began.
    pub waits: Vec<Nanos>,
    /// From when each came to when it ended.
    pub latencies: Vec<Nanos>,
}

impl Served {
    /// So much of the sender's waits are no longer.
    #[must_use]
    pub fn wait(&mut self, quantile: f64) -> Nanos {
        quantile_of(&mut self.waits, quantile)
    }

    /// So much of the sender's latencies are no longer.
    #[must_use]
    pub fn latency(&mut self, quantile: f64) -> Nanos {
        quantile_of(&mut self.latencies, quantile)
    }
}

fn quantile_of(times: &mut [Nanos], quantile: f64) -> Nanos {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * quantile) as usize).copied().unwrap_or(0)
}

/// Jain's index of what each has: 1 = all the same, 1/n = one has everything.
#[must_use]
pub fn jain(each: impl IntoIterator<Item = f64>) -> f64 {
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for one in each {
        count += 1.0;
        sum += one;
        squares += one * one;
    }
    sum * sum / (count * squares)
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    /// A sender's next job comes, with what it takes where that was recorded.
    Comes(usize, Option<Nanos>),
    /// A run ends.
    Ends(JobId),
    /// Somebody cancels a job.
    Cancels(JobId),
    /// An alarm goes off.
    Alarm,
}

struct Job {
    sender: usize,
    came: Nanos,
    takes: Nanos,
}

struct Run {
    jobs: Vec<JobId>,
    began: Nanos,
}

struct Simulation<'a> {
    senders: &'a [Sender],
    random: Random,
    pools: Pools,
    served: Vec<Served>,
    jobs: HashMap<JobId, Job, BuildSpread>,
    runs: HashMap<JobId, Run, BuildSpread>,
    /// Runs that were started and wait for company.
    held: HashMap<JobId, Run, BuildSpread>,
    events: BinaryHeap<Reverse<(Nanos, u64, Happens)>>,
    /// Keeps the order of what happens at once.
    order: u64,
    /// What each sender's jobs took, as it was learned.
    learned: Vec<Option<Nanos>>,
    stuck: Vec<Stuck>,
    next_job: u64,
}

/// Runs `senders` on a device with these pools until it has been simulated for so long.
#[must_use]
pub fn simulate(
    pools: &[SchedConfig],
    senders: &[Sender],
    stuck: &[Stuck],
    until: Nanos,
    seed: u64,
) -> Vec<Served> {
    let mut simulation = Simulation {
        senders,
        random: Random::new(seed),
        pools: Pools::new(pools),
        served: vec![Served::default(); senders.len()],
        jobs: HashMap::default(),
        runs: HashMap::default(),
        held: HashMap::default(),
        events: BinaryHeap::new(),
        order: 0,
        learned: vec![None; senders.len()],
        stuck: stuck.to_vec(),
        next_job: 0,
    };
    for (index, sender) in senders.iter().enumerate() {
        simulation.begin(index, &sender.load);
    }
    let mut actions = Vec::new();
    while let Some(Reverse((now, _, what))) = simulation.events.pop() {
        if now > until {
            break;
        }
        simulation.happens(now, what, &mut actions);
    }
    simulation.served
}

impl Simulation<'_> {
    fn plan(&mut self, at: Nanos, what: Happens) {
        self.events.push(Reverse((at, self.order, what)));
        self.order += 1;
    }

    fn begin(&mut self, index: usize, load: &Load) {
        match load {
            Load::Outstanding(count) => {
                for _ in 0..*count {
                    let at = self.random.below(1000);
                    self.plan(at, Happens::Comes(index, None));
                }
            }
            Load::Poisson(_) | Load::Bursts(..) => {
                let at = self.random.below(1000);
                self.plan(at, Happens::Comes(index, None));
            }
            Load::Recorded(jobs) => {
                jobs.iter().for_each(|&(at, takes)| self.plan(at, Happens::Comes(index, Some(takes))));
            }
        }
    }

    fn happens(&mut self, now: Nanos, what: Happens, actions: &mut Vec<Planned>) {
        match what {
            Happens::Comes(index, takes) => {
                let mut jobs = 1;
                match self.senders[index].load {
                    Load::Poisson(mean) => {
                        let after = self.random.exponential(mean);
                        self.plan(now + after, Happens::Comes(index, None));
                    }
                    Load::Bursts(count, every) => {
                        jobs = count;
                        self.plan(now + every, Happens::Comes(index, None));
                    }
                    Load::Outstanding(_) | Load::Recorded(_) => {}
                }
                for _ in 0..jobs {
                    let arrival = self.arrival(now, index, takes);
                    self.step(now, index, Event::Arrive(arrival), actions);
                }
            }
            Happens::Ends(head) => self.end(now, head, actions),
            // One that ended is not cancelled any more.
            Happens::Cancels(job) => {
                if let Some(&Job { sender, .. }) = self.jobs.get(&job) {
                    self.step(now, sender, Event::Cancel(job), actions);
                }
            }
            Happens::Alarm => self.step(now, 0, Event::Tick, actions),
        }
    }

    fn arrival(&mut self, now: Nanos, index: usize, recorded: Option<Nanos>) -> Arrival {
        let Sender { tenant, class, share, takes, predicted, deadline, cancelled, batch, .. } =
            self.senders[index];
        self.next_job += 1;
        let job = JobId(self.next_job);
        let takes = recorded.unwrap_or_else(|| takes.draw(&mut self.random));
        let cost = match predicted {
            Predicted::Learned => self.learned[index].unwrap_or(self.senders[index].takes.mean()),
            Predicted::Always(cost, percent) => noisy(cost, percent, &mut self.random),
        };
        self.jobs.insert(job, Job { sender: index, came: now, takes });
        self.served[index].came += 1;
        if self.random.below(1000) < cancelled {
            let after = self.random.exponential(takes);
            self.plan(now + after, Happens::Cancels(job));
        }
        let deadline = deadline.map(|after| now + after);
        Arrival { job, tenant, class, deadline, cost, batch, run_here: false, share }
    }

    fn step(&mut self, now: Nanos, sender: usize, event: Event, actions: &mut Vec<Planned>) {
        actions.clear();
        self.pools.step(now, self.senders[sender].pool, event, actions);
        // The last of them that started a run; those who join follow it.
        let mut run: Option<Run> = None;
        for planned in actions.iter() {
            match planned.action {
                Action::Start(job) | Action::RunHere(job) => {
                    self.launch(now, run.replace(Run { jobs: vec![job], began: now }));
                }
                Action::Join(job, head) => {
                    let started = run.as_mut().filter(|run| run.jobs[0] == head);
                    let joined = started.or_else(|| self.held.get_mut(&head));
                    joined.expect("a job joins one that was started").jobs.push(job);
                }
                Action::Hold(head) => {
                    let run = run.take().expect("a run is held up that was just started");
                    self.held.insert(head, run);
                }
                Action::Go(head) => {
                    let going = self.held.remove(&head);
                    self.launch(now, going);
                }
                Action::Refuse(job, _) | Action::Expire(job) => {
                    let index = self.take(job).sender;
                    self.served[index].late += 1;
                    self.again(now + TRIES_AGAIN, index);
                }
                Action::Cancelled(job) => {
                    let index = self.take(job).sender;
                    self.served[index].cancelled += 1;
                    self.again(now, index);
                }
                Action::WakeAt(at) => self.plan(at, Happens::Alarm),
            }
        }
        self.launch(now, run);
    }

    fn take(&mut self, job: JobId) -> Job {
        self.jobs.remove(&job).expect("a job that came and did not end")
    }

    /// A sender that always has something to send sends the next.
    fn again(&mut self, at: Nanos, index: usize) {
        if let Load::Outstanding(_) = self.senders[index].load {
            self.plan(at, Happens::Comes(index, None));
        }
    }

    /// A run begins.
    fn launch(&mut self, now: Nanos, run: Option<Run>) {
        let Some(run) = run else { return };
        for job in &run.jobs {
            let Job { sender, came, .. } = self.jobs[job];
            self.served[sender].waits.push(now - came);
        }
        let mut takes = self.takes(&run.jobs);
        if let Some(at) = self.stuck.iter().position(|stuck| stuck.at <= now) {
            takes += self.stuck.swap_remove(at).lasts;
        }
        let head = run.jobs[0];
        // Threads are at once there.
        let pool = self.senders[self.jobs[&head].sender].pool;
        self.pools.step(now, pool, Event::Taken(head), &mut Vec::new());
        self.runs.insert(head, run);
        self.plan(now + takes.max(1), Happens::Ends(head));
    }

    /// What a run of these jobs takes.
    fn takes(&self, jobs: &[JobId]) -> Nanos {
        match jobs {
            [job] => self.jobs[job].takes,
            jobs => {
                let batches = jobs.iter().filter_map(|job| self.senders[self.jobs[job].sender].batch);
                let rows = batches.clone().fold(0, |sum, batch| sum + batch.rows);
                batches.map(|batch| batch.part_of(rows)).sum()
            }
        }
    }

    fn end(&mut self, now: Nanos, head: JobId, actions: &mut Vec<Planned>) {
        let Run { jobs, began } = self.runs.remove(&head).expect("a run ends once");
        let took = now - began;
        let rows = |simulation: &Self, job: &JobId| {
            simulation.senders[simulation.jobs[job].sender].batch.map_or(1, |batch| u64::from(batch.rows))
        };
        let all: u64 = jobs.iter().map(|job| rows(self, job)).sum();
        let shared = jobs.len() > 1;
        // The one that holds the slot ends last.
        for job in jobs.into_iter().rev() {
            let part = if shared { took * rows(self, &job) / all } else { took };
            let Job { sender, came, .. } = self.take(job);
            let served = &mut self.served[sender];
            served.device += part;
            served.done += 1;
            served.latencies.push(now - came);
            if !shared {
                let before = self.learned[sender].unwrap_or(took);
                let took = took.min(before.saturating_mul(8));
                self.learned[sender] = Some(before - before / 8 + took / 8);
            }
            self.again(now, sender);
            self.step(now, sender, Event::Finish(job, part), actions);
        }
    }
}
