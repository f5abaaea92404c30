// SPDX-License-Identifier: Apache-2.0
//! Drives every fuzz target with mutated seeds, on the stable toolchain and without cargo-fuzz.
//!
//! Each target runs for `DIOLKOS_FUZZ_SECONDS`, or a fixed number of cases without it. What breaks one is
//! shrunk and written to `fuzz/artifacts/<target>/`, where cargo-fuzz would put it too; run it again by
//! copying it into the target's folder of seeds, whose files are all tried first.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(unreachable_pub, reason = "it is the library of the fuzz workspace, too")]
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

/// Without a time: about a second for the slowest target.
const CASES: u32 = 2_000;
/// Cases between two looks at the clock.
const BATCH: u32 = 500;
/// Mutated inputs stay below this: what only larger ones break is a matter of limits, which have tests.
const BYTES_MAX: usize = 16 << 10;

/// Text that the decoders know, so that random changes reach past the first check.
const WORDS: &[&str] = &[
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "NaN",
    "-0",
    "1e999",
    "1e-999",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "0x",
    "'",
    "#",
    "\n",
    "<",
    ">",
    ";",
    "=",
    "\"shape\"",
    "\"data\"",
    "\"datatype\"",
    "\"parameters\"",
    "\"binary_data_size\"",
    "\"BYTES\"",
    "\"BF16\"",
    "dims",
    "TYPE_STRING",
    "max_batch_size",
    "version_policy",
    "[models]",
    "[[",
    "tcp:",
    "unix:",
    "@diolkos ",
    "\\u{",
];

/// One change. Positions are fractions of whatever the input has become.
#[derive(Clone, Debug)]
enum Change {
    Flip { at: f64, mask: u8 },
    Insert { at: f64, bytes: Vec<u8> },
    Word { at: f64, word: usize },
    Remove { at: f64, length: u16 },
    Repeat { at: f64, length: u16, times: u8 },
    Cut { at: f64 },
    Splice { seed: usize, at: f64 },
}

fn change() -> impl Strategy<Value = Change> {
    let at = || 0.0..=1.0;
    prop_oneof![
        4 => (at(), 1..=u8::MAX).prop_map(|(at, mask)| Change::Flip { at, mask }),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Change::Insert { at, bytes }),
        4 => (at(), 0..WORDS.len()).prop_map(|(at, word)| Change::Word { at, word }),
        2 => (at(), 1..64u16).prop_map(|(at, length)| Change::Remove { at, length }),
        1 => (at(), 1..64u16, 1..40u8).prop_map(|(at, length, times)| Change::Repeat { at, length, times }),
        1 => at().prop_map(|at| Change::Cut { at }),
        1 => (any::<usize>(), at()).prop_map(|(seed, at)| Change::Splice { seed, at }),
    ]
}

impl Change {
    fn apply(&self, data: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let place = |at: f64, data: &[u8]| ((data.len() as f64 * at) as usize).min(data.len());
        let span = |at: f64, length: u16, data: &[u8]| {
            let begin = place(at, data);
            begin..data.len().min(begin + usize::from(length))
        };
        match self {
            Change::Flip { at, mask } => {
                let at = place(*at, data).min(data.len().saturating_sub(1));
                if let Some(byte) = data.get_mut(at) {
                    *byte ^= mask;
                }
            }
            Change::Insert { at, bytes } => insert(data, place(*at, data), bytes),
            Change::Word { at, word } => insert(data, place(*at, data), WORDS[*word].as_bytes()),
            Change::Remove { at, length } => drop(data.drain(span(*at, *length, data))),
            Change::Repeat { at, length, times } => {
                let part = data[span(*at, *length, data)].repeat(usize::from(*times));
                insert(data, place(*at, data), &part);
            }
            Change::Cut { at } => data.truncate(place(*at, data)),
            Change::Splice { seed, at } => {
                let other = &seeds[seed % seeds.len()];
                data.truncate(place(*at, data));
                data.extend_from_slice(&other[place(*at, other)..]);
            }
        }
        data.truncate(BYTES_MAX);
    }
}

fn insert(data: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    data.splice(at..at, bytes.iter().copied());
}

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = fuzz_dir().join("seeds").join(name);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no seed", folder.display());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn drive(name: &str) {
    let (_, target) =
        targets::TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    let seeds = seeds(name);
    for seed in &seeds {
        target(seed);
    }
    let time = std::env::var("DIOLKOS_FUZZ_SECONDS").ok();
    let time =
        time.map(|seconds| Duration::from_secs(seconds.parse().expect("DIOLKOS_FUZZ_SECONDS is a number")));
    let begun = Instant::now();
    let mut cases = 0;
    loop {
        let batch = if time.is_some() { BATCH } else { CASES };
        run_batch(name, *target, &seeds, batch);
        cases += batch;
        if time.is_none_or(|time| begun.elapsed() >= time) {
            break;
        }
    }
    println!(
        "{name}: {cases} mutated inputs of {} seeds in {:.1} s",
        seeds.len(),
        begun.elapsed().as_secs_f64()
    );
}

fn run_batch(name: &str, target: targets::Target, seeds: &[Vec<u8>], cases: u32) {
    let mutated = |start: usize, changes: &[Change]| {
        let mut data = seeds[start % seeds.len()].clone();
        changes.iter().for_each(|change| change.apply(&mut data, seeds));
        data
    };
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let inputs = (any::<usize>(), prop::collection::vec(change(), 1..12));
    let outcome = runner.run(&inputs, |(start, changes)| {
        let data = mutated(start, &changes);
        panic::catch_unwind(AssertUnwindSafe(|| target(&data)))
            .map_err(|_| TestCaseError::fail("it panicked"))
    });
    if let Err(TestError::Fail(_, (start, changes))) = outcome {
        let data = mutated(start, &changes);
        let folder = fuzz_dir().join("artifacts").join(name);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("crash-{}", data.len()));
        fs::write(&path, &data).unwrap();
        panic!("{name} panicked on {}: {:?}", path.display(), String::from_utf8_lossy(&data));
    }
    outcome.expect("cases are neither rejected nor aborted");
}

#[test]
fn every_target_has_seeds_and_every_folder_a_target() {
    let known: BTreeSet<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz_dir().join(folder)).unwrap();
        entries
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(names("seeds"), known);
    assert_eq!(names("fuzz_targets"), known);
}

#[test]
fn binary_tensor() {
    drive("binary_tensor");
}

#[test]
fn bytes_elements() {
    drive("bytes_elements");
}

#[test]
fn config_pbtxt() {
    drive("config_pbtxt");
}

#[test]
fn rehearsal_verdict() {
    drive("rehearsal_verdict");
}

#[test]
fn rest_json() {
    drive("rest_json");
}

#[test]
fn settings_toml() {
    drive("settings_toml");
}

#[test]
fn grpc_infer() {
    drive("grpc_infer");
}

#[test]
fn authority() {
    drive("authority");
}

#[test]
fn ring() {
    drive("ring");
}

#[test]
fn wire_message() {
    drive("wire_message");
}

#[test]
fn wire_entry() {
    drive("wire_entry");
}
