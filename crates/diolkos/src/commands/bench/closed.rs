// SPDX-License-Identifier: Apache-2.0
//! The closed loop: each client sends its next request when it has the answer to the last one.
//!
//! The rate is what client and server together can do. Latencies are from sending, and a slow server makes
//! its clients send less, so they say nothing about what independent arrivals would see: the open loop does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::caller::{Call, CallBlocking};
use super::tally::Tally;

/// Tallies that clients share: a quarter of a megabyte each, which a thousand clients need not have.
const TALLIES_MAX: usize = 16;

/// What one run of a closed loop counted.
#[derive(Debug)]
pub(crate) struct Closed {
    /// Calls that ended within the window.
    pub(crate) tally: Tally,
    /// Length of the window.
    pub(crate) window: Duration,
}

impl Closed {
    /// Good answers per second.
    pub(crate) fn rate(&self) -> f64 {
        self.tally.ok() as f64 / self.window.as_secs_f64()
    }
}

/// Runs these clients for `warmup` and then `length`, and gives them back. Calls under way at either end of
/// the window count if they end within it.
pub(crate) async fn run<C: Call + Send + 'static>(
    callers: Vec<C>,
    warmup: Duration,
    length: Duration,
) -> (Vec<C>, Closed) {
    let begin = Instant::now() + warmup;
    let end = begin + length;
    let tallies: Vec<_> =
        (0..callers.len().clamp(1, TALLIES_MAX)).map(|_| Arc::new(Mutex::new(Tally::new()))).collect();
    let mut clients = tokio::task::JoinSet::new();
    for (mut caller, tally) in callers.into_iter().zip(tallies.iter().cycle().cloned()) {
        clients.spawn(async move {
            loop {
                let sent = Instant::now();
                if sent >= end {
                    return caller;
                }
                let outcome = caller.call().await;
                let answered = Instant::now();
                if (begin..end).contains(&answered) {
                    lock(&tally).count(&outcome, answered - sent);
                }
            }
        });
    }
    let mut back = Vec::new();
    while let Some(client) = clients.join_next().await {
        // A client that panicked has said so, and does not come back.
        back.extend(client.ok());
    }
    let mut closed = Closed { tally: Tally::new(), window: length };
    for tally in &tallies {
        closed.tally.merge(&lock(tally));
    }
    (back, closed)
}

/// The same with a thread for each client, as programs have it, and no async runtime.
pub(crate) fn in_threads<C: CallBlocking + Send>(
    callers: &mut [C],
    warmup: Duration,
    length: Duration,
) -> Closed {
    let begin = Instant::now() + warmup;
    let end = begin + length;
    let mut closed = Closed { tally: Tally::new(), window: length };
    std::thread::scope(|scope| {
        let threads: Vec<_> = callers
            .iter_mut()
            .map(|caller| {
                scope.spawn(move || {
                    let mut tally = Tally::new();
                    loop {
                        let sent = Instant::now();
                        if sent >= end {
                            return tally;
                        }
                        let outcome = caller.call_blocking();
                        let answered = Instant::now();
                        if (begin..end).contains(&answered) {
                            tally.count(&outcome, answered - sent);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            // A panic in a client is this program's mistake; let it show.
            closed.tally.merge(&thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    closed
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::caller::Outcome;
    use super::*;

    struct Every2Ms(u64);

    impl Call for Every2Ms {
        async fn call(&mut self) -> Outcome {
            self.0 += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
            if self.0.is_multiple_of(2) { Outcome::Ok } else { Outcome::failed("odd") }
        }
    }

    #[tokio::test]
    async fn counts_what_ends_in_the_window_and_gives_the_clients_back() {
        let (back, closed) =
            run(vec![Every2Ms(0), Every2Ms(0)], Duration::from_millis(20), Duration::from_millis(60)).await;
        assert_eq!(back.len(), 2);
        let called: u64 = back.iter().map(|client| client.0).sum();
        let counted = closed.tally.ok() + closed.tally.failed();
        assert!(counted > 0 && counted < called, "{counted} of {called}");
        // Two clients and at least 2 ms per call.
        assert!(counted <= 2 * (60 / 2 + 1), "{counted}");
        assert_eq!(closed.tally.latencies().count(), counted);
        assert!(closed.tally.latencies().summary().min_ns >= 2_000_000);
    }
}
