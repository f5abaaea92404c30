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
    /// Takes everything and answers nothing.
    Drop,
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Socket and log; removed after the child is gone.
    _dir: TempDir,
    pub(crate) unix: Address,
    /// Where nobody listens if its settings say so.
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
        let place = Place::make("s.sock")?;
        let addresses = [place.unix.to_string(), place.tcp.to_string()];
        let listen = addresses.iter().flat_map(|address| ["--listen", address]);
        let mut command = match kind {
            Kind::Daemon => place.daemon(&settings.join("\n"))?,
            Kind::Tonic => bare("tonic")?,
            Kind::Axum => bare("axum")?,
            Kind::Drop => bare("drop")?,
        };
        command.args(models.iter().flat_map(|model| ["--model".as_ref(), model.as_os_str()])).args(listen);
        Server::spawn(kind, place, command).await
    }

    /// Starts the daemon with settings that say where it listens, given the directory for its sockets. One of them has to
    /// be `socket`.
    pub(crate) async fn start_listening(
        socket: &str,
        settings: impl FnOnce(&Path) -> String,
    ) -> Result<Server, Failure> {
        let place = Place::make(socket)?;
        let command = place.daemon(&settings(place.dir.path()))?;
        Server::spawn(Kind::Daemon, place, command).await
    }

    /// Starts it and waits until it is ready.
    async fn spawn(kind: Kind, place: Place, mut command: Command) -> Result<Server, Failure> {
        let failed = |error: io::Error| cannot("start a server", &error);
        let Place { dir, unix, tcp } = place;
        let log = dir.path().join("log");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(File::create(&log).map_err(failed)?);
        let began = Instant::now();
        let child = command.spawn().map_err(failed)?;
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
            // The one speaks gRPC only, the other nothing.
            Kind::Tonic | Kind::Drop => match &self.unix {
                Address::Unix(path) => tokio::net::UnixStream::connect(path).await.is_ok(),
                Address::Tcp(_) | Address::Tls(_) | Address::Vsock(_) => false,
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

/// Where a server is: sockets, settings and log of its own.
struct Place {
    dir: TempDir,
    unix: Address,
    tcp: Address,
}

impl Place {
    fn make(socket: &str) -> Result<Place, Failure> {
        let dir = tempfile::Builder::new().prefix("diolkos-bench-").tempdir();
        let dir = dir.map_err(|error| cannot("make a temporary directory", &error))?;
        let port = free_port().map_err(|error| cannot("find a free port", &error))?;
        let unix = Address::Unix(dir.path().join(socket));
        Ok(Place { dir, unix, tcp: Address::Tcp(format!("127.0.0.1:{port}")) })
    }

    fn daemon(&self, settings: &str) -> Result<Command, Failure> {
        let config = self.dir.path().join("diolkos.toml");
        std::fs::write(&config, settings).map_err(|error| cannot("write settings", &error))?;
        let mut command = program()?;
        command.args(["serve", "--exit-with-stdin", "--config"]).arg(config);
        Ok(command)
    }
}

fn bare(library: &str) -> Result<Command, Failure> {
    let mut command = program()?;
    command.args(["bench-baseline", library]);
    Ok(command)
}

fn program() -> Result<Command, Failure> {
    let program = this_program().map_err(|error| cannot("find this program", &error))?;
    Ok(Command::new(program))
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
