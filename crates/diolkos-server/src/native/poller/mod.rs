// SPDX-License-Identifier: Apache-2.0
//! The threads that take requests out of rings.
//!
//! One of them leads: it looks at the channels, or sleeps until a bell rings. What it takes out is copied, checked and
//! handed to the engine, which is short. If the engine then has a free slot for the job, the thread runs it itself, so
//! that nobody has to be woken for it: a short job at once, within [`TURN_HERE_MAX`], and for any other it leaves the
//! lead first.
//!
//! ```text
//!                  a bell rings while nobody leads
//!      sentry ────────────────────────────────────────> leads ──── a job that may take long
//!         ^                                             ^                    │
//!         │                              nobody took it │                    v
//!         └──────────── another one leads ──────────────┴──────────────── runs it
//! ```
//!
//! Leaving wakes nobody either. The bells are watched by one epoll, `bells`, in which the leader sleeps; the others sleep in
//! a second one, `sentries`, that watches the first. It is armed while nobody leads, for one event: so a bell
//! that rings then wakes one sentry, and a bell that rings for a leader wakes no one else.
//!
//! There is one thread more than jobs can run at once. A job's slot is free before its answer was handed over, so that alone does
//! not keep a sentry in reserve: a leader that is the last one left takes short jobs only ([`Crew::can_be_left`]).

mod crew;
mod inbox;
#[cfg(test)]
mod tests;
mod turns;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use diolkos_engine::{Here, Offer};
use diolkos_shm::spin::Spin;

use crew::Crew;
use inbox::Command;
use turns::Turns;

/// Time that short jobs may take on this thread in one round through all channels.
const TURN_HERE_MAX: Duration = Duration::from_micros(100);

/// What came of looking into a channel's ring.
#[derive(Debug)]
pub(super) enum Taken {
    /// A request, which is on its way.
    One,
    /// A request, to be run by the thread that took it.
    Run(Here),
    /// There was none.
    None,
}

/// A channel can't be served any more: its peer broke the protocol, and it has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// A ring with requests.
pub(super) trait Channel: Send {
    /// Rings when something was put in while the channel is asleep.
    fn bell(&self) -> BorrowedFd<'_>;

    /// Takes one request out, if there is one. `offer` says what its job may be that comes back.
    fn take(&mut self, offer: Offer) -> Result<Taken, Broken>;

    /// Whether its client waits for an answer of ours. Then hardly anything will come, and whoever works on the answer
    /// needs the core more.
    fn is_owed(&self) -> bool;

    /// Announces sleep. `false`: something came meanwhile.
    fn may_sleep(&mut self) -> Result<bool, Broken>;

    /// Takes the announcement back.
    fn awake(&mut self);

    /// Its bell can't be watched, so nothing would ever be taken: ends the connection.
    fn give_up(&self, why: &io::Error);
}

/// The poll threads. Dropping it drops their channels and ends the threads, but for those that run a job: they end after
/// it, and nobody waits for them.
pub(super) struct Poller {
    crew: Arc<Crew>,
    threads: Vec<JoinHandle<()>>,
}

impl Poller {
    /// Starts the threads: one that leads, and one for each of the jobs that can run at once. `spin` says how long
    /// they look before they sleep.
    pub(super) fn start(spin: Spin, jobs: usize) -> io::Result<Poller> {
        let crew = Arc::new(Crew::new(jobs + 1)?);
        let mut leads = Some(Box::new(Turns::new(spin)));
        let mut threads = Vec::new();
        for index in 0..=jobs {
            let (shared, leads) = (crew.clone(), leads.take());
            let name = format!("dk-poll-{index}");
            let thread = std::thread::Builder::new().name(name).spawn(move || crew::serve(&shared, leads));
            match thread {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    crew.inbox.send(Command::Stop);
                    return Err(error);
                }
            }
        }
        Ok(Poller { crew, threads })
    }

    /// Serves a channel from now on, under a number that no other has.
    pub(super) fn add(&self, number: u64, channel: Box<dyn Channel>) {
        self.crew.inbox.send(Command::Add(number, channel));
    }

    /// Drops a channel, soon.
    pub(super) fn remove(&self, number: u64) {
        self.crew.inbox.send(Command::Remove(number));
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.crew.inbox.send(Command::Stop);
        self.crew.wait_for_the_end();
        for thread in self.threads.drain(..).filter(JoinHandle::is_finished) {
            if thread.join().is_err() {
                tracing::error!("a poll thread panicked");
            }
        }
    }
}
