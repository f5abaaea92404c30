// SPDX-License-Identifier: Apache-2.0
//! Who leads, and how the lead changes hands without anybody being woken for it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::inbox::Inbox;
use super::turns::{EVENTS_MAX, Ended, INBOX, Turns};

/// The number of the event that tells sentries of the end. The other one is that of the bells.
const END: u64 = 1;
const BELLS: u64 = 0;

/// What the poll threads share.
pub(super) struct Crew {
    pub(super) inbox: Inbox,
    /// The bells of all channels and of the inbox. Whoever leads sleeps here.
    pub(super) bells: OwnedFd,
    /// Who does not lead sleeps here.
    sentries: OwnedFd,
    /// Readable from the end on.
    end: OwnedFd,
    /// Where the lead lies while nobody has it.
    lead: Mutex<Option<Box<Turns>>>,
    /// Threads that there are.
    threads: usize,
    /// Those that run a job, or are still handing its answer over.
    busy: AtomicUsize,
    /// Those that have ended.
    ended: Mutex<usize>,
    one_ended: Condvar,
}

impl Crew {
    pub(super) fn new(threads: usize) -> io::Result<Crew> {
        let inbox = Inbox::new()?;
        let bells = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&bells, &inbox.bell, EventData::new_u64(INBOX), EventFlags::IN | EventFlags::ET)?;
        let sentries = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&sentries, &bells, EventData::new_u64(BELLS), EventFlags::empty())?;
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&sentries, &end, EventData::new_u64(END), EventFlags::IN)?;
        Ok(Crew {
            inbox,
            bells,
            sentries,
            end,
            lead: Mutex::new(None),
            threads,
            busy: AtomicUsize::new(0),
            ended: Mutex::new(0),
            one_ended: Condvar::new(),
        })
    }

    /// Whether somebody is left to lead if the leader runs a job that may take long. Only a leader becomes busy, and
    /// there is one, so the answer stays true until it has.
    pub(super) fn can_be_left(&self) -> bool {
        self.busy.load(Ordering::Acquire) + 1 < self.threads
    }

    /// Waits until no thread is left but those that run jobs: an operation may never return. They end after it.
    pub(super) fn wait_for_the_end(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // Who stops being busy tells nobody, so look again now and then.
        let pause = Duration::from_millis(5);
        while *ended + self.busy.load(Ordering::Acquire) < self.threads {
            ended = self.one_ended.wait_timeout(ended, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<Turns>>> {
        // Nothing below panics while it holds the lock.
        self.lead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the lead to whoever is woken by the next bell.
    fn leave(&self, mut turns: Box<Turns>) {
        let all_sleep = turns.rest();
        *self.lock() = Some(turns);
        // In this order: who is woken finds the lead. A bell that rang before is still to be heard, and wakes at once.
        self.watch(EventFlags::IN | EventFlags::ONESHOT);
        if !all_sleep {
            self.inbox.ring();
        }
    }

    /// Takes the lead back, if nobody else has it.
    fn take_back(&self) -> Option<Box<Turns>> {
        let mut turns = self.lock().take()?;
        // A sentry that was woken just now finds no lead, and sleeps again.
        self.watch(EventFlags::empty());
        turns.resume();
        Some(turns)
    }

    /// Whether sentries hear the bells.
    fn watch(&self, flags: EventFlags) {
        let watched = epoll::modify(&self.sentries, &self.bells, EventData::new_u64(BELLS), flags);
        if let Err(error) = watched {
            tracing::error!(%error, "can't watch the bells");
        }
    }

    /// Sleeps until there is a lead to take. `None`: the end.
    fn await_lead(&self) -> Option<Box<Turns>> {
        let mut events = Vec::with_capacity(2);
        loop {
            events.clear();
            match epoll::wait(&self.sentries, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => tracing::error!(%error, "can't wait for the bells"),
            }
            if events.iter().any(|event: &epoll::Event| event.data.u64() == END) {
                return None;
            }
            if !events.is_empty()
                && let Some(mut turns) = self.lock().take()
            {
                turns.taken_over();
                return Some(turns);
            }
        }
    }
}

/// What one thread does: leads, runs jobs, and waits for the lead, until the end.
pub(super) fn serve(crew: &Crew, mut lead: Option<Box<Turns>>) {
    let mut events = Vec::with_capacity(EVENTS_MAX);
    while let Some(turns) = lead.or_else(|| crew.await_lead()) {
        match run_guarded(turns, crew, &mut events) {
            (turns, Ended::Job(here)) => {
                crew.busy.fetch_add(1, Ordering::AcqRel);
                crew.leave(turns);
                here.run();
                crew.busy.fetch_sub(1, Ordering::AcqRel);
                lead = crew.take_back();
            }
            (_, Ended::Stop) => {
                // It can't be full.
                let _ = rustix::io::write(&crew.end, &1u64.to_ne_bytes());
                break;
            }
        }
    }
    *crew.ended.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    crew.one_ended.notify_all();
}

/// A panic of the one that leads is a defect of ours. It costs the channels that there are, whose connections end with
/// them, and not those that come.
fn run_guarded(mut turns: Box<Turns>, crew: &Crew, events: &mut Vec<epoll::Event>) -> (Box<Turns>, Ended) {
    loop {
        let run = std::panic::AssertUnwindSafe(|| turns.run(crew, events));
        match std::panic::catch_unwind(run) {
            Ok(ended) => return (turns, ended),
            Err(_) => {
                tracing::error!("a poll thread panicked; all native channels are broken off");
                *turns = turns.anew();
            }
        }
    }
}
