// SPDX-License-Identifier: Apache-2.0
//! How the one that leads looks at the channels.
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

use std::collections::HashMap;
use std::time::{Duration, Instant};

use diolkos_engine::{Here, Offer};
use diolkos_shm::bell::LOOKS;
use diolkos_shm::spin::{Others, Spin, Waited, Yields};
use diolkos_types::BuildSpread;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::crew::Crew;
use super::inbox::Command;
use super::{Broken, Channel, TURN_HERE_MAX, Taken};

/// While some channels are looked at, the bells of the others are looked at so often.
const BELLS_EVERY: Duration = Duration::from_micros(20);

/// Bells that are taken in at once.
pub(super) const EVENTS_MAX: usize = 64;

/// The number of the event that stands for the inbox.
pub(super) const INBOX: u64 = u64::MAX;

/// Why a thread does not go on leading.
pub(super) enum Ended {
    /// It has a job to run, which may take any time.
    Job(Here),
    /// It was told to stop.
    Stop,
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
        let total = now.saturating_duration_since(self.quiet_since);
        self.spin.learn(Waited { total, busy, napping: false });
    }

    /// Quiet begins.
    fn quiet(&mut self, now: Instant) {
        self.quiet_since = now;
        self.look = self.spin.look();
    }
}

/// What one round through the channels found.
enum Round {
    Nothing,
    Something,
    Job(Here),
}

/// The channels, and whose turn it is. There is one of these; whoever has it leads.
pub(super) struct Turns {
    spin: Spin,
    channels: HashMap<u64, Served, BuildSpread>,
    /// Numbers of those that are looked at, in the order of their turns.
    hot: Vec<u64>,
    /// Those that were looked at when the lead was left.
    resting: Vec<u64>,
    /// The one whose job is run, of these.
    runs: Option<u64>,
    bells_at: Instant,
    /// The time, as it was when it was last asked for. The clock is a good part of an empty call, so what was just
    /// read is used again.
    now: Instant,
    yields: Yields,
}

impl Turns {
    pub(super) fn new(spin: Spin) -> Turns {
        Turns {
            spin,
            channels: HashMap::default(),
            hot: Vec::new(),
            resting: Vec::new(),
            runs: None,
            bells_at: Instant::now(),
            now: Instant::now(),
            yields: Yields::default(),
        }
    }

    /// Leads. `events` is the thread's own room for what it hears.
    pub(super) fn run(&mut self, crew: &Crew, events: &mut Vec<epoll::Event>) -> Ended {
        loop {
            for command in crew.inbox.take() {
                match command {
                    Command::Add(number, channel) => self.add(crew, number, channel),
                    Command::Remove(number) => self.drop_channel(crew, number),
                    Command::Stop => return Ended::Stop,
                }
            }
            match self.rounds(crew) {
                Round::Something => {}
                Round::Job(here) => {
                    self.now = Instant::now();
                    self.hear_others(crew, events);
                    return Ended::Job(here);
                }
                Round::Nothing => {
                    let busy = self.give_way();
                    self.put_to_sleep(crew, busy);
                }
            }
            if self.hot.is_empty() {
                self.hear(crew, None, events);
                self.now = Instant::now();
            } else {
                self.hear_others(crew, events);
            }
        }
    }

    /// Whoever is served all the time must not keep the others' bells from being heard.
    fn hear_others(&mut self, crew: &Crew, events: &mut Vec<epoll::Event>) {
        if self.now.saturating_duration_since(self.bells_at) > BELLS_EVERY {
            self.hear(crew, Some(Duration::ZERO), events);
            self.bells_at = self.now;
        }
    }

    /// The same without any channel.
    pub(super) fn anew(&self) -> Turns {
        Turns::new(self.spin)
    }

    /// Before the lead is left: lets every channel sleep, so that its bell is heard. `false`: something has come, and
    /// somebody has to lead at once.
    pub(super) fn rest(&mut self) -> bool {
        self.resting.clear();
        let (channels, resting) = (&mut self.channels, &mut self.resting);
        self.hot.retain(|&number| {
            let Some(served) = channels.get_mut(&number) else { return false };
            // One that is broken is found to be so in its next turn.
            let sleeps = served.channel.may_sleep() == Ok(true);
            if sleeps {
                served.hot = false;
                resting.push(number);
            }
            !sleeps
        });
        self.hot.is_empty()
    }

    /// The lead was taken over from somebody who left it.
    pub(super) fn taken_over(&mut self) {
        self.now = Instant::now();
    }

    /// The lead was taken back: looks again at what was looked at before.
    pub(super) fn resume(&mut self) {
        self.now = Instant::now();
        for number in std::mem::take(&mut self.resting) {
            self.heat(number);
        }
        if let Some(served) = self.runs.take().and_then(|number| self.channels.get_mut(&number)) {
            // Its client has its answer just now.
            served.quiet(self.now);
        }
    }

    fn add(&mut self, crew: &Crew, number: u64, channel: Box<dyn Channel>) {
        let (data, flags) = (EventData::new_u64(number), EventFlags::IN | EventFlags::ET);
        if let Err(error) = epoll::add(&crew.bells, channel.bell(), data, flags) {
            return channel.give_up(&error.into());
        }
        let now = Instant::now();
        let mut served =
            Served { channel, spin: self.spin, hot: false, quiet_since: now, look: Duration::ZERO };
        served.quiet(now);
        self.channels.insert(number, served);
        // Requests may have been put in before anybody watched.
        self.heat(number);
    }

    fn drop_channel(&mut self, crew: &Crew, number: u64) {
        self.hot.retain(|&hot| hot != number);
        if let Some(served) = self.channels.remove(&number) {
            // The descriptor may live on in the peer, and with it the watch.
            let _ = epoll::delete(&crew.bells, served.channel.bell());
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
    fn rounds(&mut self, crew: &Crew) -> Round {
        let rounds = LOOKS as usize / self.hot.len().max(1);
        for _ in 0..rounds.max(1) {
            std::hint::spin_loop();
            match self.round(crew) {
                Round::Nothing => {}
                found => return found,
            }
        }
        Round::Nothing
    }

    /// One turn for each channel that is looked at, until one of them has a job to run.
    fn round(&mut self, crew: &Crew) -> Round {
        let began = self.now;
        let mut found = Round::Nothing;
        let mut offer = if crew.can_be_left() { Offer::Any } else { Offer::Short };
        let mut index = 0;
        while let Some(&number) = self.hot.get(index) {
            let Some(served) = self.channels.get_mut(&number) else {
                self.hot.swap_remove(index);
                continue;
            };
            match take_guarded(&mut *served.channel, offer) {
                Ok(Taken::None) => index += 1,
                Ok(Taken::Run(here)) if !here.is_short() => {
                    served.learn(began, false);
                    self.runs = Some(number);
                    // The others have their turns first, whoever leads then.
                    self.hot.rotate_left(index + 1);
                    return Round::Job(here);
                }
                Ok(taken) => {
                    served.learn(began, false);
                    if let Taken::Run(here) = taken {
                        here.run();
                    }
                    self.now = Instant::now();
                    served.quiet(self.now);
                    found = Round::Something;
                    if self.now.duration_since(began) >= TURN_HERE_MAX {
                        offer = Offer::Nothing;
                    }
                    index += 1;
                }
                Err(Broken) => self.drop_channel(crew, number),
            }
        }
        found
    }

    /// Lets others have the core. Whether somebody wanted it.
    fn give_way(&mut self) -> bool {
        if self.hot.is_empty() {
            return false;
        }
        let before = Instant::now();
        std::thread::yield_now();
        self.now = Instant::now();
        self.yields.took(self.now.duration_since(before)) != Others::None
    }

    /// Channels for which looking is not worth it any more announce sleep.
    fn put_to_sleep(&mut self, crew: &Crew, busy: bool) {
        let now = self.now;
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
                Err(Broken) => self.drop_channel(crew, number),
            }
        }
    }

    /// Waits for bells, and looks at the channels whose rang.
    fn hear(&mut self, crew: &Crew, timeout: Option<Duration>, events: &mut Vec<epoll::Event>) {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        events.clear();
        match epoll::wait(&crew.bells, spare_capacity(events), timeout.as_ref()) {
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

/// A panic on the way of one channel's request is a defect of ours. It costs that channel, and no other.
fn take_guarded(channel: &mut dyn Channel, offer: Offer) -> Result<Taken, Broken> {
    let take = std::panic::AssertUnwindSafe(|| channel.take(offer));
    std::panic::catch_unwind(take).unwrap_or_else(|_| {
        tracing::error!("taking a request out of a ring panicked; its channel is broken off");
        Err(Broken)
    })
}
