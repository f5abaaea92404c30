// SPDX-License-Identifier: Apache-2.0
//! The demo's two child processes, ended through their own handles whatever happens.
//!
//! ```text
//! start ──> polled until ready ──> used ──stop: its standard input ends──> drains and exits
//!   └─────────────── dropped early (Ctrl-C, panic, failure) ──> killed, waited for
//! ```
//!
//! Should this process be killed, the daemon's standard input ends all the same, and it exits by itself.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::files::MODEL;
use crate::client::{Address, Client, ClientError};
use crate::exit::{Exit, Failure};

/// How long the daemon may take until it is ready, and how long until it is gone. Slow machines and debug
/// builds need a fraction of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often somebody looks whether it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How much of the daemon's log is shown when it fails.
const LOG_LINES_SHOWN: usize = 8;

/// A child process that does not outlive the value.
#[derive(Debug)]
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // Both fail only if it is gone already, and then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The demo's daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Guarded,
    log: PathBuf,
    pub(super) address: Address,
}

fn this_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::failed("can't find this executable").because(&error))
}

impl Daemon {
    /// Starts it on a socket in a directory that has the model.
    pub(super) fn start(dir: &Path) -> Result<Daemon, Failure> {
        let address = Address::Unix(dir.join("diolkos.sock"));
        let log = dir.join("daemon.log");
        let program = this_program()?;
        let spawned = File::create(&log).and_then(|stderr| {
            Command::new(&program)
                .arg("serve")
                .arg("--models")
                .arg(dir.join("models"))
                .args(["--listen", &address.to_string(), "--exit-with-stdin"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(stderr)
                .spawn()
        });
        let child = spawned.map_err(|error| Failure::failed("can't start the daemon").because(&error))?;
        Ok(Daemon { child: Guarded(child), log, address })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Asks until it is ready and has the model.
    pub(super) async fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            if is_ready(&self.address).await {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.0.try_wait() {
                return Err(self.failure(&format!("the daemon ended before it was ready ({status})")));
            }
            if Instant::now() >= until {
                return Err(self.failure(&format!("the daemon was not ready after {PATIENCE:?}")));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Ends its standard input and waits until it is gone. Says whether it went well.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        drop(self.child.0.stdin.take());
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.child.0.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.failure(&format!("the daemon ended with {status}"))),
                Ok(None) | Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
        Err(self.failure(&format!("the daemon did not end within {PATIENCE:?} and was killed")))
    }

    /// A failure with the last lines of the log.
    fn failure(&self, message: &str) -> Failure {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
        Failure::new(Exit::Start, message).note(if shown.is_empty() {
            "it said nothing".into()
        } else {
            shown
        })
    }
}

async fn is_ready(address: &Address) -> bool {
    let ask = async {
        let mut client = Client::connect(address).await?;
        Ok::<_, ClientError>(client.is_ready().await? && client.is_model_ready(MODEL).await?)
    };
    ask.await.unwrap_or(false)
}

/// Runs the client process and returns what it printed.
pub(super) async fn run_client(address: &Address, images: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| Failure::failed("can't run the client process").because(&error);
    let spawned = Command::new(this_program()?)
        .arg("demo-client")
        .args(["--address", &address.to_string()])
        .arg("--images")
        .arg(images)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = Guarded(spawned.map_err(failed)?);
    let mut stdout = child.0.stdout.take().expect("it was asked for above");
    let read = move || {
        let mut printed = Vec::new();
        stdout.read_to_end(&mut printed).map(|_| printed)
    };
    // If this future is dropped, the child is killed, its output ends, and so does the reading thread.
    let printed = tokio::task::spawn_blocking(read).await.map_err(io::Error::other).and_then(|read| read);
    let printed = printed.map_err(failed)?;
    let status = child.0.wait().map_err(failed)?;
    if status.success() {
        Ok(printed)
    } else {
        Err(Failure::failed(format!("the client process failed ({status})")))
    }
}
