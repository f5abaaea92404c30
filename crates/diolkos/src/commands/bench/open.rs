// SPDX-License-Identifier: Apache-2.0
//! The open loop: requests become due by a schedule, and clients take them in that order.
//!
//! ```text
//! pacer thread ──a permit at each due time──> clients: permit, then the next due time, then call
//! ```
//!
//! Invariant: whoever holds a permit gets a due time that has come, because there are never more permits
//! than due times that have passed. (Except at the end, when there is one permit per client to see that
//! nothing is left.)

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::caller::{Call, Outcome};
use super::latencies::Latencies;
use super::schedule::Schedule;
use super::tally::Tally;

/// Hands out requests that are due.
pub(crate) trait Due: Send + Sync {
    /// Waits for the next one to become due, and tells when that was; `None` at the end.
    fn next(&self) -> impl Future<Output = Option<Duration>> + Send;

    /// The time on the same clock.
    fn now(&self) -> Duration;
}

/// One client of an open loop: takes what is due, one after the other. Before `warmup` nothing is counted.
///
/// Latency is from when a request was due, lag from then until it was sent: if lag is large, this client or
/// its number, and not the server alone, is behind.
pub(crate) async fn client(
    due: &impl Due,
    caller: &mut impl Call,
    warmup: Duration,
    tally: &Mutex<OpenTally>,
) {
    while let Some(intended) = due.next().await {
        let counts = intended >= warmup;
        let sent = due.now();
        if counts {
            lock(tally).taken += 1;
        }
        let outcome = caller.call().await;
        if counts {
            let mut tally = lock(tally);
            tally.finished += 1;
            tally.lag.record(sent.saturating_sub(intended));
            tally.all.count(&outcome, due.now().saturating_sub(intended));
        }
    }
}

fn lock(tally: &Mutex<OpenTally>) -> std::sync::MutexGuard<'_, OpenTally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the clients of an open loop counted.
#[derive(Debug)]
pub(crate) struct OpenTally {
    pub(crate) all: Tally,
    pub(crate) lag: Latencies,
    taken: u64,
    finished: u64,
}

impl OpenTally {
    pub(crate) fn new() -> OpenTally {
        OpenTally { all: Tally::new(), lag: Latencies::new(), taken: 0, finished: 0 }
    }

    /// Counts what the end cut off: requests that were due and never sent, with the time they had waited
    /// until then, and those sent and not answered.
    fn cut_off(&mut self, never_sent: impl Iterator<Item = Duration>, end: Duration) {
        for intended in never_sent {
            self.all.count(&Outcome::failed("unsent"), end.saturating_sub(intended));
        }
        for _ in self.finished..self.taken {
            self.all.count(&Outcome::failed("unanswered"), end);
        }
    }
}

/// [`Due`] in real time.
struct Paced {
    start: Instant,
    permits: Semaphore,
    schedule: Mutex<Schedule>,
    stop: AtomicBool,
}

impl Due for Paced {
    async fn next(&self) -> Option<Duration> {
        self.permits.acquire().await.ok()?.forget();
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

impl Paced {
    /// The pacer: sleeps until each due time of its own copy of the schedule. A thread, because the timers
    /// of the async runtime count whole milliseconds.
    fn pace(&self, clients: usize) {
        let schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Otherwise the kernel lets this thread sleep 50 µs too long, to wake fewer times.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        release(
            schedule,
            || self.now(),
            |due| std::thread::sleep(due.saturating_sub(self.now())),
            |count| self.permits.add_permits(count),
            || self.stop.load(Ordering::Relaxed),
        );
        self.permits.add_permits(clients);
    }
}

/// Releases each request when it is due, several at once where the sleeper came late.
fn release(
    schedule: Schedule,
    now: impl Fn() -> Duration,
    sleep_until: impl Fn(Duration),
    mut permit: impl FnMut(usize),
    stopped: impl Fn() -> bool,
) {
    let mut schedule = schedule.peekable();
    while let Some(due) = schedule.next() {
        if due > now() {
            sleep_until(due);
        }
        let reached = now().max(due);
        let mut count = 1;
        while schedule.next_if(|due| *due <= reached).is_some() {
            count += 1;
        }
        if stopped() {
            return;
        }
        permit(count);
    }
}

/// Runs an open loop with these clients and gives them back. After the schedule's end and `grace` on top,
/// what is left is counted as failed, and the clients that hung are missing.
pub(crate) async fn run<C: Call + Send + 'static>(
    callers: Vec<C>,
    schedule: Schedule,
    warmup: Duration,
    length: Duration,
    grace: Duration,
) -> (Vec<C>, OpenTally) {
    let count = callers.len();
    let paced = Arc::new(Paced {
        start: Instant::now(),
        permits: Semaphore::new(0),
        schedule: Mutex::new(schedule),
        stop: AtomicBool::new(false),
    });
    let tally = Arc::new(Mutex::new(OpenTally::new()));
    let mut clients = tokio::task::JoinSet::new();
    for mut caller in callers {
        let (paced, tally) = (paced.clone(), tally.clone());
        clients.spawn(async move {
            client(&*paced, &mut caller, warmup, &tally).await;
            caller
        });
    }
    let pacer = {
        let paced = paced.clone();
        std::thread::spawn(move || paced.pace(count))
    };
    let mut back = Vec::new();
    let collect = async {
        while let Some(client) = clients.join_next().await {
            back.extend(client.ok());
        }
    };
    // Whether everybody came back shows in the numbers below.
    let _ = tokio::time::timeout(length + grace, collect).await;
    clients.shutdown().await;
    paced.stop.store(true, Ordering::Relaxed);
    let end = paced.now();
    let left: Vec<Duration> = {
        let schedule = paced.schedule.lock().unwrap_or_else(PoisonError::into_inner).clone();
        schedule.take_while(|due| *due <= end).filter(|due| *due >= warmup).collect()
    };
    // It is done, or sees `stop` at its next step, or sleeps until one that nobody waits for.
    drop(pacer);
    let mut tally = std::mem::replace(&mut *lock(&tally), OpenTally::new());
    tally.cut_off(left.into_iter(), end);
    (back, tally)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::atomic::AtomicU64;

    use super::super::schedule::Arrivals;
    use super::*;

    /// A clock that moves when somebody waits or works.
    #[derive(Clone)]
    struct Fake {
        now_ns: Arc<AtomicU64>,
        schedule: Arc<Mutex<Schedule>>,
    }

    impl Due for Fake {
        async fn next(&self) -> Option<Duration> {
            let due = self.schedule.lock().unwrap().next()?;
            self.now_ns.fetch_max(due.as_nanos() as u64, Ordering::Relaxed);
            Some(due)
        }

        fn now(&self) -> Duration {
            Duration::from_nanos(self.now_ns.load(Ordering::Relaxed))
        }
    }

    /// A server that takes 100 µs, and once, at the 501st request, a second.
    struct Stalls {
        now_ns: Arc<AtomicU64>,
        calls: u64,
    }

    impl Call for Stalls {
        async fn call(&mut self) -> Outcome {
            self.calls += 1;
            let takes = if self.calls == 501 { 1_000_000_000 } else { 100_000 };
            self.now_ns.fetch_add(takes, Ordering::Relaxed);
            Outcome::Ok
        }
    }

    #[tokio::test]
    async fn a_stall_counts_for_everybody_who_waits_behind_it() {
        let now_ns = Arc::new(AtomicU64::new(0));
        let schedule = Schedule::new(Arrivals::Constant, 1000.0, Duration::from_secs(5), 1);
        let due = Fake { now_ns: now_ns.clone(), schedule: Arc::new(Mutex::new(schedule)) };
        let tally = Mutex::new(OpenTally::new());
        client(&due, &mut Stalls { now_ns, calls: 0 }, Duration::ZERO, &tally).await;
        let tally = tally.into_inner().unwrap();
        assert_eq!(tally.all.ok(), 5000);
        // The stall lasts 1 s; the queue behind it shrinks by 0.9 ms per request, so 1111 requests are late.
        let late = tally.all.latencies().curve().iter().find(|point| point.ns > 110_000).unwrap().quantile;
        assert!((0.70..0.82).contains(&late), "{late}");
        assert!(tally.all.latencies().summary().p90_ns > 400_000_000);
        assert!(tally.lag.summary().p90_ns > 400_000_000);
        // Measured from sending, 4999 of 5000 would have taken 100 µs.
        assert_eq!(tally.all.latencies().summary().p50_ns, 100_031);
    }

    #[tokio::test]
    async fn nothing_counts_before_the_warm_up_is_over() {
        let now_ns = Arc::new(AtomicU64::new(0));
        let schedule = Schedule::new(Arrivals::Constant, 1000.0, Duration::from_secs(1), 1);
        let due = Fake { now_ns: now_ns.clone(), schedule: Arc::new(Mutex::new(schedule)) };
        let tally = Mutex::new(OpenTally::new());
        client(&due, &mut Stalls { now_ns, calls: 0 }, Duration::from_millis(900), &tally).await;
        assert_eq!(tally.into_inner().unwrap().all.ok(), 100);
    }

    #[test]
    fn the_pacer_releases_when_due_and_catches_up_when_late() {
        let now = Cell::new(Duration::ZERO);
        let released = RefCell::new(Vec::new());
        let schedule = Schedule::new(Arrivals::Constant, 1000.0, Duration::from_millis(10), 1);
        release(
            schedule,
            || now.get(),
            // Oversleeps by 3.5 ms once, at the fourth request.
            |due| {
                now.set(if due == Duration::from_millis(3) { due + Duration::from_micros(3500) } else { due })
            },
            |count| released.borrow_mut().push((now.get().as_micros(), count)),
            || false,
        );
        assert_eq!(
            released.into_inner(),
            [(0, 1), (1000, 1), (2000, 1), (6500, 4), (7000, 1), (8000, 1), (9000, 1)]
        );
    }

    #[test]
    fn what_is_cut_off_counts_with_the_time_it_waited() {
        let mut tally = OpenTally::new();
        (tally.taken, tally.finished) = (3, 2);
        tally.cut_off([4, 9].map(Duration::from_secs).into_iter(), Duration::from_secs(10));
        let errors = tally.all.errors();
        assert_eq!((errors["unsent"], errors["unanswered"]), (2, 1));
        assert_eq!(tally.all.latencies().count(), 3);
    }

    #[tokio::test]
    async fn real_time_sends_everything_once_and_never_early() {
        struct Instantly(Arc<AtomicU64>);
        impl Call for Instantly {
            async fn call(&mut self) -> Outcome {
                self.0.fetch_add(1, Ordering::Relaxed);
                Outcome::Ok
            }
        }
        let calls = Arc::new(AtomicU64::new(0));
        let callers = (0..4).map(|_| Instantly(calls.clone())).collect();
        let length = Duration::from_millis(100);
        let schedule = Schedule::new(Arrivals::Constant, 1000.0, length, 1);
        let began = Instant::now();
        let (back, tally) = run(callers, schedule, Duration::ZERO, length, Duration::from_secs(60)).await;
        assert_eq!((back.len(), tally.all.ok(), calls.load(Ordering::Relaxed)), (4, 100, 100));
        assert!(began.elapsed() >= Duration::from_millis(99));
    }
}
