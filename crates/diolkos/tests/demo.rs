// SPDX-License-Identifier: Apache-2.0
//! `diolkos demo` from end to end.

mod support;

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use support::{diolkos, keys, ran, root};

#[test]
fn every_image_is_classified_as_the_reference_says() {
    let temp = tempfile::tempdir().unwrap();
    let ran = ran(diolkos(&["demo", "--json"]).env("TMPDIR", temp.path())).ok();
    let demo = ran.json();
    assert_eq!(keys(&demo), ["again", "correct", "daemon_pid", "images", "pid"]);
    let expected = std::fs::read_to_string(root().join("examples/digits/expected.json")).unwrap();
    let expected: Vec<Value> = serde_json::from_str(&expected).unwrap();
    let images = demo["images"].as_array().unwrap();
    assert_eq!(images.len(), expected.len());
    for (image, expected) in images.iter().zip(&expected) {
        assert_eq!((&image["image"], &image["label"]), (&expected["image"], &expected["label"]));
        assert_eq!(image["answer"], expected["predicted"], "{image}");
        let [given, wanted] = [image, expected].map(|entry| entry["probability"].as_f64().unwrap());
        assert!((given - wanted).abs() < 1e-4, "{image} {expected}");
        assert!(image["latency_ns"].as_u64() > Some(0), "{image}");
    }
    assert_eq!(demo["correct"], 40);
    let again = &demo["again"];
    assert_eq!(
        (again["changed"].as_u64(), again["requests"].as_u64() >= Some(40)),
        (Some(0), true),
        "{again}"
    );
    assert!(again["mean"]["compute_ns"].as_u64() > Some(0), "the daemon told no timing: {again}");
    assert_ne!(demo["pid"], demo["daemon_pid"]);
    for pid in [&demo["pid"], &demo["daemon_pid"]] {
        let pid = Pid::from_raw(i32::try_from(pid.as_i64().unwrap()).unwrap()).unwrap();
        assert!(test_kill_process(pid).is_err(), "{pid:?} is still there");
    }
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "something was left behind");
}

#[test]
fn the_table_is_readable() {
    let text = ran(&mut diolkos(&["demo"])).ok().stdout;
    for part in [
        "00_0.png",
        "39_9.png",
        "PROBABILITY",
        "40 of 40 right",
        "WHERE THE TIME WENT",
        "compute",
        "p99",
        "What to try next",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\x1b') && !text.contains('█'), "{text}");
    let drawn = ran(diolkos(&["demo"]).env("LC_ALL", "C.UTF-8")).ok().stdout;
    assert!(drawn.contains('█'), "{drawn}");
}

#[test]
fn an_interrupt_ends_everything() {
    let temp = tempfile::tempdir().unwrap();
    let mut demo = diolkos(&["demo"]).env("TMPDIR", temp.path()).stdout(Stdio::null()).spawn().unwrap();
    // The daemon's log exists once the daemon is being started.
    let started = || {
        let dirs: Vec<_> =
            std::fs::read_dir(temp.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        dirs.iter().any(|dir| dir.join("daemon.log").exists())
    };
    while !started() {
        assert!(demo.try_wait().unwrap().is_none(), "it ended before it began");
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "something was left behind");
}
