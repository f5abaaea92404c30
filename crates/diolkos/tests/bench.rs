// SPDX-License-Identifier: Apache-2.0
//! `diolkos bench`, as a person runs it: a little load on each target, against the daemon and bare servers.

#![allow(clippy::unwrap_used)] // In helpers, too, which clippy's exception for tests leaves out.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_diolkos");

/// How long a server may take until it listens: a debug build on a busy machine needs a fraction of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server on a unix socket; killed with the value.
struct Server {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start(command: &[&str]) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let socket: PathBuf = dir.path().join("s.sock");
        let address = format!("unix:{}", socket.display());
        let mut child = Command::new(PROGRAM)
            .args(command)
            .args(["--listen", &address])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(&socket).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "{command:?} ended early");
            assert!(Instant::now() < until, "{command:?} does not listen");
            std::thread::yield_now();
        }
        Server { child, address, _dir: dir }
    }

    fn daemon() -> Server {
        Server::start(&["serve", "--exit-with-stdin"])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `bench load` with a little load; gives its exit code and its JSON.
fn load(args: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(PROGRAM)
        .args(["bench", "load", "--seconds", "0.3", "--warmup", "0.05", "--json", "-"])
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{told}"));
    (output.status.code(), json)
}

fn check(args: &[&str]) -> Value {
    let (code, json) = load(args);
    assert_eq!(code, Some(0), "{args:?}: {json:#}");
    let ok = json["ok"].as_u64().unwrap();
    assert!(ok > 0 && json["errors"].as_object().unwrap().is_empty(), "{args:?}: {json:#}");
    assert_eq!(json["latency"]["count"].as_u64(), Some(ok));
    let quantiles = ["min_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"];
    assert!(quantiles.map(|name| json["latency"][name].as_u64().unwrap()).is_sorted(), "{json:#}");
    json
}

#[test]
fn loads_the_engine_in_process() {
    check(&["--target", "inproc", "--model", "noop"]);
    check(&["--target", "inproc", "--model", "echo", "--shape", "1,3,8,8", "-c", "2"]);
    let open = check(&["--target", "inproc", "--model", "noop", "--mode", "open", "--rate", "200"]);
    assert!(open["lag"]["count"].as_u64() > Some(0));
}

#[test]
fn loads_a_daemon_by_every_protocol() {
    let daemon = Server::daemon();
    for target in ["rest", "grpc", "native"] {
        let at = ["--target", target, "--address", &daemon.address];
        let json = check(&[&at[..], &["--model", "echo", "--shape", "1,3,224,224", "-c", "2"]].concat());
        assert_eq!(json["request_bytes"].as_u64(), Some(602_112));
        assert!(json["server"]["compute_ns"].is_number(), "the daemon's own account: {json:#}");
        let open =
            [&at[..], &["--model", "noop", "--mode", "open", "--rate", "100", "--arrivals", "constant"]];
        let json = check(&open.concat());
        // 0.3 s at 100 per second.
        assert_eq!(json["ok"].as_u64(), Some(30));
    }
}

#[test]
fn loads_bare_servers_with_the_same_client() {
    for (target, library) in [("rest", "axum"), ("grpc", "tonic")] {
        let bare = Server::start(&["bench-baseline", library]);
        let at = ["--target", target, "--address", &bare.address];
        check(&[&at[..], &["--model", "echo", "--shape", "1,3,224,224"]].concat());
    }
}

#[test]
fn bare_servers_end_with_their_input() {
    let mut bare = Server::start(&["bench-baseline", "axum"]);
    drop(bare.child.stdin.take());
    assert!(bare.child.wait().unwrap().success());
}

#[test]
fn what_is_wrong_is_said() {
    let daemon = Server::daemon();
    let run = |args: &[&str]| {
        let output =
            Command::new(PROGRAM).args(["bench", "load", "--seconds", "0.1"]).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = run(&["--target", "rest", "--model", "no-such", "--address", &daemon.address]);
    assert!(code == Some(1) && text.contains("no-such"), "{code:?} {text}");
    let (code, text) = run(&["--target", "grpc", "--model", "echo", "--address", "unix:/nowhere/d.sock"]);
    assert!(code == Some(3) && text.contains("/nowhere/d.sock"), "{code:?} {text}");
    let (code, text) = run(&["--target", "native", "--model", "no-such", "--address", &daemon.address]);
    assert!(code == Some(1) && text.contains("no-such"), "{code:?} {text}");
    let (code, text) = run(&["--target", "native", "--model", "echo", "--address", "unix:/nowhere/d.sock"]);
    assert!(code == Some(3) && text.contains("/nowhere/d.sock"), "{code:?} {text}");
    let (code, text) = run(&["--target", "rest", "--model", "echo", "--mode", "open"]);
    assert!(code == Some(2) && text.contains("--rate"), "{code:?} {text}");
}

#[test]
fn people_get_a_table_and_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("result.json");
    let output = Command::new(PROGRAM)
        .args(["bench", "load", "--target", "inproc", "--model", "noop", "--seconds", "0.1", "--json"])
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("good answers per second") && text.contains("P99.9"), "{text}");
    let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(json["target"], "inproc");
}

/// One short round of everything at once. What it says about times is not looked at.
#[test]
fn a_flood_is_refused_and_every_side_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(PROGRAM)
        .args([
            "bench",
            "flood",
            "--rounds",
            "1",
            "--seconds",
            "0.5",
            "--only",
            "all",
            "--json",
            "-",
            "--out",
        ])
        .arg(dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    // Met, missed or, from one round or a debug build, undecided.
    assert!(matches!(output.status.code(), Some(0 | 1 | 4)), "{}: {told}", output.status);
    let json: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    let case = &json["cases"][0];
    let round = &case["rounds"][0];
    let count = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} in {json:#}"));
    // The limit refuses small requests, and memory or the limit refuse bodies.
    let flood = &round["daemon"]["flood"];
    assert!(count(&flood["answers"]["429"]) > 0 && count(&flood["cut"]) > 0, "{flood:#}");
    assert!(count(&flood["connections"]) > 0 && count(&flood["held_max"]) > 0, "{flood:#}");
    let dropped = &round["dropping"]["flood"];
    assert!(count(&dropped["requests"]) > 0 && count(&dropped["bytes"]) > 0, "{dropped:#}");
    assert_eq!(dropped["answers"], serde_json::json!({}), "whoever drops answers nothing");
    assert!(round["none"]["flood"].is_null());
    for side in ["daemon", "dropping", "none"] {
        let quiet = &round[side]["quiet"];
        assert!(count(&quiet["count"]) > 0 && count(&quiet["failed"]) == 0, "{side}: {quiet:#}");
    }
    for what in ["descriptors", "threads"] {
        let most = count(&case["before"][what]) + count(&json["bounds"][what]);
        assert!(count(&round["daemon"]["daemon"][what]) <= most, "{what}: {json:#}");
    }
    let kept: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("performance/flood.json")).unwrap()).unwrap();
    assert_eq!(kept, json);
    let page = std::fs::read_to_string(dir.path().join("performance-flood.md")).unwrap();
    assert!(page.contains("## Targets") && page.contains("| all | a server that drops |"), "{page}");
}

/// The pages in docs are what this program makes of the results beside them.
#[test]
fn the_published_pages_are_made_from_the_published_results() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let out = tempfile::tempdir().unwrap();
    let status = Command::new(PROGRAM)
        .args(["bench", "report", "--from"])
        .arg(docs.join("performance/results.json"))
        .arg("--out")
        .arg(out.path())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    // Met, missed or undecided; anything else is a failure of another kind.
    assert!(matches!(status.code(), Some(0 | 1 | 4)), "{status}");
    let mut files = vec![PathBuf::from("performance.md")];
    for entry in std::fs::read_dir(out.path().join("performance")).unwrap() {
        files.push(Path::new("performance").join(entry.unwrap().file_name()));
    }
    for file in files {
        let made = std::fs::read(out.path().join(&file)).unwrap();
        let published = std::fs::read(docs.join(&file)).unwrap();
        let stale = made != published;
        if stale {
            let _ = writeln!(std::io::stderr(), "docs/{} is stale", file.display());
        }
        assert!(!stale, "write it anew: diolkos bench report --from docs/performance/results.json");
    }
}
