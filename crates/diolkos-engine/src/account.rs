// SPDX-License-Identifier: Apache-2.0
//! What happened, in numbers: counters that devices and admission bump and fronts read.
//!
//! All orderings are relaxed: every counter is a sum of its own, and readers want no relation between two.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use diolkos_types::Code;

use crate::request::Timing;

/// What times of successes are counted from: the first use of it. Reading the time of day for every request as well
/// would cost as much as an empty operation.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How often something happened, and how long it took in all.
#[derive(Debug, Default)]
pub struct Total {
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Total {
    /// Adds one that took `time`.
    pub fn add(&self, time: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(saturating_ns(time), Ordering::Relaxed);
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How long in all, in nanoseconds.
    pub fn nanoseconds(&self) -> u64 {
        self.nanoseconds.load(Ordering::Relaxed)
    }
}

/// Nanoseconds of `time`; 584 years at most.
#[must_use]
pub fn saturating_ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds one.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds one if there are fewer than `max`, and says whether.
    pub fn increment_below(&self, max: u64) -> bool {
        let next = |number: u64| (number < max).then(|| number + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Takes one away.
    pub fn decrement(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a gauge went below zero");
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How requests ended, by [`Code`].
#[derive(Debug, Default)]
pub struct Failures([AtomicU64; Code::ALL.len()]);

impl Failures {
    /// Adds one.
    pub fn add(&self, code: Code) {
        self.0[code as usize - 1].fetch_add(1, Ordering::Relaxed);
    }

    /// How many ended with `code`.
    pub fn get(&self, code: Code) -> u64 {
        self.0[code as usize - 1].load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of [`Histogram`], in nanoseconds: powers of two from 1 µs to about 69 s.
pub const BUCKETS_NS: [u64; 27] = {
    let mut bounds = [0; 27];
    let mut index = 0;
    while index < bounds.len() {
        bounds[index] = 1024 << index;
        index += 1;
    }
    bounds
};

/// A histogram of durations with the bounds of [`BUCKETS_NS`] and one bucket above them.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_NS.len() + 1],
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Adds one duration.
    pub fn add(&self, time: Duration) {
        let nanoseconds = saturating_ns(time);
        let index = BUCKETS_NS.partition_point(|&bound| bound < nanoseconds);
        self.buckets[index].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Counts per bucket, the last one above all bounds.
    pub fn counts(&self) -> [u64; BUCKETS_NS.len() + 1] {
        std::array::from_fn(|index| self.buckets[index].load(Ordering::Relaxed))
    }

    /// Sum of all durations in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns.load(Ordering::Relaxed)
    }

    /// A bound that `quantile` of the durations stay under, or `None` if there were none.
    pub fn quantile_bound(&self, quantile: f64) -> Option<Duration> {
        let counts = self.counts();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = (total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (count, bound) in counts.iter().zip(BUCKETS_NS) {
            seen += count;
            if seen >= rank {
                return Some(Duration::from_nanos(bound));
            }
        }
        Some(Duration::MAX)
    }
}

/// What happened to one version of one model. Survives a reload of the version.
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
    /// Service time on the device.
    pub service: Histogram,
    /// Nanoseconds from [`ORIGIN`] to the last success; 0 = never.
    last_success: AtomicU64,
    run_here: RunHere,
}

impl ModelStats {
    /// Counts a request that succeeded at `now` with `rows` rows; `latency` is from submission to reply.
    pub fn succeeded(&self, timing: &Timing, now: Instant, latency: Duration, rows: u64) {
        self.success.add(latency);
        self.queue.add(timing.queue);
        self.compute_input.add(timing.copy_in);
        self.compute_infer.add(timing.compute);
        self.compute_output.add(timing.copy_out);
        self.latency.add(latency);
        self.inferences.fetch_add(rows, Ordering::Relaxed);
        // At least 1, because 0 means never.
        let at = saturating_ns(now.saturating_duration_since(*ORIGIN)).max(1);
        self.last_success.store(at, Ordering::Relaxed);
    }

    /// Counts a request that did not succeed.
    pub fn failed(&self, code: Code, latency: Duration) {
        self.fail.add(latency);
        self.failures.add(code);
    }

    /// Counts one run of the operation that took `time` on its device.
    pub fn executed(&self, time: Duration) {
        self.executions.fetch_add(1, Ordering::Relaxed);
        self.service.add(time);
        self.run_here.update(&self.service);
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

    /// Whether enough runs were seen to say that nearly all are short (see [`crate::limits::RUN_HERE_P99`]).
    pub fn is_short(&self) -> bool {
        self.run_here.is_short()
    }
}

/// Remembers whether the 99th percentile of the service time is short, and looks again now and then,
/// because walking a histogram for every request would cost more than a short run.
#[derive(Debug, Default)]
struct RunHere {
    runs: AtomicU64,
    short: std::sync::atomic::AtomicBool,
}

impl RunHere {
    /// Runs between two looks, and before the first.
    const INTERVAL: u64 = 64;

    fn update(&self, service: &Histogram) {
        let runs = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        if runs.is_multiple_of(Self::INTERVAL) {
            let p99 = service.quantile_bound(0.99).unwrap_or(Duration::MAX);
            self.short.store(p99 <= crate::limits::RUN_HERE_P99, Ordering::Relaxed);
        }
    }

    fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_upper_bounds() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile_bound(0.99), None);
        for _ in 0..99 {
            histogram.add(Duration::from_nanos(1500));
        }
        histogram.add(Duration::from_secs(1));
        assert_eq!(histogram.quantile_bound(0.5), Some(Duration::from_nanos(2048)));
        assert_eq!(histogram.quantile_bound(0.99), Some(Duration::from_nanos(2048)));
        assert!(histogram.quantile_bound(1.0) >= Some(Duration::from_secs(1)));
        histogram.add(Duration::from_secs(100_000));
        assert_eq!(histogram.quantile_bound(1.0), Some(Duration::MAX));
    }

    #[test]
    fn the_last_success_is_told_in_the_time_of_day() {
        let ms = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let stats = ModelStats::default();
        assert_eq!(stats.last_inference_ms(), 0);
        let before = ms(SystemTime::now());
        stats.succeeded(&Timing::default(), Instant::now(), Duration::ZERO, 1);
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

    #[test]
    fn short_only_after_enough_runs() {
        let stats = ModelStats::default();
        for _ in 0..63 {
            stats.executed(Duration::from_micros(1));
        }
        assert!(!stats.is_short());
        stats.executed(Duration::from_micros(1));
        assert!(stats.is_short());
        for _ in 0..64 {
            stats.executed(Duration::from_millis(1));
        }
        assert!(!stats.is_short());
    }
}
