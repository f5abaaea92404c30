// SPDX-License-Identifier: Apache-2.0
//! The thread that takes requests out of rings.
//!
//! ```text
//!            bell rings                         something is in the ring
//!  asleep ───────────────> looked at ──────┐ <──────────────────────────┐
//!    ^                                     ├──────── take one ──────────┘
//!    └── nothing for as long as it is worth looking (Spin), an answer is owed, or others want the core
//! ```
//!
//! Channels that are looked at take turns, one request each. While all are asleep the thread sleeps in `epoll_wait`
//! and uses no processor. A bell is watched edge-triggered and never read: every ring wakes once, and a peer that
//! rings for nothing buys a look at its own empty ring.
//!
//! What a request does here is short: it is copied, checked and handed to the engine. The engine may run a very short
//! operation on this thread; [`TURN_HERE_MAX`] bounds how much of a round goes there.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diolkos_shm::bell::LOOKS;
use diolkos_shm::spin::{Spin, Waited, YIELD_MAX};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

/// Time that operations may take on this thread in one round through all channels.
const TURN_HERE_MAX: Duration = Duration::from_micros(100);

/// While some channels are looked at, the bells of the others are looked at so often.
const BELLS_EVERY: Duration = Duration::from_micros(20);

/// Bells that are taken in at once.
const EVENTS_MAX: usize = 64;

/// The number of the event that stands for the thread's own inbox.
const INBOX: u64 = u64::MAX;

/// What came of looking into a channel's ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A request, which is on its way.
    One,
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

    /// Takes one request out, if there is one. `here`: a short operation may run before this returns.
    fn take(&mut self, here: bool) -> Result<Taken, Broken>;

    /// Whether its client waits for an answer of ours. Then hardly anything will come, and whoever works on the answer
    /// needs the core more.
    fn is_owed(&self) -> bool;

    /// Announces sleep. `false`: something came meanwhile.
    fn may_sleep(&mut self) -> Result<bool, Broken>;

    /// Takes the announcement back.
    fn awake(&mut self);
}

enum Command {
    Add(u64, Box<dyn Channel>),
    Remove(u64),
    Stop,
}

struct Inbox {
    commands: Mutex<Vec<Command>>,
    any: AtomicBool,
    bell: OwnedFd,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Vec<Command>> {
        // Nothing below panics while it holds the lock.
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, command: Command) {
        self.lock().push(command);
        self.any.store(true, Ordering::Release);
        // Full means that it was rung often enough.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

/// The poll thread. Dropping it ends the thread and drops its channels.
pub(super) struct Poller {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
}

impl Poller {
    /// Starts the thread; `spin` says how long it looks before it sleeps.
    pub(super) fn start(spin: Spin) -> io::Result<Poller> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let inbox = Arc::new(Inbox { commands: Mutex::default(), any: AtomicBool::new(false), bell });
        let mut turns = Turns::new(inbox.clone(), spin)?;
        let thread = std::thread::Builder::new().name("dk-poll".into()).spawn(move || turns.run())?;
        Ok(Poller { inbox, thread: Some(thread) })
    }

    /// Serves a channel from now on, under a number that no other has.
    pub(super) fn add(&self, number: u64, channel: Box<dyn Channel>) {
        self.inbox.send(Command::Add(number, channel));
    }

    /// Drops a channel, soon.
    pub(super) fn remove(&self, number: u64) {
        self.inbox.send(Command::Remove(number));
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.inbox.send(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the poll thread panicked");
        }
    }
}

/// A channel, and how it waits.
struct Served {
    channel: Box<dyn Channel>,
    spin: Spin,
    /// Looked at, and not asleep.
    hot: bool,
    /// Nothing came since.
    quiet_since: Instant,
    /// For so long it is looked at.
    look: Duration,
}

impl Served {
    /// Something came after a time of quiet.
    fn learn(&mut self, now: Instant, busy: bool) {
        self.spin.learn(Waited { total: now.duration_since(self.quiet_since), busy });
    }

    /// Quiet begins.
    fn quiet(&mut self, now: Instant) {
        self.quiet_since = now;
        self.look = self.spin.look();
    }
}

/// A panic on the way of one channel's request is a defect of ours. It costs that channel, and no other.
fn take_guarded(channel: &mut dyn Channel, here: bool) -> Result<Taken, Broken> {
    let take = std::panic::AssertUnwindSafe(|| channel.take(here));
    std::panic::catch_unwind(take).unwrap_or_else(|_| {
        tracing::error!("taking a request out of a ring panicked; its channel is broken off");
        Err(Broken)
    })
}

/// The thread's own state.
struct Turns {
    inbox: Arc<Inbox>,
    bells: OwnedFd,
    spin: Spin,
    channels: HashMap<u64, Served>,
    /// Numbers of those that are looked at, in the order of their turns.
    hot: Vec<u64>,
}

impl Turns {
    fn new(inbox: Arc<Inbox>, spin: Spin) -> io::Result<Turns> {
        let bells = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&bells, &inbox.bell, EventData::new_u64(INBOX), EventFlags::IN | EventFlags::ET)?;
        Ok(Turns { inbox, bells, spin, channels: HashMap::new(), hot: Vec::new() })
    }

    fn run(&mut self) {
        let mut bells_at = Instant::now();
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            if self.inbox.any.swap(false, Ordering::Acquire) && self.obey().is_break() {
                return;
            }
            if !self.rounds() {
                let busy = self.give_way();
                self.put_to_sleep(busy);
            }
            if self.hot.is_empty() {
                self.hear(None, &mut events);
            } else if bells_at.elapsed() > BELLS_EVERY {
                // Whoever is served all the time must not keep the others' bells from being heard.
                self.hear(Some(Duration::ZERO), &mut events);
                bells_at = Instant::now();
            }
        }
    }

    /// Carries out what the other threads asked for.
    fn obey(&mut self) -> std::ops::ControlFlow<()> {
        let commands = std::mem::take(&mut *self.inbox.lock());
        for command in commands {
            match command {
                Command::Add(number, channel) => self.add(number, channel),
                Command::Remove(number) => self.drop_channel(number),
                Command::Stop => return std::ops::ControlFlow::Break(()),
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    fn add(&mut self, number: u64, channel: Box<dyn Channel>) {
        let watched = epoll::add(
            &self.bells,
            channel.bell(),
            EventData::new_u64(number),
            EventFlags::IN | EventFlags::ET,
        );
        if let Err(error) = watched {
            // Its peer waits for answers until it gives up, and sees the log line's reason nowhere; but a
            // descriptor that was just made can only fail here for want of memory.
            tracing::error!(%error, "can't watch the bell of a channel");
            return;
        }
        let mut served = Served {
            channel,
            spin: self.spin,
            hot: false,
            quiet_since: Instant::now(),
            look: Duration::ZERO,
        };
        served.quiet(Instant::now());
        self.channels.insert(number, served);
        // Requests may have been put in before anybody watched.
        self.heat(number);
    }

    fn drop_channel(&mut self, number: u64) {
        self.hot.retain(|&hot| hot != number);
        if let Some(served) = self.channels.remove(&number) {
            // The descriptor may live on in the peer, and with it the watch.
            let _ = epoll::delete(&self.bells, served.channel.bell());
        }
    }

    fn heat(&mut self, number: u64) {
        if let Some(served) = self.channels.get_mut(&number)
            && !served.hot
        {
            served.hot = true;
            served.channel.awake();
            self.hot.push(number);
        }
    }

    /// Some rounds, until one of them found something.
    fn rounds(&mut self) -> bool {
        let rounds = LOOKS as usize / self.hot.len().max(1);
        let began = Instant::now();
        (0..rounds.max(1)).any(|_| {
            std::hint::spin_loop();
            self.round(began)
        })
    }

    /// One turn for each channel that is looked at. Whether any had a request.
    fn round(&mut self, began: Instant) -> bool {
        let mut any = false;
        let mut here = true;
        let mut index = 0;
        while let Some(&number) = self.hot.get(index) {
            let Some(served) = self.channels.get_mut(&number) else {
                self.hot.swap_remove(index);
                continue;
            };
            match take_guarded(&mut *served.channel, here) {
                Ok(Taken::None) => index += 1,
                Ok(Taken::One) => {
                    any = true;
                    served.learn(began, false);
                    let now = Instant::now();
                    served.quiet(now);
                    here = now.duration_since(began) < TURN_HERE_MAX;
                    index += 1;
                }
                Err(Broken) => self.drop_channel(number),
            }
        }
        any
    }

    /// Lets others have the core. Whether somebody wanted it.
    fn give_way(&self) -> bool {
        if self.hot.is_empty() {
            return false;
        }
        let before = Instant::now();
        std::thread::yield_now();
        before.elapsed() > YIELD_MAX
    }

    /// Channels for which looking is not worth it any more announce sleep.
    fn put_to_sleep(&mut self, busy: bool) {
        let now = Instant::now();
        let mut index = 0;
        while let Some(&number) = self.hot.get(index) {
            let Some(served) = self.channels.get_mut(&number) else {
                self.hot.swap_remove(index);
                continue;
            };
            let quiet = now.duration_since(served.quiet_since);
            if !busy && quiet < served.look && !served.channel.is_owed() {
                index += 1;
                continue;
            }
            match served.channel.may_sleep() {
                Ok(true) => {
                    if busy {
                        served.learn(now, true);
                    }
                    served.hot = false;
                    self.hot.swap_remove(index);
                }
                Ok(false) => index += 1,
                Err(Broken) => self.drop_channel(number),
            }
        }
    }

    /// Waits for bells, and looks at the channels whose rang.
    fn hear(&mut self, timeout: Option<Duration>, events: &mut Vec<epoll::Event>) {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        events.clear();
        match epoll::wait(&self.bells, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => tracing::error!(%error, "can't wait for bells"),
        }
        for event in events {
            let number = event.data.u64();
            // The inbox is looked at in every round anyway.
            if number != INBOX {
                self.heat(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use diolkos_shm::bell::Bell;
    use diolkos_shm::heap::HeapSegment;
    use diolkos_shm::ring::{Consumer, ENTRY_BYTES, Layout, Producer};

    use std::os::fd::AsFd as _;

    use super::*;

    /// Hands on the first byte of what it takes, and breaks at 255.
    struct Fake {
        consumer: Consumer<Arc<HeapSegment>>,
        bell: OwnedFd,
        taken: mpsc::Sender<u8>,
    }

    impl Channel for Fake {
        fn bell(&self) -> BorrowedFd<'_> {
            self.bell.as_fd()
        }

        fn take(&mut self, _here: bool) -> Result<Taken, Broken> {
            let Some(entry) = self.consumer.pop().map_err(|_| Broken)? else { return Ok(Taken::None) };
            self.taken.send(entry[0]).map_err(|_| Broken)?;
            assert_ne!(entry[0], 254, "a defect");
            if entry[0] == 255 { Err(Broken) } else { Ok(Taken::One) }
        }

        fn is_owed(&self) -> bool {
            false
        }

        fn may_sleep(&mut self) -> Result<bool, Broken> {
            self.consumer.may_sleep().map_err(|_| Broken)
        }

        fn awake(&mut self) {
            self.consumer.awake();
        }
    }

    fn channel() -> (Producer<Arc<HeapSegment>>, Bell, mpsc::Receiver<u8>, Box<Fake>) {
        let layout = Layout::new(0, 8).unwrap();
        let segment = Arc::new(HeapSegment::new(layout.end()));
        let producer = Producer::new(segment.clone(), layout).unwrap();
        let consumer = Consumer::new(segment, layout).unwrap();
        let bell = Bell::event().unwrap();
        let theirs = bell.descriptor().unwrap().try_clone_to_owned().unwrap();
        let (taken, arrives) = mpsc::channel();
        (producer, bell, arrives, Box::new(Fake { consumer, bell: theirs, taken }))
    }

    #[test]
    fn every_request_of_every_channel_is_taken_however_it_waits() {
        for spin in [Spin::new(Duration::ZERO), Spin::default()] {
            let poller = Poller::start(spin).unwrap();
            let mut channels = Vec::new();
            for number in 0..5 {
                let (producer, bell, arrives, fake) = channel();
                poller.add(number, fake);
                channels.push((producer, bell, arrives));
            }
            for round in 0..200u8 {
                for (producer, bell, _) in &mut channels {
                    producer.push(&[round; ENTRY_BYTES]).unwrap();
                    bell.ring(producer).unwrap();
                }
                for (_, _, arrives) in &channels {
                    assert_eq!(arrives.recv().unwrap(), round);
                }
            }
        }
    }

    #[test]
    fn what_was_put_in_before_anybody_watched_is_taken() {
        let poller = Poller::start(Spin::default()).unwrap();
        let (mut producer, _bell, arrives, fake) = channel();
        producer.push(&[9; ENTRY_BYTES]).unwrap();
        poller.add(0, fake);
        assert_eq!(arrives.recv().unwrap(), 9);
    }

    #[test]
    fn one_that_breaks_or_is_removed_is_dropped_and_the_others_go_on() {
        let poller = Poller::start(Spin::default()).unwrap();
        let (mut defective, bell, panics, fake) = channel();
        poller.add(2, fake);
        defective.push(&[254; ENTRY_BYTES]).unwrap();
        bell.ring(&defective).unwrap();
        assert_eq!(panics.recv().unwrap(), 254);
        assert!(panics.recv().is_err(), "it was dropped");
        let (mut breaking, bell, breaks, fake) = channel();
        poller.add(0, fake);
        let (mut other, other_bell, arrives, fake) = channel();
        poller.add(1, fake);
        breaking.push(&[255; ENTRY_BYTES]).unwrap();
        bell.ring(&breaking).unwrap();
        assert_eq!(breaks.recv().unwrap(), 255);
        assert!(breaks.recv().is_err(), "it was dropped");
        other.push(&[1; ENTRY_BYTES]).unwrap();
        other_bell.ring(&other).unwrap();
        assert_eq!(arrives.recv().unwrap(), 1);
        poller.remove(1);
        assert!(arrives.recv().is_err(), "it was dropped");
        poller.remove(1);
    }

    #[test]
    fn the_end_of_the_thread_drops_its_channels() {
        let poller = Poller::start(Spin::default()).unwrap();
        let (_producer, _bell, arrives, fake) = channel();
        poller.add(0, fake);
        drop(poller);
        assert!(arrives.recv().is_err());
    }
}
