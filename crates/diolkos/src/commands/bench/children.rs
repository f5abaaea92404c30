// SPDX-License-Identifier: Apache-2.0
//! Servers under load: child processes of this executable, on sockets of their own, ended with the value.
//!
//! Should this process be killed, their standard input ends, and they exit by themselves.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::procfs::{self, Memory};
use crate::client::{Address, Client};
use crate::exit::{Exit, Failure};

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often somebody looks whether it does. Start-up is measured to this grain.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);

/// How much of a server's log is shown when it fails.
const LOG_LINES_SHOWN: usize = 10;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `diolkos serve`.
    Daemon,
    /// The bare gRPC echo.
    Tonic,
    /// The bare REST echo.
    Axum,
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Socket and log; removed after the child is gone.
    _dir: TempDir,
    pub(crate) unix: Address,
    pub(crate) tcp: Address,
    /// From just before the process was made until it answered that it is ready.
    pub(crate) took: Duration,
}

impl Server {
    /// Starts the daemon with these models and settings.
    pub(crate) async fn start_daemon(models: &[PathBuf], settings: &[&str]) -> Result<Server, Failure> {
        Server::start_with(Kind::Daemon, models, settings).await
    }

    /// Starts a server, with these models if it is the daemon, and waits until it is ready.
    pub(crate) async fn start(kind: Kind, models: &[PathBuf]) -> Result<Server, Failure> {
        Server::start_with(kind, models, &[]).await
    }

    async fn start_with(kind: Kind, models: &[PathBuf], settings: &[&str]) -> Result<Server, Failure> {
        let dir = tempfile::Builder::new().prefix("diolkos-bench-").tempdir();
        let dir = dir.map_err(|error| cannot("make a temporary directory", &error))?;
        let socket = dir.path().join("s.sock");
        let log = dir.path().join("log");
        let port = free_port().map_err(|error| cannot("find a free port", &error))?;
        let unix = Address::Unix(socket.clone());
        let tcp = Address::Tcp(format!("127.0.0.1:{port}"));
        let config = dir.path().join("diolkos.toml");
        std::fs::write(&config, settings.join("\n")).map_err(|error| cannot("write settings", &error))?;
        let began = Instant::now();
        let child = spawn(kind, &unix, &tcp, models, &config, &log)
            .map_err(|error| cannot("start a server", &error))?;
        let mut server = Server { child, _dir: dir, unix, tcp, took: Duration::ZERO };
        while !server.is_ready(kind).await {
            let ended = server.child.try_wait().ok().flatten();
            if ended.is_some() || began.elapsed() > PATIENCE {
                let state =
                    ended.map_or_else(|| "does not answer".into(), |status| format!("ended ({status})"));
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
                return Err(Failure::new(Exit::Start, format!("the {kind:?} server {state}")).note(shown));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        server.took = began.elapsed();
        Ok(server)
    }

    async fn is_ready(&self, kind: Kind) -> bool {
        match kind {
            // gRPC is all it speaks.
            Kind::Tonic => match &self.unix {
                Address::Unix(path) => tokio::net::UnixStream::connect(path).await.is_ok(),
                Address::Tcp(_) | Address::Tls(_) => false,
            },
            Kind::Daemon | Kind::Axum => match Client::connect(&self.unix).await {
                Ok(mut client) => client.is_ready().await.unwrap_or(false),
                Err(_) => false,
            },
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time that it has used.
    pub(crate) fn cpu_time(&self) -> Result<Duration, Failure> {
        procfs::cpu_time(self.pid()).map_err(|error| cannot("read a server's CPU time", &error))
    }

    /// Memory that it has.
    pub(crate) fn memory(&self) -> Result<Memory, Failure> {
        procfs::memory(self.pid()).map_err(|error| cannot("read a server's memory", &error))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it is gone already, and then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    kind: Kind,
    unix: &Address,
    tcp: &Address,
    models: &[PathBuf],
    config: &Path,
    log: &Path,
) -> io::Result<Child> {
    let mut command = Command::new(this_program()?);
    match kind {
        Kind::Daemon => {
            command.args(["serve", "--exit-with-stdin", "--config"]).arg(config);
            for model in models {
                command.arg("--model").arg(model);
            }
        }
        Kind::Tonic => drop(command.args(["bench-baseline", "tonic"])),
        Kind::Axum => drop(command.args(["bench-baseline", "axum"])),
    }
    command.args(["--listen", &unix.to_string(), "--listen", &tcp.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(File::create(log)?).spawn()
}

/// This executable; in tests, the one that was built beside them.
pub(crate) fn this_program() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    if !cfg!(test) {
        return Ok(program);
    }
    let built = program.parent().and_then(Path::parent).map(|dir| dir.join("diolkos"));
    built.ok_or_else(|| io::Error::other("tests lie two directories below the build's"))
}

fn free_port() -> io::Result<u16> {
    // Free until somebody else is given it, which a kernel does only after it went through all others.
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

pub(crate) fn cannot(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::failed(format!("can't {what}")).because(error)
}
