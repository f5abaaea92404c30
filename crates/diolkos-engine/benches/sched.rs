// SPDX-License-Identifier: Apache-2.0
//! What the scheduler costs for each job while so many wait: one that comes, and one that ends so that another begins.
//!
//! `cargo bench -p diolkos-engine --bench sched`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use diolkos_engine::sched::{
    Action, Arrival, BatchKey, Batching, Class, Event, FloorShares, Nanos, PoolPolicy, SchedConfig,
    Scheduler, Share, TenantKey,
};
use diolkos_types::JobId;

const CLASSES: [Class; 3] = [Class::Interactive, Class::Standard, Class::Batch];

/// Kinds of jobs.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    /// Every one has a deadline that it meets.
    Deadlines,
    /// Every one may share runs of eight.
    Batched,
}

/// A scheduler in a steady state.
struct Steady {
    scheduler: Scheduler,
    kind: Kind,
    tenants: u64,
    next: u64,
    now: Nanos,
    running: Vec<JobId>,
    actions: Vec<Action>,
}

impl Steady {
    /// So many jobs wait, of so many tenants.
    fn new(kind: Kind, waiting: u64, tenants: u64) -> Steady {
        let (queue_max, floors) = (1 << 20, FloorShares::DEFAULT);
        let config = SchedConfig {
            slots: 2,
            queue_max,
            tenant_queue_max: queue_max,
            floors,
            policy: PoolPolicy::Fair,
            lends: false,
        };
        let scheduler = Scheduler::new(config);
        let mut steady =
            Steady { scheduler, kind, tenants, next: 0, now: 0, running: Vec::new(), actions: Vec::new() };
        while (steady.scheduler.waiting() as u64) < waiting {
            steady.arrive();
        }
        steady
    }

    fn step(&mut self, event: Event) {
        self.now += 100;
        self.actions.clear();
        self.scheduler.step(self.now, event, &mut self.actions);
        let started = self.actions.iter().filter_map(|action| match *action {
            Action::Start(job) | Action::Join(job, _) => Some(job),
            _ => None,
        });
        self.running.extend(started);
    }

    fn arrive(&mut self) {
        // An order that is neither that of tenants nor of classes.
        let mixed = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        self.next += 1;
        let batch = matches!(self.kind, Kind::Batched).then_some(Batching {
            key: BatchKey { operation: mixed % 5, tenant: None },
            rows: 1,
            rows_max: 8,
            fixed: 800_000,
            per_row: 100_000,
        });
        self.step(Event::Arrive(Arrival {
            job: JobId(self.next),
            tenant: TenantKey(mixed % self.tenants),
            class: CLASSES[(mixed % 3) as usize],
            deadline: matches!(self.kind, Kind::Deadlines)
                .then_some(self.now + (1 << 60) + mixed % 1_000_000),
            cost: 100_000 + mixed % 900_000,
            batch,
            run_here: false,
            share: Share::ALL,
        }));
    }

    /// One comes and one ends.
    fn job(&mut self) {
        self.arrive();
        // The one that was started first ends last of its run.
        let job = self.running.pop().expect("slots are never free");
        self.step(Event::Finish(job, 500_000));
        black_box(&self.actions);
    }
}

fn per_job(criterion: &mut Criterion) {
    for kind in [Kind::Plain, Kind::Deadlines, Kind::Batched] {
        let mut group = criterion.benchmark_group(format!("per_job/{kind:?}"));
        group.throughput(Throughput::Elements(1));
        for (waiting, tenants) in [(100, 10), (1000, 100), (10_000, 1000), (100_000, 1000)] {
            let mut steady = Steady::new(kind, waiting, tenants);
            let id = BenchmarkId::from_parameter(format!("{waiting} jobs of {tenants} tenants"));
            group.bench_function(id, |bencher| bencher.iter(|| steady.job()));
        }
        group.finish();
    }
}

criterion_group!(benches, per_job);
criterion_main!(benches);
