// SPDX-License-Identifier: Apache-2.0
//! A daemon of our own, that really runs.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Only so that a daemon which never gets ready ends the test instead of hanging it.
const START_MAX: Duration = Duration::from_secs(60);

/// A daemon on a private socket and a loopback port. It ends with this process, however that ends.
pub(crate) struct Daemon {
    folder: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Daemon {
    /// Starts `DIOLKOS_BIN`, or what cargo built beside this test. The error says why there is none.
    pub(crate) fn start() -> Result<Daemon, String> {
        let executable = match std::env::var_os("DIOLKOS_BIN") {
            Some(path) => PathBuf::from(path),
            None => super::profile_folder().join("diolkos"),
        };
        if !executable.is_file() {
            return Err(format!(
                "{} does not exist; set DIOLKOS_BIN, or `cargo build -p diolkos`",
                executable.display()
            ));
        }
        let folder = tempfile::tempdir().unwrap();
        // Another process may take it first; the daemon says so then.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = File::create(folder.path().join("log")).unwrap();
        let process = Command::new(executable)
            .args(["serve", "--exit-with-stdin", "--listen"])
            .arg(format!("unix:{}", folder.path().join("d.sock").display()))
            .args(["--listen", &format!("tcp:127.0.0.1:{port}")])
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Daemon { folder, port, process };
        daemon.wait_ready();
        Ok(daemon)
    }

    fn wait_ready(&mut self) {
        let until = Instant::now() + START_MAX;
        while !self.is_ready() {
            let ended = self.process.try_wait().unwrap();
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < until, "the daemon does not get ready: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_ready(&self) -> bool {
        let asked = UnixStream::connect(self.folder.path().join("d.sock")).and_then(|mut socket| {
            socket.write_all(b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).map(|_| answer)
        });
        asked.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    pub(crate) fn unix(&self) -> String {
        format!("unix:{}", self.folder.path().join("d.sock").display())
    }

    pub(crate) fn tcp(&self) -> String {
        format!("tcp:127.0.0.1:{}", self.port)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends it at once.
    pub(crate) fn stop(&mut self) {
        // It is gone either way.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}
