// SPDX-License-Identifier: Apache-2.0
//! Looks again and again at what a process has, and keeps the most.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::super::children::cannot;
use super::super::procfs::kilobytes;
use super::results::Usage;
use crate::exit::Failure;

/// How often. Each look takes a fraction of a millisecond of this process, on all sides alike.
const INTERVAL: Duration = Duration::from_millis(50);

/// What a process has now.
pub(super) fn look(pid: u32) -> Result<Usage, Failure> {
    read(pid).map_err(|error| cannot("read what the daemon has from /proc", &error))
}

fn read(pid: u32) -> std::io::Result<Usage> {
    // Cheaper than `smaps_rollup`, which goes through all pages under the lock that the process needs for its memory.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    let malformed = || std::io::Error::other("/proc/PID/status has another form than Linux gives it");
    Ok(Usage {
        memory: kilobytes(&status, "VmRSS:").ok_or_else(malformed)?,
        descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
        threads: field("Threads:").ok_or_else(malformed)?,
    })
}

/// A thread that looks.
pub(super) struct Watching {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Usage>>,
}

impl Watching {
    /// Begins.
    pub(super) fn begin(pid: u32) -> Watching {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut most = read(pid)?;
            // Nothing else is handed over by it.
            while !told.load(Ordering::Relaxed) {
                std::thread::sleep(INTERVAL);
                most = most.max(read(pid)?);
            }
            Ok(most)
        });
        Watching { stop, thread }
    }

    /// Ends, and tells the most of each.
    pub(super) fn end(self) -> Result<Usage, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        // A panic there is this program's mistake; let it show.
        let most = self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        most.map_err(|error| cannot("read what the daemon has from /proc", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_something() {
        let watching = Watching::begin(std::process::id());
        let most = watching.end().unwrap();
        assert!(most.memory > 0 && most.descriptors > 2 && most.threads > 1, "{most:?}");
    }
}
