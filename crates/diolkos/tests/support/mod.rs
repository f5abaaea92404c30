// SPDX-License-Identifier: Apache-2.0
//! A daemon on a socket in a temporary directory, and commands that talk to it.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "all of it runs in tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The executable under test.
pub const DIOLKOS: &str = env!("CARGO_BIN_EXE_diolkos");

/// Long enough for any machine; only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn example(path: &str) -> String {
    root().join("examples/digits").join(path).display().to_string()
}

pub fn test_data(path: &str) -> String {
    root().join("tests/data").join(path).display().to_string()
}

/// A command with an environment of its own.
pub fn diolkos(args: &[&str]) -> Command {
    let mut command = Command::new(DIOLKOS);
    command
        .args(args)
        .env_remove("DIOLKOS_ENDPOINT")
        .env_remove("DIOLKOS_TEST_MODELS")
        .env_remove("XDG_RUNTIME_DIR");
    command.env("LANG", "C").stdin(Stdio::null());
    command
}

pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.stdout, self.stderr))
    }

    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, Some(0), "{} {}", self.stdout, self.stderr);
        self
    }

    /// The exit code, and that nothing but an error in its one form was said.
    #[track_caller]
    pub fn fails(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "{} {}", self.stdout, self.stderr);
        assert!(self.stderr.starts_with("error: "), "{}", self.stderr);
        assert_eq!(self.stdout, "");
        self
    }
}

pub fn ran(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Ran {
        code: status.code(),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

/// The names of an object's members, sorted.
pub fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// A daemon with the example model and `affine`.
pub struct Daemon {
    pub child: Child,
    pub dir: tempfile::TempDir,
    pub address: String,
}

impl Daemon {
    pub fn start() -> Daemon {
        Daemon::start_with(&["--models", &example("models"), "--model", &test_data("affine.onnx")])
    }

    pub fn start_with(args: &[&str]) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("d.sock");
        let address = format!("unix:{}", socket.display());
        let child = diolkos(&["serve", "--listen", &address, "--exit-with-stdin"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut daemon = Daemon { child, dir, address };
        let until = Instant::now() + PATIENCE;
        // Asks again and again; the pause only spares the machine.
        while !is_ready(&socket) {
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "{ended:?}: {}", daemon.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// A command that asks this daemon.
    pub fn ask(&self, args: &[&str]) -> Ran {
        ran(diolkos(args).args(["--address", &self.address]))
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("d.sock")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_ready(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let request = b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut line = String::new();
    stream.write_all(request).is_ok()
        && BufReader::new(stream).read_line(&mut line).is_ok()
        && line.starts_with("HTTP/1.1 200")
}
