// SPDX-License-Identifier: Apache-2.0
//! Waiting and waking over real memory files, with every kind of doorbell.

#![allow(clippy::unwrap_used)] // A test may panic.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use diolkos_shm::bell::{Bell, Receiver, WaitError};
use diolkos_shm::mapping::Mapping;
use diolkos_shm::region::{Pages, Region};
use diolkos_shm::ring::{Consumer, ENTRY_BYTES, Layout, Producer, PushError};
use diolkos_shm::spin::Spin;

/// Two mappings of one memory file, as two processes have them.
fn two_sides(len: usize) -> [Arc<Mapping>; 2] {
    use std::os::fd::AsFd as _;
    let ours = Region::create(len, Pages::Ordinary).unwrap();
    let theirs = Region::open(ours.as_fd().try_clone_to_owned().unwrap(), len as u64).unwrap();
    [ours, theirs].map(|region| region.mapping().clone())
}

fn bells() -> [(Bell, Bell); 3] {
    let event = Bell::event().unwrap();
    let same = Bell::Event(event.descriptor().unwrap().try_clone_to_owned().unwrap());
    [(event, same), (Bell::Futex, Bell::Futex), (Bell::Polled, Bell::Polled)]
}

/// Entries one at a time there and back, so that each side sleeps again and again.
fn ping_pong(spin: Spin, rounds: u64) {
    for ((there, there_too), (back, back_too)) in bells().into_iter().zip(bells()) {
        let layouts = [Layout::new(0, 4).unwrap(), Layout::new(1024, 4).unwrap()];
        let [ours, theirs] = two_sides(layouts[1].end());
        let mut requests = Producer::new(ours.clone(), layouts[0]).unwrap();
        let mut replies = Receiver::new(Consumer::new(ours, layouts[1]).unwrap(), back, spin);
        let mut inbox = Receiver::new(Consumer::new(theirs.clone(), layouts[0]).unwrap(), there_too, spin);
        let mut outbox = Producer::new(theirs, layouts[1]).unwrap();
        let peer = thread::spawn(move || {
            for _ in 0..rounds {
                let entry = inbox.next_before(None).unwrap().unwrap();
                outbox.push(&entry).unwrap();
                back_too.ring(&outbox).unwrap();
            }
        });
        for round in 0..rounds {
            let mut entry = [0; ENTRY_BYTES];
            entry[..8].copy_from_slice(&round.to_le_bytes());
            requests.push(&entry).unwrap();
            there.ring(&requests).unwrap();
            assert_eq!(replies.next_before(None).unwrap(), Some(entry));
        }
        peer.join().unwrap();
    }
}

#[test]
fn every_entry_arrives_and_every_sleeper_is_woken() {
    ping_pong(Spin::new(Duration::ZERO), 3_000);
    ping_pong(Spin::default(), 3_000);
}

#[test]
fn a_stream_of_entries_arrives_in_order() {
    for (bell, bell_too) in bells() {
        let layout = Layout::new(0, 16).unwrap();
        let [ours, theirs] = two_sides(layout.end());
        let mut producer = Producer::new(ours, layout).unwrap();
        let mut receiver = Receiver::new(Consumer::new(theirs, layout).unwrap(), bell_too, Spin::default());
        const COUNT: u64 = 50_000;
        let peer = thread::spawn(move || {
            for number in 0..COUNT {
                let entry = receiver.next_before(None).unwrap().unwrap();
                assert_eq!(entry[..8], number.to_le_bytes());
            }
            assert_eq!(receiver.try_next(), Ok(None));
        });
        for number in 0..COUNT {
            let mut entry = [0; ENTRY_BYTES];
            entry[..8].copy_from_slice(&number.to_le_bytes());
            while let Err(error) = producer.push(&entry) {
                assert_eq!(error, PushError::Full);
                thread::yield_now();
            }
            bell.ring(&producer).unwrap();
        }
        peer.join().unwrap();
    }
}

#[test]
fn a_wait_ends_at_its_time() {
    for (bell, _) in bells() {
        let layout = Layout::new(0, 2).unwrap();
        let [ours, _] = two_sides(layout.end());
        let mut receiver = Receiver::new(Consumer::new(ours, layout).unwrap(), bell, Spin::default());
        let (began, wait) = (Instant::now(), Duration::from_millis(20));
        assert_eq!(receiver.next_before(Some(began + wait)).unwrap(), None);
        assert!(began.elapsed() >= wait);
    }
}

#[test]
fn a_flood_of_rings_is_no_entry() {
    let event = Bell::event().unwrap();
    let flooded = event.descriptor().unwrap().try_clone_to_owned().unwrap();
    let layout = Layout::new(0, 2).unwrap();
    let [ours, _] = two_sides(layout.end());
    let mut receiver = Receiver::new(Consumer::new(ours.clone(), layout).unwrap(), event, Spin::default());
    // The counter at its very end, where one more ring would block.
    rustix::io::write(&flooded, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let until = Instant::now() + Duration::from_millis(10);
    assert_eq!(receiver.next_before(Some(until)).unwrap(), None);
    rustix::io::write(&flooded, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let mut producer = Producer::new(ours, layout).unwrap();
    producer.push(&[1; ENTRY_BYTES]).unwrap();
    Bell::Event(flooded).ring(&producer).unwrap();
    assert_eq!(receiver.next_before(None).unwrap(), Some([1; ENTRY_BYTES]));
}

#[test]
fn a_peer_that_died_ends_the_wait_after_what_it_sent() {
    for (bell, bell_too) in bells() {
        let layout = Layout::new(0, 2).unwrap();
        let [ours, theirs] = two_sides(layout.end());
        let (socket, peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut receiver =
            Receiver::new(Consumer::new(ours, layout).unwrap(), bell, Spin::default()).watch(socket.into());
        let dying = thread::spawn(move || {
            let mut producer = Producer::new(theirs, layout).unwrap();
            producer.push(&[1; ENTRY_BYTES]).unwrap();
            bell_too.ring(&producer).unwrap();
            drop(peer);
        });
        assert_eq!(receiver.next_before(None).unwrap(), Some([1; ENTRY_BYTES]));
        assert!(matches!(receiver.next_before(None), Err(WaitError::HungUp)));
        dying.join().unwrap();
    }
}
