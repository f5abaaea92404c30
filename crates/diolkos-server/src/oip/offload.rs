// SPDX-License-Identifier: Apache-2.0
//! Moves long conversions off the I/O threads.
//!
//! Parsing a megabyte of JSON takes milliseconds, and whoever shares the thread would wait. What is larger
//! than [`INLINE_BYTES_MAX`] goes to the blocking pool, at most [`PARALLEL_MAX`] at a time and first come first
//! served, so that conversions never take all cores from the devices.

use diolkos_types::{Code, Status};
use tokio::sync::Semaphore;

/// Up to this size a conversion is done in place: about a millisecond of JSON, or a memcpy of 25 µs.
pub(crate) const INLINE_BYTES_MAX: usize = 256 << 10;

/// Conversions at a time in the blocking pool.
pub(crate) const PARALLEL_MAX: usize = 2;

static TURNS: Semaphore = Semaphore::const_new(PARALLEL_MAX);

/// Runs `work`, which handles about `bytes` bytes, here or elsewhere depending on the size.
pub(crate) async fn run<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    if bytes <= INLINE_BYTES_MAX {
        return work();
    }
    let turn = TURNS.acquire().await.expect("nobody closes this semaphore");
    let joined = tokio::task::spawn_blocking(move || {
        // Held by the work and not by its caller: a caller that goes away must not let a third one begin.
        let _turn = turn;
        work()
    });
    joined.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a conversion panicked");
        Err(Status::new(Code::Internal, "converting the request or its answer failed inside the daemon"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_stays_here_and_large_moves() {
        let here = std::thread::current().id();
        assert_eq!(run(10, move || Ok(std::thread::current().id() == here)).await, Ok(true));
        let large = INLINE_BYTES_MAX + 1;
        assert_eq!(run(large, move || Ok(std::thread::current().id() == here)).await, Ok(false));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_that_call_only() {
        let failed = run::<()>(usize::MAX, || panic!("on purpose")).await;
        assert_eq!(failed.unwrap_err().code(), Code::Internal);
        assert_eq!(run(usize::MAX, || Ok(7)).await, Ok(7));
    }
}
