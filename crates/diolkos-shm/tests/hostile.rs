// SPDX-License-Identifier: Apache-2.0
//! Many operations on rings whose memory somebody else writes, in one thread and in three.
//!
//! `DIOLKOS_RING_OPERATIONS` says how many each test does; docs/fuzzing.md has the commands for the long run and
//! for that under the address sanitizer.

#![allow(clippy::unwrap_used)] // A test may panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use diolkos_shm::fuzz::fuzz_ring;
use diolkos_shm::mapping::Mapping;
use diolkos_shm::region::{Pages, Region};
use diolkos_shm::ring::{Consumer, ENTRY_BYTES, Layout, Producer, PushError};
use diolkos_shm::segment::Segment as _;

/// Memory on both sides of the ring that nothing may touch.
const MARGIN: usize = 4096;

fn operations() -> u64 {
    let wanted = std::env::var("DIOLKOS_RING_OPERATIONS").ok();
    wanted.map_or(300_000, |wanted| wanted.parse().expect("DIOLKOS_RING_OPERATIONS is a number"))
}

/// Splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[test]
fn fuzzed_operations_in_one_thread() {
    /// Bytes of one command of `fuzz_ring`, and commands of one ring.
    const COMMAND: usize = 6;
    const COMMANDS: u64 = 512;
    let mut random = Random(1);
    let mut bytes = vec![0u8; 1 + COMMAND * COMMANDS as usize];
    let mut left = operations();
    while left > 0 {
        // Few lies in some rings, so that they stay whole for long, and many in others.
        let lies = 1 + random.below(64);
        bytes[0] = random.next() as u8;
        for command in bytes[1..].chunks_exact_mut(COMMAND) {
            command.copy_from_slice(&random.next().to_le_bytes()[..COMMAND]);
            command[0] = if random.below(64) < lies { random.below(8) } else { random.below(6) } as u8;
        }
        fuzz_ring(&bytes);
        left = left.saturating_sub(COMMANDS);
    }
}

/// What the two ends and the liar share.
struct Scene {
    memory: Arc<Mapping>,
    layout: Layout,
    start: Barrier,
    end: Barrier,
    lied: AtomicBool,
    stop: AtomicBool,
    over: AtomicBool,
    failed: AtomicBool,
    operations: AtomicU64,
    corrupt: AtomicU64,
}

impl Scene {
    /// Runs `round` for every round: one end of a fresh ring.
    fn play(&self, mut round: impl FnMut(&Scene)) {
        loop {
            self.start.wait();
            if self.over.load(Ordering::Acquire) {
                return;
            }
            // The others wait at the barrier, so a failure is told after it.
            if catch_unwind(AssertUnwindSafe(|| round(self))).is_err() {
                self.failed.store(true, Ordering::Release);
            }
            self.end.wait();
        }
    }

    fn somebody_lied(&self) -> bool {
        fence(Ordering::SeqCst);
        self.lied.load(Ordering::SeqCst)
    }

    fn push(&self) {
        let mut producer = Producer::new(self.memory.clone(), self.layout).unwrap();
        let mut number = 0u64;
        let mut tries = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let mut entry = [0; ENTRY_BYTES];
            entry[..8].copy_from_slice(&number.to_le_bytes());
            tries += 1;
            match producer.push(&entry) {
                Ok(()) => number += 1,
                Err(PushError::Full) => std::thread::yield_now(),
                Err(PushError::Corrupt(_)) => {
                    assert!(self.somebody_lied(), "nobody lied");
                    self.corrupt.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
            let _ = producer.wake();
        }
        self.operations.fetch_add(tries, Ordering::Relaxed);
    }

    fn pop(&self) {
        let mut consumer = Consumer::new(self.memory.clone(), self.layout).unwrap();
        let (mut expected, mut tries) = (0u64, 0);
        while !self.stop.load(Ordering::Relaxed) {
            tries += 1;
            match consumer.pop() {
                Ok(Some(entry)) => {
                    let number = u64::from_le_bytes(entry[..8].try_into().unwrap());
                    assert!(
                        number == expected || self.somebody_lied(),
                        "{number} came instead of {expected}, and nobody lied"
                    );
                    expected += 1;
                }
                Ok(None) => match consumer.may_sleep() {
                    Ok(true) => {
                        std::thread::yield_now();
                        consumer.awake();
                    }
                    Ok(false) => {}
                    Err(_) => {
                        assert!(self.somebody_lied(), "nobody lied");
                        break;
                    }
                },
                Err(_) => {
                    assert!(self.somebody_lied(), "nobody lied");
                    self.corrupt.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
        self.operations.fetch_add(tries, Ordering::Relaxed);
    }

    /// Writes into words and entries of the ring, whatever comes.
    fn lie(&self, random: &mut Random) {
        self.lied.store(true, Ordering::SeqCst);
        // Whoever sees a lie sees that there was one.
        fence(Ordering::SeqCst);
        let bytes = (self.layout.end() - MARGIN) as u64;
        for _ in 0..=random.below(4) {
            let offset = MARGIN + (random.below(bytes / 4) * 4) as usize;
            // Counters are the first words of the ring; most lies are about them.
            let offset = if random.below(4) > 0 { MARGIN + random.below(3) as usize * 128 } else { offset };
            let word = self.memory.word(offset);
            let value = match random.below(3) {
                0 => random.next() as u32,
                1 => word.load(Ordering::Relaxed).wrapping_add(random.below(9) as u32).wrapping_sub(4),
                _ => [0, 1, u32::MAX, 1 << 31][random.below(4) as usize],
            };
            word.store(value, Ordering::Relaxed);
        }
    }

    /// A fresh ring, and what is written in the margins.
    fn reset(&self) {
        self.memory.write(MARGIN, &vec![0; self.layout.end() - MARGIN]);
        self.lied.store(false, Ordering::SeqCst);
        self.stop.store(false, Ordering::SeqCst);
    }

    fn margins_are_whole(&self) -> bool {
        [0, self.layout.end()].into_iter().all(|margin| {
            let mut bytes = vec![0; MARGIN];
            self.memory.read(margin, &mut bytes);
            bytes.iter().all(|&byte| byte == 0xa5)
        })
    }
}

#[test]
fn a_hostile_thread_while_both_ends_run() {
    let operations = operations();
    let layout = Layout::new(MARGIN, 16).unwrap();
    let region = Region::create((layout.end() + MARGIN).next_multiple_of(4096), Pages::Ordinary).unwrap();
    let memory = region.mapping().clone();
    for margin in [0, layout.end()] {
        memory.write(margin, &[0xa5; MARGIN]);
    }
    let scene = Scene {
        memory,
        layout,
        start: Barrier::new(3),
        end: Barrier::new(3),
        lied: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        over: AtomicBool::new(false),
        failed: AtomicBool::new(false),
        operations: AtomicU64::new(0),
        corrupt: AtomicU64::new(0),
    };
    let mut rounds = 0u64;
    std::thread::scope(|scope| {
        scope.spawn(|| scene.play(Scene::push));
        scope.spawn(|| scene.play(Scene::pop));
        let mut random = Random(2);
        let mut whole = true;
        let failed = || scene.failed.load(Ordering::Acquire);
        while whole && !failed() && scene.operations.load(Ordering::Relaxed) < operations {
            scene.reset();
            scene.start.wait();
            // In most rounds some work is done before anybody lies, and some after it.
            let pause = |random: &mut Random| {
                let until = Instant::now() + Duration::from_micros(random.below(400));
                while Instant::now() < until {
                    std::thread::yield_now();
                }
            };
            pause(&mut random);
            for _ in 0..random.below(8) {
                scene.lie(&mut random);
                pause(&mut random);
            }
            scene.stop.store(true, Ordering::SeqCst);
            scene.end.wait();
            whole = scene.margins_are_whole();
            rounds += 1;
        }
        scene.over.store(true, Ordering::Release);
        scene.start.wait();
        assert!(whole, "memory outside of the ring was written");
        assert!(!failed(), "an end of the ring failed, see above");
    });
    println!(
        "{} operations in {rounds} rings; {} ends found theirs corrupt",
        scene.operations.load(Ordering::Relaxed),
        scene.corrupt.load(Ordering::Relaxed)
    );
    assert!(scene.corrupt.load(Ordering::Relaxed) > 0, "no lie was ever noticed");
}
