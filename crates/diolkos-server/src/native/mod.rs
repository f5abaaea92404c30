// SPDX-License-Identifier: Apache-2.0
//! The native channel: messages over a stream, and rings and regions in shared memory beside it.
//!
//! ```text
//!  socket ──> connection (async) ──> control: open, list, load, …
//!                │      │
//!                │      └─ Infer with its payload ──┐
//!                │ OpenChannel                      ├──> session: wire ↔ engine ──> engine
//!                v                                  │
//!             poller (threads) ───> ring ── Infer ──┘
//! ```
//!
//! | module | its one job |
//! |---|---|
//! | `connection` | one client's stream, from its preface to its end |
//! | `answers` | answers on a stream, and the memory of those that wait to be taken |
//! | `frames` | messages and payload off and onto a socket, with descriptors beside them |
//! | `control` | the calls that are not inference |
//! | `session` | what a client has open, and its requests as the engine's |
//! | `regions` | the regions that it registered |
//! | `ring` | its rings: requests out of one, answers into the other |
//! | `poller` | the threads that look into rings |
//! | `limits` | every bound of this module, with its reason |

mod answers;
mod connection;
mod control;
mod frames;
mod limits;
mod poller;
mod regions;
mod ring;
mod session;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_shm::spin::Spin;

pub(crate) use connection::{Native, speaks_native};

/// What all native connections share.
#[derive(Default)]
pub(crate) struct NativeFront {
    /// Started for the first channel, so that a daemon without any has no threads for them.
    poller: Mutex<Option<poller::Poller>>,
    channels: AtomicU64,
    /// Of all connections.
    files: Arc<regions::Files>,
}

impl NativeFront {
    /// A number for a new channel.
    fn next_channel(&self) -> u64 {
        self.channels.fetch_add(1, Ordering::Relaxed)
    }

    fn poller(&self) -> MutexGuard<'_, Option<poller::Poller>> {
        // Nothing below panics while it holds the lock.
        self.poller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a channel from now on. The first one starts the poll threads, with this `spin` and for so many `jobs`
    /// at once.
    fn serve(
        &self,
        number: u64,
        channel: Box<dyn poller::Channel>,
        spin: Spin,
        jobs: usize,
    ) -> io::Result<()> {
        let mut poller = self.poller();
        if poller.is_none() {
            *poller = Some(poller::Poller::start(spin, jobs)?);
        }
        poller.as_ref().expect("it was just started").add(number, channel);
        Ok(())
    }

    /// Serves it no longer.
    fn forget(&self, number: u64) {
        if let Some(poller) = &*self.poller() {
            poller.remove(number);
        }
    }
}

impl std::fmt::Debug for NativeFront {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NativeFront({} channels so far)", self.channels.load(Ordering::Relaxed))
    }
}
