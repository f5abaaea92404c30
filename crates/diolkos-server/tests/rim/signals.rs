// SPDX-License-Identifier: Apache-2.0
//! Signals, in a child process of its own: this binary again, running only the ignored test below.

use std::io::{BufRead as _, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use diolkos_backend::null::NullBackend;
use diolkos_engine::store::{Rehearsal, RehearsalError, Rehearser, Verdict};
use diolkos_server::{Address, Daemon, Deps, Settings};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{self, Client, Gate, socket};

const DIR: &str = "DIOLKOS_RIM_TEST_DIR";

/// The child: serves until a signal.
#[tokio::test]
#[ignore = "started by the tests below, in a process of its own"]
async fn child() {
    let dir = std::env::var(DIR).expect("the parent names the directory");
    let file = Path::new(&dir).join("settings.toml");
    let path = socket(Path::new(&dir));
    let read = move || {
        let mut settings = Settings::load(&file)?;
        settings.listen.push(Address::Unix(path.clone()).into());
        Ok(settings)
    };
    let settings = read().unwrap();
    diolkos_server::logging::init(settings.log.level, settings.log.format).unwrap();
    let deps = Deps {
        backends: vec![Arc::new(NullBackend)],
        rehearser: Box::new(Endless),
        read_settings: Some(Box::new(read)),
        ..support::deps(&Arc::new(Gate::default()))
    };
    let waits = settings.models.files.is_empty();
    let daemon = Daemon::start(settings, deps).await.unwrap();
    if waits {
        daemon.wait_ready().await;
        println!("\nready");
    }
    let result = daemon.run_until_signal().await;
    println!("\nended: {result:?}");
    if result.is_err() {
        // As the executable does: somebody did not want to wait.
        std::process::exit(3);
    }
}

/// A rehearsal that never ends.
struct Endless;

impl Rehearser for Endless {
    fn rehearse(&self, _model: &Rehearsal<'_>) -> Result<Verdict, RehearsalError> {
        println!("\nrehearsing");
        loop {
            std::thread::park();
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Has ended already if the test passed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Started {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    dir: tempfile::TempDir,
}

impl Started {
    fn new(settings: &str) -> Started {
        let mut started = Started::spawn(tempfile::tempdir().unwrap(), settings);
        started.wait_for("ready");
        started
    }

    fn spawn(dir: tempfile::TempDir, settings: &str) -> Started {
        std::fs::write(dir.path().join("settings.toml"), settings).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "signals::child", "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Started { child, lines, dir }
    }

    /// Waits for a line of the child. Blocks the test's only thread, which has nothing else to do.
    fn wait_for(&mut self, start: &str) -> String {
        loop {
            let line = self.lines.next().expect("the child ended too early").unwrap();
            if line.starts_with(start) {
                return line;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }

    async fn client(&self) -> Client {
        Client::connect(&socket(self.dir.path())).await
    }
}

/// Asks for the metrics until one line is among them.
async fn until_metric(client: &mut Client, line: &str) {
    loop {
        let text = client.get("/metrics").await.unwrap().body;
        if text.lines().any(|other| other == line) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn sighup_with_a_bad_file_then_a_good_one_then_sigterm() {
    let mut started = Started::new("log.level = \"error\"\n");
    let file = started.dir.path().join("settings.toml");
    let mut client = started.client().await;
    assert_eq!(client.infer("copy", "5").await.unwrap().status, 200);
    std::fs::write(&file, "linger = 5\n").unwrap();
    // The handler is set up when the daemon begins to wait for signals, and its ready line came before:
    // ask something that only that wait answers.
    until_handles_signals(&started).await;
    started.signal(Signal::HUP);
    until_metric(&mut client, "diolkos_settings_reloads_total{result=\"failed\"} 1").await;
    assert_eq!(client.infer("copy", "5").await.unwrap().status, 200);
    std::fs::write(&file, "linger = \"1s\"\n").unwrap();
    started.signal(Signal::HUP);
    until_metric(&mut client, "diolkos_settings_reloads_total{result=\"ok\"} 1").await;
    started.signal(Signal::TERM);
    client.closed().await;
    assert_eq!(started.wait_for("ended"), "ended: Ok(())");
    assert!(started.child.wait().unwrap().success());
    assert!(!socket(started.dir.path()).exists());
}

/// Waits until the child catches SIGHUP, which the kernel says in its status.
async fn until_handles_signals(started: &Started) {
    let path = format!("/proc/{}/status", started.child.id());
    loop {
        let status = std::fs::read_to_string(&path).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        // SIGHUP is 1, SIGINT 2, SIGTERM 15.
        if caught & (1 | 1 << 1 | 1 << 14) == (1 | 1 << 1 | 1 << 14) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let mut started = Started::new("");
    until_handles_signals(&started).await;
    let mut idle = started.client().await;
    idle.get("/v2/health/live").await.unwrap();
    let mut busy = started.client().await;
    busy.send_infer("gate", "1").await;
    // The job is at the gate, which nobody opens.
    until_metric(&mut idle, "diolkos_device_running{device=\"cpu\"} 1").await;
    started.signal(Signal::INT);
    idle.closed().await;
    started.signal(Signal::TERM);
    assert!(started.wait_for("ended").contains("SecondSignal { jobs: 1 }"));
    assert_eq!(started.child.wait().unwrap().code(), Some(3));
}

const MODEL: &str = "input x FP32 [2]\noutput y FP32 [2]\n";

/// A daemon that is rehearsing a model which came while it served.
async fn rehearsing() -> Started {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("models")).unwrap();
    let mut started = Started::spawn(dir, "models.repositories = [\"models\"]\n");
    started.wait_for("ready");
    until_handles_signals(&started).await;
    let temporary = started.dir.path().join("m");
    std::fs::write(&temporary, MODEL).unwrap();
    std::fs::rename(temporary, started.dir.path().join("models/m.null")).unwrap();
    started.signal(Signal::HUP);
    started.wait_for("rehearsing");
    started
}

#[tokio::test]
async fn sigterm_is_seen_while_models_are_looked_at_again() {
    let mut started = rehearsing().await;
    // One more is remembered, and is no obstacle either.
    started.signal(Signal::HUP);
    let mut client = started.client().await;
    assert_eq!(client.infer("copy", "5").await.unwrap().status, 200);
    started.signal(Signal::TERM);
    assert_eq!(started.wait_for("ended"), "ended: Ok(())");
    assert!(started.child.wait().unwrap().success());
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_a_reload_either() {
    let mut started = rehearsing().await;
    let mut idle = started.client().await;
    idle.get("/v2/health/live").await.unwrap();
    let mut busy = started.client().await;
    busy.send_infer("gate", "1").await;
    until_metric(&mut idle, "diolkos_device_running{device=\"cpu\"} 1").await;
    started.signal(Signal::TERM);
    idle.closed().await;
    started.signal(Signal::TERM);
    assert!(started.wait_for("ended").contains("SecondSignal { jobs: 1 }"));
    assert_eq!(started.child.wait().unwrap().code(), Some(3));
}

#[tokio::test]
async fn sigterm_does_not_wait_for_a_rehearsal_at_start() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("m.null"), MODEL).unwrap();
    let mut started = Started::spawn(dir, "models.files = [\"m.null\"]\nshutdown.drain_timeout = \"1h\"\n");
    started.wait_for("rehearsing");
    until_handles_signals(&started).await;
    started.signal(Signal::TERM);
    assert_eq!(started.wait_for("ended"), "ended: Ok(())");
    assert!(started.child.wait().unwrap().success());
}
