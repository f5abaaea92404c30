// SPDX-License-Identifier: Apache-2.0
//! One account: what happened to the requests of one tenant, or of several, to one version of one model.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use diolkos_types::Code;

use super::{Failures, Gauge, Histogram, Total, saturating_ns};
use crate::request::Timing;

/// What times of successes are counted from: the first use of it. Reading the time of day for every request as well
/// would cost as much as an empty operation.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What happened to requests to one version of one model, at one moment.
#[derive(Debug, Default)]
pub struct ModelStats {
    /// Requests that succeeded, from submission to reply.
    pub success: Total,
    /// Requests that did not, whatever the reason, from submission to reply.
    pub fail: Total,
    /// Why they did not.
    pub failures: Failures,
    /// Waiting for a slot; like the next three, for requests that succeeded.
    pub queue: Total,
    /// Bringing inputs in.
    pub compute_input: Total,
    /// Computing.
    pub compute_infer: Total,
    /// Handing outputs over.
    pub compute_output: Total,
    /// Rows inferred: a request counts as many as its batch has.
    pub inferences: AtomicU64,
    /// Runs of the operation.
    pub executions: AtomicU64,
    /// Admitted and not yet running.
    pub pending: Gauge,
    /// From submission to reply, for requests that succeeded.
    pub latency: Histogram,
    /// Nanoseconds from [`ORIGIN`] to the last success; 0 = never.
    last_success: AtomicU64,
}

impl ModelStats {
    /// What several accounts say together.
    pub(super) fn sum<'a>(accounts: impl IntoIterator<Item = &'a Account>) -> ModelStats {
        let sum = Account::default();
        accounts.into_iter().for_each(|account| sum.absorb(account));
        let succeeded = sum.latency.counts().iter().sum();
        let time = |ns: AtomicU64| Total { count: AtomicU64::new(succeeded), nanoseconds: ns };
        let Account {
            fail,
            failures,
            queue_ns,
            input_ns,
            infer_ns,
            output_ns,
            inferences,
            executions,
            pending,
            latency,
            last_success,
            apart: _,
        } = sum;
        ModelStats {
            success: time(AtomicU64::new(latency.sum_ns())),
            fail,
            failures,
            queue: time(queue_ns),
            compute_input: time(input_ns),
            compute_infer: time(infer_ns),
            compute_output: time(output_ns),
            inferences,
            executions,
            pending,
            latency,
            last_success,
        }
    }

    /// Time of the last success, in milliseconds since 1970; 0 = never.
    pub fn last_inference_ms(&self) -> u64 {
        let at = match self.last_success.load(Ordering::Relaxed) {
            0 => return 0,
            at => Duration::from_nanos(at),
        };
        let ago = ORIGIN.elapsed().saturating_sub(at);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.saturating_sub(ago).as_millis()).unwrap_or(u64::MAX)
    }
}

/// One account: what is counted of a tenant's requests. Nothing that follows from the rest is: every counter costs a request as
/// much as a lock.
#[derive(Debug, Default)]
pub(crate) struct Account {
    fail: Total,
    failures: Failures,
    /// Of requests that succeeded, like the next three.
    queue_ns: AtomicU64,
    input_ns: AtomicU64,
    infer_ns: AtomicU64,
    output_ns: AtomicU64,
    inferences: AtomicU64,
    executions: AtomicU64,
    pub(crate) pending: Gauge,
    /// Also says how many succeeded.
    latency: Histogram,
    last_success: AtomicU64,
    /// Requests that will still run alone, because one failed.
    apart: AtomicU64,
}

impl Account {
    pub(super) fn absorb(&self, other: &Account) {
        // By name, so that a counter that is new is not forgotten here.
        let Account {
            fail,
            failures,
            queue_ns,
            input_ns,
            infer_ns,
            output_ns,
            inferences,
            executions,
            pending,
            latency,
            last_success,
            apart: _,
        } = other;
        self.fail.absorb(fail);
        self.failures.absorb(failures);
        let add =
            |to: &AtomicU64, from: &AtomicU64| to.fetch_add(from.load(Ordering::Relaxed), Ordering::Relaxed);
        add(&self.queue_ns, queue_ns);
        add(&self.input_ns, input_ns);
        add(&self.infer_ns, infer_ns);
        add(&self.output_ns, output_ns);
        add(&self.inferences, inferences);
        add(&self.executions, executions);
        self.pending.absorb(pending);
        self.latency.absorb(latency);
        self.last_success.fetch_max(last_success.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Begins anew. Only where nobody else counts.
    pub(super) fn clear(&self) {
        let Account {
            fail,
            failures,
            queue_ns,
            input_ns,
            infer_ns,
            output_ns,
            inferences,
            executions,
            pending,
            latency,
            last_success,
            apart,
        } = self;
        fail.clear();
        failures.clear();
        pending.clear();
        latency.clear();
        for counter in [queue_ns, input_ns, infer_ns, output_ns, inferences, executions, last_success, apart]
        {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a request that succeeded at `now` with `rows` rows; `latency` is from submission to reply.
    pub(crate) fn succeeded(&self, timing: &Timing, now: Instant, latency: Duration, rows: u64) {
        self.latency.add(latency);
        let phases = [
            (&self.queue_ns, timing.queue),
            (&self.input_ns, timing.copy_in),
            (&self.infer_ns, timing.compute),
            (&self.output_ns, timing.copy_out),
        ];
        for (counter, time) in phases {
            if !time.is_zero() {
                counter.fetch_add(saturating_ns(time), Ordering::Relaxed);
            }
        }
        self.inferences.fetch_add(rows, Ordering::Relaxed);
        // At least 1, because 0 means never.
        let at = saturating_ns(now.saturating_duration_since(*ORIGIN)).max(1);
        self.last_success.store(at, Ordering::Relaxed);
    }

    /// Counts a request that did not succeed.
    pub(crate) fn failed(&self, code: Code, latency: Duration) {
        self.fail.add(latency);
        self.failures.add(code);
    }

    /// The next requests run alone, so many of them.
    pub(crate) fn keep_apart(&self, requests: u64) {
        self.apart.store(requests, Ordering::Relaxed);
    }

    /// Whether requests have to run alone.
    pub(crate) fn is_apart(&self) -> bool {
        self.apart.load(Ordering::Relaxed) > 0
    }

    /// Whether a request has to run alone, which counts as one.
    pub(crate) fn is_kept_apart(&self) -> bool {
        // Nearly always none, and then nothing is written.
        self.apart.load(Ordering::Relaxed) > 0
            && self
                .apart
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
    }

    /// Counts one run of the operation.
    pub(crate) fn executed(&self) {
        self.executions.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_says_what_its_parts_say() {
        let (one, other) = (Account::default(), Account::default());
        let ns = Duration::from_nanos;
        let timing = |n| Timing { queue: ns(n), copy_in: ns(2 * n), compute: ns(3 * n), copy_out: ns(4 * n) };
        let now = Instant::now();
        one.succeeded(&timing(1), now, ns(100), 7);
        one.executed();
        one.failed(Code::Busy, ns(5));
        one.pending.increment();
        other.succeeded(&timing(10), now + Duration::from_secs(1), ns(1000), 1);
        other.executed();
        other.failed(Code::Busy, ns(5));
        other.failed(Code::TooLarge, ns(6));
        let sum = ModelStats::sum([&one, &other]);
        let told = |total: &Total| (total.count(), total.nanoseconds());
        assert_eq!((told(&sum.success), told(&sum.fail)), ((2, 1100), (3, 16)));
        let phases = [&sum.queue, &sum.compute_input, &sum.compute_infer, &sum.compute_output].map(told);
        assert_eq!(phases, [(2, 11), (2, 22), (2, 33), (2, 44)]);
        assert_eq!((sum.failures.get(Code::Busy), sum.failures.get(Code::TooLarge)), (2, 1));
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!((number(&sum.inferences), number(&sum.executions), sum.pending.get()), (8, 2, 1));
        assert_eq!((sum.latency.counts().iter().sum::<u64>(), sum.latency.sum_ns()), (2, 1100));
        assert_eq!(number(&sum.last_success), number(&other.last_success), "the last of all");
        assert_eq!(ModelStats::sum([]).last_inference_ms(), 0);
    }

    #[test]
    fn the_last_success_is_told_in_the_time_of_day() {
        let ms = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let account = Account::default();
        assert_eq!(ModelStats::sum([&account]).last_inference_ms(), 0);
        let before = ms(SystemTime::now());
        account.succeeded(&Timing::default(), Instant::now(), Duration::ZERO, 1);
        let stats = ModelStats::sum([&account]);
        let told = stats.last_inference_ms();
        // A clock that is set meanwhile, or a thread that had to wait, by a minute at most.
        assert!((before - 60_000..before + 60_000).contains(&told), "{told} and not {before}");
        // It does not move by itself. Between two readings of clocks this thread may have to wait, but not always.
        let stays = (0..50).any(|_| {
            let told = stats.last_inference_ms();
            std::thread::sleep(Duration::from_millis(20));
            stats.last_inference_ms().abs_diff(told) <= 2
        });
        assert!(stays);
    }
}
