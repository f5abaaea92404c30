// SPDX-License-Identifier: Apache-2.0
//! Who leads, and how the lead changes hands without anybody being woken for it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
}

impl Crew {
    pub(super) fn new() -> io::Result<Crew> {
        let inbox = Inbox::new()?;
        let bells = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&bells, &inbox.bell, EventData::new_u64(INBOX), EventFlags::IN | EventFlags::ET)?;
        let sentries = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&sentries, &bells, EventData::new_u64(BELLS), EventFlags::empty())?;
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&sentries, &end, EventData::new_u64(END), EventFlags::IN)?;
        Ok(Crew { inbox, bells, sentries, end, lead: Mutex::new(None) })
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
    while let Some(mut turns) = lead.or_else(|| crew.await_lead()) {
        match turns.run(crew, &mut events) {
            Ended::Job(here) => {
                crew.leave(turns);
                here.run();
                lead = crew.take_back();
            }
            Ended::Stop => {
                // It can't be full.
                let _ = rustix::io::write(&crew.end, &1u64.to_ne_bytes());
                return;
            }
        }
    }
}
