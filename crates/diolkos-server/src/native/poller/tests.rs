// SPDX-License-Identifier: Apache-2.0
//! Tests of the poll threads.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc;

use diolkos_backend::faulty::{FaultyOperation, Gate, Plan, RunFault};
use diolkos_backend::null;
use diolkos_engine::store::{NoRehearsal, Store, StoreConfig};
use diolkos_engine::{Engine, EngineConfig, Reply, Request, Session};
use diolkos_shm::bell::Bell;
use diolkos_shm::heap::HeapSegment;
use diolkos_shm::ring::{Consumer, ENTRY_BYTES, Layout, Producer};
use diolkos_types::{HandleId, TenantId};

use super::*;

/// Hands on the first byte of what it takes, and breaks at 255.
struct Fake {
    consumer: Consumer<Arc<HeapSegment>>,
    bell: OwnedFd,
    taken: mpsc::Sender<u8>,
    panics_asleep: bool,
}

impl Channel for Fake {
    fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn take(&mut self, _offer: Offer) -> Result<Taken, Broken> {
        let Some(entry) = self.consumer.pop().map_err(|_| Broken)? else { return Ok(Taken::None) };
        self.taken.send(entry[0]).map_err(|_| Broken)?;
        assert_ne!(entry[0], 254, "a defect");
        if entry[0] == 255 { Err(Broken) } else { Ok(Taken::One) }
    }

    fn is_owed(&self) -> bool {
        false
    }

    fn may_sleep(&mut self) -> Result<bool, Broken> {
        assert!(!self.panics_asleep, "a defect");
        self.consumer.may_sleep().map_err(|_| Broken)
    }

    fn awake(&mut self) {
        self.consumer.awake();
    }

    fn give_up(&self, why: &io::Error) {
        panic!("{why}");
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
    (producer, bell, arrives, Box::new(Fake { consumer, bell: theirs, taken, panics_asleep: false }))
}

#[test]
fn every_request_of_every_channel_is_taken_however_it_waits() {
    for spin in [Spin::new(Duration::ZERO), Spin::default()] {
        let poller = Poller::start(spin, 2).unwrap();
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
    let poller = Poller::start(Spin::default(), 2).unwrap();
    let (mut producer, _bell, arrives, fake) = channel();
    producer.push(&[9; ENTRY_BYTES]).unwrap();
    poller.add(0, fake);
    assert_eq!(arrives.recv().unwrap(), 9);
}

#[test]
fn one_that_breaks_or_is_removed_is_dropped_and_the_others_go_on() {
    let poller = Poller::start(Spin::default(), 2).unwrap();
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
    let poller = Poller::start(Spin::default(), 2).unwrap();
    let (_producer, _bell, arrives, fake) = channel();
    poller.add(0, fake);
    drop(poller);
    assert!(arrives.recv().is_err());
}

/// An engine whose one operation waits at a gate.
struct Gated {
    gate: Gate,
    engine: Engine,
    session: Arc<Session>,
    handle: HandleId,
}

impl Gated {
    fn new(slots: usize) -> Gated {
        let gate = Gate::new();
        let plan = Plan::always(RunFault::Hold(gate.clone()));
        let store = Store::new(StoreConfig::default(), Vec::new(), Box::new(NoRehearsal)).unwrap();
        let operation = Arc::new(FaultyOperation::new(null::noop(), plan));
        store.add_builtin("gated", "for a test", operation).unwrap();
        let engine = Engine::start(&EngineConfig::cpu(slots), store).unwrap();
        let session = Arc::new(engine.open_session(&TenantId::default()).unwrap());
        let handle = session.open("gated", None).unwrap();
        Gated { gate, engine, session, handle }
    }

    /// A channel whose every entry is a job.
    fn channel(&self) -> (Producer<Arc<HeapSegment>>, Bell, mpsc::Receiver<Reply>, Box<Jobs>) {
        let (producer, bell, _, fake) = channel();
        let (replies, arrive) = mpsc::channel();
        let jobs = Jobs { fake: *fake, session: self.session.clone(), handle: self.handle, replies };
        (producer, bell, arrive, Box::new(jobs))
    }

    /// Jobs that the device's threads did not run.
    fn ran_here(&self) -> u64 {
        self.engine.devices()[0].ran_here
    }
}

/// Submits a job for every entry.
struct Jobs {
    fake: Fake,
    session: Arc<Session>,
    handle: HandleId,
    replies: mpsc::Sender<Reply>,
}

impl Channel for Jobs {
    fn bell(&self) -> BorrowedFd<'_> {
        self.fake.bell()
    }

    fn take(&mut self, offer: Offer) -> Result<Taken, Broken> {
        if self.fake.consumer.pop().map_err(|_| Broken)?.is_none() {
            return Ok(Taken::None);
        }
        let replies = self.replies.clone();
        let sink = Box::new(move |reply| drop(replies.send(reply)));
        let (_ticket, here) = self.session.submit_offering(Request::new(self.handle), sink, offer);
        Ok(here.map_or(Taken::One, Taken::Run))
    }

    fn is_owed(&self) -> bool {
        false
    }

    fn may_sleep(&mut self) -> Result<bool, Broken> {
        self.fake.may_sleep()
    }

    fn awake(&mut self) {
        self.fake.awake();
    }

    fn give_up(&self, why: &io::Error) {
        self.fake.give_up(why);
    }
}

#[test]
fn channels_are_served_while_a_poll_thread_runs_a_job() {
    for spin in [Spin::new(Duration::ZERO), Spin::default()] {
        let gated = Gated::new(2);
        let poller = Poller::start(spin, 2).unwrap();
        let (mut producer, bell, replies, jobs) = gated.channel();
        poller.add(0, jobs);
        producer.push(&[0; ENTRY_BYTES]).unwrap();
        bell.ring(&producer).unwrap();
        gated.gate.wait_for_arrivals(1);
        assert_eq!(gated.ran_here(), 1, "the thread that took it runs it");
        // Another channel, and one that comes only now.
        for number in 1..4 {
            let (mut producer, bell, arrives, fake) = channel();
            poller.add(number, fake);
            producer.push(&[1; ENTRY_BYTES]).unwrap();
            bell.ring(&producer).unwrap();
            assert_eq!(arrives.recv().unwrap(), 1);
        }
        // The same channel: once for the other slot, and once that has to wait for one.
        for _ in 0..2 {
            producer.push(&[0; ENTRY_BYTES]).unwrap();
            bell.ring(&producer).unwrap();
        }
        gated.gate.wait_for_arrivals(2);
        gated.gate.open();
        for _ in 0..3 {
            replies.recv().unwrap().result.unwrap();
        }
        // And on with a lead that was taken back, or taken over.
        for _ in 0..200 {
            producer.push(&[0; ENTRY_BYTES]).unwrap();
            bell.ring(&producer).unwrap();
            replies.recv().unwrap().result.unwrap();
        }
    }
}

#[test]
fn what_is_in_the_ring_when_the_lead_is_left_waits_for_no_bell() {
    let gated = Gated::new(1);
    let poller = Poller::start(Spin::default(), 1).unwrap();
    let (mut first, _bell, replies, jobs) = gated.channel();
    let (mut second, _second_bell, arrives, fake) = channel();
    // All of it is there before anybody looks, and nobody rings for it.
    for _ in 0..3 {
        first.push(&[0; ENTRY_BYTES]).unwrap();
        second.push(&[7; ENTRY_BYTES]).unwrap();
    }
    poller.add(0, jobs);
    poller.add(1, fake);
    for _ in 0..3 {
        assert_eq!(arrives.recv().unwrap(), 7);
    }
    gated.gate.open();
    for _ in 0..3 {
        replies.recv().unwrap().result.unwrap();
    }
}

#[test]
fn the_end_waits_for_no_job_that_a_poll_thread_runs() {
    let gated = Gated::new(1);
    let poller = Poller::start(Spin::default(), 1).unwrap();
    let (mut producer, bell, replies, jobs) = gated.channel();
    poller.add(0, jobs);
    producer.push(&[0; ENTRY_BYTES]).unwrap();
    bell.ring(&producer).unwrap();
    gated.gate.wait_for_arrivals(1);
    drop(poller);
    // It is answered all the same, once it ends.
    gated.gate.open();
    replies.recv().unwrap().result.unwrap();
    assert!(replies.recv().is_err(), "the channel was dropped");
}

#[test]
fn the_last_one_that_is_left_takes_no_long_job() {
    // Two jobs could run at once, and there are threads for one.
    let gated = Gated::new(2);
    let poller = Poller::start(Spin::default(), 1).unwrap();
    let (mut producer, bell, replies, jobs) = gated.channel();
    poller.add(0, jobs);
    for _ in 0..2 {
        producer.push(&[0; ENTRY_BYTES]).unwrap();
        bell.ring(&producer).unwrap();
    }
    gated.gate.wait_for_arrivals(2);
    assert_eq!(gated.ran_here(), 1, "the other one runs on the device's thread");
    let (mut other, bell, arrives, fake) = channel();
    poller.add(1, fake);
    other.push(&[3; ENTRY_BYTES]).unwrap();
    bell.ring(&other).unwrap();
    assert_eq!(arrives.recv().unwrap(), 3, "somebody leads");
    gated.gate.open();
    for _ in 0..2 {
        replies.recv().unwrap().result.unwrap();
    }
}

#[test]
fn a_panic_of_the_leader_costs_the_channels_that_there_are() {
    let poller = Poller::start(Spin::default(), 1).unwrap();
    let (_producer, _bell, arrives, mut fake) = channel();
    fake.panics_asleep = true;
    poller.add(0, fake);
    assert!(arrives.recv().is_err(), "it was dropped");
    let (mut producer, bell, arrives, fake) = channel();
    poller.add(1, fake);
    producer.push(&[5; ENTRY_BYTES]).unwrap();
    bell.ring(&producer).unwrap();
    assert_eq!(arrives.recv().unwrap(), 5, "somebody leads");
}
