// SPDX-License-Identifier: Apache-2.0
//! Moves long conversions off the I/O threads.
//!
//! Parsing a megabyte of JSON takes milliseconds, and whoever shares the thread would wait. What is larger
//! than [`INLINE_BYTES_MAX`] goes to the blocking pool, where two things bound it:
//!
//! * At most [`PARALLEL_MAX`] conversions run at a time, so that they never take all cores from the devices.
//! * A session has one of them at a time, its [`OwnTurn`], and so at most one in the queue for the others'
//!   turns. That queue is first come first served, and therefore goes round among sessions: whoever sends
//!   a hundred large bodies at once waits for himself, and a stranger waits for one of them at most.
//!
//! What may wait for something, and not only compute, goes there whatever its size ([`waiting`]), and has turns
//! of its own: whoever makes it wait must not hold up the conversions of others.

use std::sync::Arc;

use diolkos_types::{Code, Status};
use tokio::sync::Semaphore;

/// Up to this size a conversion is done in place: about a millisecond of JSON, or a memcpy of 25 µs.
pub(crate) const INLINE_BYTES_MAX: usize = 256 << 10;

/// Conversions at a time in the blocking pool.
pub(crate) const PARALLEL_MAX: usize = 2;

static TURNS: Semaphore = Semaphore::const_new(PARALLEL_MAX);

/// Pieces of work that may wait at a time. They use no core meanwhile, but each has a thread.
pub(crate) const WAITING_MAX: usize = 16;

static WAITING_TURNS: Semaphore = Semaphore::const_new(WAITING_MAX);

/// The one long conversion that a session may have going on.
#[derive(Clone, Debug)]
pub(crate) struct OwnTurn(Arc<Semaphore>);

impl Default for OwnTurn {
    fn default() -> OwnTurn {
        OwnTurn(Arc::new(Semaphore::new(1)))
    }
}

/// Runs `work`, which handles about `bytes` bytes, here or elsewhere depending on the size.
pub(crate) async fn run<T: Send + 'static>(
    own: &OwnTurn,
    bytes: usize,
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    if bytes <= INLINE_BYTES_MAX {
        return work();
    }
    elsewhere(own, &TURNS, work).await
}

/// Runs `work`, which may have to wait: for a lock of a file that its client holds, say.
pub(crate) async fn waiting<T: Send + 'static>(
    own: &OwnTurn,
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    elsewhere(own, &WAITING_TURNS, work).await
}

async fn elsewhere<T: Send + 'static>(
    own: &OwnTurn,
    turns: &'static Semaphore,
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let own_turn = own.0.clone().acquire_owned().await.expect("nobody closes this semaphore");
    let turn = turns.acquire().await.expect("nobody closes this semaphore");
    let joined = tokio::task::spawn_blocking(move || {
        // Held by the work and not by its caller: a caller that goes away must not let a third one begin.
        let _turns = (own_turn, turn);
        work()
    });
    joined.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a conversion panicked");
        Err(Status::new(Code::Internal, "converting the request or its answer failed inside the daemon"))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LARGE: usize = INLINE_BYTES_MAX + 1;

    #[tokio::test]
    async fn small_stays_here_and_large_moves() {
        let (own, here) = (OwnTurn::default(), std::thread::current().id());
        assert_eq!(run(&own, 10, move || Ok(std::thread::current().id() == here)).await, Ok(true));
        assert_eq!(run(&own, LARGE, move || Ok(std::thread::current().id() == here)).await, Ok(false));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_that_call_only() {
        let own = OwnTurn::default();
        let failed = run::<()>(&own, LARGE, || panic!("on purpose")).await;
        assert_eq!(failed.unwrap_err().code(), Code::Internal);
        assert_eq!(run(&own, LARGE, || Ok(7)).await, Ok(7));
    }

    /// Nine long conversions of one session, of which one is under way, and then one of another session.
    #[tokio::test]
    async fn a_session_in_a_hurry_holds_up_itself_and_nobody_else() {
        let (greedy, other) = (OwnTurn::default(), OwnTurn::default());
        let (began, has_begun) = mpsc::channel();
        let (finish, may_finish) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let greedy = greedy.clone();
            async move {
                run(&greedy, LARGE, move || {
                    began.send(()).unwrap();
                    may_finish.recv().unwrap();
                    Ok(())
                })
                .await
            }
        });
        tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
        let queued: Vec<_> = (0..8)
            .map(|_| {
                let greedy = greedy.clone();
                tokio::spawn(async move { run(&greedy, LARGE, || Ok(())).await })
            })
            .collect();
        tokio::task::yield_now().await;
        // Would wait for the test's end if the eight had the second turn or stood before it in the queue.
        assert_eq!(run(&other, LARGE, || Ok(1)).await, Ok(1));
        assert!(queued.iter().all(|task| !task.is_finished()), "a session had two turns at once");
        finish.send(()).unwrap();
        first.await.unwrap().unwrap();
        for task in queued {
            task.await.unwrap().unwrap();
        }
    }
}
