// SPDX-License-Identifier: Apache-2.0
//! Doorbells: how the consumer of a ring waits, and how its producer wakes it.
//!
//! | kind | the consumer sleeps in | the producer calls | for |
//! |---|---|---|---|
//! | [`Bell::Event`] | `poll` on an eventfd | `write` | processes that also wait for other descriptors |
//! | [`Bell::Futex`] | `futex` on the ring's word | `futex` | two processes that only have the memory in common |
//! | [`Bell::Polled`] | not at all | nothing | a core to spare |
//!
//! Where the two sides have none of these in common (a guest and its host), the doorbell is a message on a stream: the
//! producer sends one when [`Producer::wake`] says so, and whoever reads it calls [`Consumer::awake`].
//!
//! A peer that died rings nothing any more. So a waiter also watches a socket whose other end closes with the peer
//! ([`Receiver::watch`]): together with an eventfd in one call, and beside the others every [`WATCH_INTERVAL`].
//!
//! A peer can ring for nothing, as often as it likes. Each ring costs the waiter one look at an empty ring; whoever
//! waits for many peers bounds how much of its time one of them gets.

use core::sync::atomic::AtomicU32;
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::thread::futex;

use crate::ring::{Consumer, Corrupt, Entry, Producer};
use crate::segment::Segment;
use crate::spin::{Others, Plan, Spin, Waited, Yields};

/// How often a waiter that can't wait for two things at once looks at the socket that it watches. Long enough to
/// cost nothing, short enough that nobody takes a dead daemon for a slow one.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Looks between two times that the core is given away, which costs as much as some tens of looks, and during which
/// nobody looks.
pub const LOOKS: u32 = 256;

/// The same where others wait for the core, who may be those who answer.
const LOOKS_IN_TURNS: u32 = 8;

/// What a request and its answer need from one side to the other, roughly, if nobody has to be woken.
const HANDOVER: Duration = Duration::from_micros(20);

/// A doorbell.
#[derive(Debug)]
pub enum Bell {
    /// An eventfd; see eventfd(2).
    Event(OwnedFd),
    /// The word in the ring that says whether its consumer sleeps; see futex(2).
    Futex,
    /// None: the consumer never sleeps.
    Polled,
}

/// Why waiting ended without an answer.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// See [`Corrupt`].
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The other end of the socket that is watched has closed.
    #[error("the other side closed the channel")]
    HungUp,
    /// The system refused.
    #[error("can't {action} a doorbell")]
    System {
        /// What was attempted.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn system(action: &'static str) -> impl Fn(Errno) -> WaitError {
    move |errno| WaitError::System { action, source: errno.into() }
}

impl Bell {
    /// An eventfd of our own. Its descriptor goes to the peer.
    pub fn event() -> Result<Bell, WaitError> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system("make"))?;
        Ok(Bell::Event(event))
    }

    /// The descriptor that can be waited for, if the bell has one.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Bell::Event(event) => Some(event.as_fd()),
            Bell::Futex | Bell::Polled => None,
        }
    }

    /// Wakes the consumer if it sleeps. To be called after entries were put in.
    pub fn ring<S: Segment<Word = AtomicU32>>(&self, producer: &Producer<S>) -> Result<(), WaitError> {
        if !producer.wake() {
            return Ok(());
        }
        match self {
            Bell::Polled => Ok(()),
            Bell::Event(event) => match rustix::io::write(event, &1u64.to_ne_bytes()) {
                // The counter is at its end because the peer put it there; then it is not zero, and wakes.
                Ok(_) | Err(Errno::AGAIN) => Ok(()),
                Err(errno) => Err(system("ring")(errno)),
            },
            Bell::Futex => {
                // Not private: the other side is another process.
                let woken = futex::wake(producer.sleeping(), futex::Flags::empty(), 1);
                woken.map(drop).map_err(system("ring"))
            }
        }
    }

    /// Sleeps until rung, or until `timeout` has passed, or for no reason at all. Where the bell is a
    /// descriptor, an end of `watched` wakes it as well.
    fn sleep<S: Segment<Word = AtomicU32>>(
        &self,
        consumer: &Consumer<S>,
        timeout: Option<Duration>,
        watched: Option<&OwnedFd>,
    ) -> Result<(), WaitError> {
        // A time past the end of the clock is none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match self {
            Bell::Polled => {
                std::thread::yield_now();
                Ok(())
            }
            Bell::Event(event) => {
                // Without a socket to watch, the bell twice.
                let mut fds = [
                    PollFd::new(event, PollFlags::IN),
                    PollFd::new(watched.unwrap_or(event), PollFlags::RDHUP),
                ];
                match poll(&mut fds, timeout.as_ref()) {
                    Ok(0) | Err(Errno::INTR) => return Ok(()),
                    Ok(_) => {}
                    Err(errno) => return Err(system("wait for")(errno)),
                }
                if !fds[1].revents().is_empty() {
                    return Err(WaitError::HungUp);
                }
                // Read, so that the next wait waits. Nothing to read: somebody else did.
                match rustix::io::read(event, &mut [0; 8]) {
                    Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
                    Err(errno) => Err(system("read")(errno)),
                }
            }
            Bell::Futex => {
                match futex::wait(consumer.sleeping(), futex::Flags::empty(), 1, timeout.as_ref()) {
                    // AGAIN: the producer cleared the word before we slept.
                    Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => Ok(()),
                    Err(errno) => Err(system("wait for")(errno)),
                }
            }
        }
    }
}

/// A consumer that waits: looks for a while, then sleeps.
#[derive(Debug)]
pub struct Receiver<S> {
    consumer: Consumer<S>,
    bell: Bell,
    spin: Spin,
    /// The last wait, from which nothing was learned yet.
    waited: Option<Waited>,
    watched: Option<OwnedFd>,
    watched_at: Instant,
    /// Between two yields.
    looks: u32,
    /// What was received last had not been worked on for longer than handing it over takes. Else those who want the core
    /// are likely to work on what is awaited.
    short_work: bool,
}

impl<S: Segment<Word = AtomicU32>> Receiver<S> {
    /// Waits at this bell for what comes out of the ring.
    #[must_use]
    pub fn new(consumer: Consumer<S>, bell: Bell, spin: Spin) -> Receiver<S> {
        Receiver {
            consumer,
            bell,
            spin,
            waited: None,
            watched: None,
            watched_at: Instant::now(),
            looks: LOOKS,
            short_work: false,
        }
    }

    /// Ends waiting with [`WaitError::HungUp`] once the other end of this socket has closed. What is in the ring
    /// by then is given first.
    #[must_use]
    pub fn watch(mut self, socket: OwnedFd) -> Receiver<S> {
        self.watched = Some(socket);
        self
    }

    /// The next entry if there is one.
    pub fn try_next(&mut self) -> Result<Option<Entry>, Corrupt> {
        self.learn();
        self.consumer.pop()
    }

    /// Learns from the last wait, about which nothing more will be told.
    fn learn(&mut self) {
        if let Some(waited) = self.waited.take() {
            self.spin.learn(waited);
        }
    }

    /// Tells how long what was received last had been worked on, where its sender says so. Without it, waits seem longer
    /// by what waking up took.
    pub fn worked_on_for(&mut self, time: Duration) {
        self.short_work = time < HANDOVER;
        if let Some(waited) = &mut self.waited {
            waited.total = waited.total.min(time.saturating_add(HANDOVER));
            waited.napping = false;
        }
    }

    /// The next entry, or `None` when `until` has passed without one.
    pub fn next_before(&mut self, until: Option<Instant>) -> Result<Option<Entry>, WaitError> {
        self.learn();
        if let Some(entry) = self.consumer.pop()? {
            return Ok(Some(entry));
        }
        if let Bell::Polled = self.bell {
            return self.poll_before(until);
        }
        let began = Instant::now();
        let left = || until.map(|until| until.saturating_duration_since(Instant::now()));
        let Plan { nap, look } = self.spin.plan();
        let (mut found, mut busy) = (None, false);
        if !nap.is_zero() {
            found = self.sleep_once(Some(left().map_or(nap, |left| left.min(nap))))?;
        }
        let napping = found.is_some();
        if found.is_none() && !look.is_zero() {
            (found, busy) = self.look(left().map_or(look, |left| left.min(look)))?;
        }
        while found.is_none() {
            let left = left();
            if left.is_some_and(|left| left.is_zero()) {
                break;
            }
            found = self.sleep_once(left)?;
        }
        // How long it takes is not known before it has come.
        if found.is_some() {
            self.waited = Some(Waited { total: began.elapsed(), busy, napping });
        }
        Ok(found)
    }

    /// Looks until something comes or `until` has passed, and never sleeps.
    fn poll_before(&mut self, until: Option<Instant>) -> Result<Option<Entry>, WaitError> {
        loop {
            for _ in 0..LOOKS {
                if let Some(entry) = self.consumer.pop()? {
                    return Ok(Some(entry));
                }
                core::hint::spin_loop();
            }
            std::thread::yield_now();
            let now = Instant::now();
            // What a peer put in before it died was there before its end was.
            let ended = self.has_ended(now);
            if let Some(entry) = self.consumer.pop()? {
                return Ok(Some(entry));
            }
            ended?;
            if until.is_some_and(|until| until <= now) {
                return Ok(None);
            }
        }
    }

    /// Looks at the socket, now and then.
    fn has_ended(&mut self, now: Instant) -> Result<(), WaitError> {
        let Some(socket) = &self.watched else { return Ok(()) };
        if now.duration_since(self.watched_at) >= WATCH_INTERVAL {
            self.watched_at = now;
            if has_hung_up(socket)? {
                return Err(WaitError::HungUp);
            }
        }
        Ok(())
    }

    /// Sleeps until something comes, `left` has passed, or for no reason at all.
    fn sleep_once(&mut self, left: Option<Duration>) -> Result<Option<Entry>, WaitError> {
        let mut slept = Ok(());
        if self.consumer.may_sleep()? {
            slept = self.sleep(left);
            self.consumer.awake();
        }
        // Before the end is told: what a peer put in before it died is there.
        match self.consumer.pop()? {
            Some(entry) => Ok(Some(entry)),
            None => slept.map(|()| None),
        }
    }

    /// Sleeps once, and looks at the socket where the bell does not wait for both.
    fn sleep(&mut self, left: Option<Duration>) -> Result<(), WaitError> {
        if let (Bell::Futex, Some(_)) = (&self.bell, &self.watched) {
            self.has_ended(Instant::now())?;
            let left = left.map_or(WATCH_INTERVAL, |left| left.min(WATCH_INTERVAL));
            return self.bell.sleep(&self.consumer, Some(left), None);
        }
        self.bell.sleep(&self.consumer, left, self.watched.as_ref())
    }

    /// Looks for so long. Also says whether others want the core.
    fn look(&mut self, limit: Duration) -> Result<(Option<Entry>, bool), Corrupt> {
        let began = Instant::now();
        let mut now = began;
        let mut yields = Yields::default();
        while now.duration_since(began) < limit {
            for _ in 0..self.looks {
                if let Some(entry) = self.consumer.pop()? {
                    return Ok((Some(entry), false));
                }
                core::hint::spin_loop();
            }
            let before = Instant::now();
            std::thread::yield_now();
            now = Instant::now();
            self.looks = match yields.took(now.duration_since(before)) {
                Others::None => LOOKS,
                Others::TakeTurns if self.short_work => LOOKS_IN_TURNS,
                Others::TakeTurns | Others::Work => return Ok((self.consumer.pop()?, true)),
            };
        }
        Ok((None, false))
    }
}

fn has_hung_up(socket: &OwnedFd) -> Result<bool, WaitError> {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    match poll(&mut fds, Some(&Timespec::default())) {
        Ok(_) => Ok(!fds[0].revents().is_empty()),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(system("wait for")(errno)),
    }
}
