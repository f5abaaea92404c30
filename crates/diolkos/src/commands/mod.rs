// SPDX-License-Identifier: Apache-2.0
//! The commands, one module each, and what several of them need.

pub(crate) mod bench;
mod check;
mod demo;
mod doctor;
pub(crate) mod explain;
mod inspect;
mod ls;
mod rehearse;
mod run;
mod serve;
mod show;
pub(crate) mod sim;
pub(crate) mod tenant;
mod token;

use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::{Command, DaemonArgs, ENDPOINT_VARIABLE};
use crate::client::{Address, Client, ClientError};
use crate::exit::{Exit, Failure};

/// Runs a command.
pub(crate) fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    let exit = match command {
        Command::Serve(args) => serve::run(args),
        Command::Run(args) => run::run(args),
        Command::Ls(args) => ls::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => bench::run(args),
        Command::BenchBaseline(args) => bench::run_baseline(&args),
        Command::BenchPeer(args) => bench::run_peer(&args),
        Command::BenchFlooder(args) => bench::run_flooder(&args),
        Command::Token(args) => token::run(&args),
        Command::Tenant(args) => tenant::run(&args),
        Command::Lease(args) => tenant::run_lease(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::DemoClient(args) => demo::client::run(&args),
        Command::Rehearse => return Ok(rehearse::run()),
    };
    exit.map(ExitCode::from)
}

/// Standard output, in one piece: a table is written whole or not at all.
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text)?;
    out.flush()?;
    Ok(())
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(value).expect("the commands' answers are plain data");
    text.push(b'\n');
    print(&text)
}

/// A runtime for one command. One thread: a client waits far more than it works.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| Failure::failed("can't start an async runtime").because(&error))
}

/// The daemon that is meant: `--address`, else the environment, else the default socket.
fn address(args: &DaemonArgs) -> Result<Address, Failure> {
    if let Some(address) = &args.address {
        return Ok(address.clone());
    }
    match std::env::var(ENDPOINT_VARIABLE) {
        Ok(text) if !text.is_empty() => text
            .parse()
            .map_err(|error| Failure::usage(format!("${ENDPOINT_VARIABLE} is wrong")).because(&error)),
        _ => {
            let default = diolkos_server::listen::default_address().to_string();
            Ok(default
                .parse()
                .expect("the server's default address is a unix socket, which clients read too"))
        }
    }
}

async fn connect(args: &DaemonArgs) -> Result<Client, Failure> {
    Client::connect(&address(args)?).await.map_err(of_client)
}

/// What a client's error means for the person at the terminal.
fn of_client(error: ClientError) -> Failure {
    let exit = match &error {
        ClientError::Connect { .. } => Exit::NoDaemon,
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, error.to_string());
    let failure = match std::error::Error::source(&error) {
        Some(source) => failure.because(source),
        None => failure,
    };
    match error {
        ClientError::Connect { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            failure
                .help("the daemon does not serve you; ask for its settings to name you (tenants.NAME.uids)")
        }
        ClientError::Connect { .. } => failure.help(
            "start one with `diolkos serve`, or name another with --address unix:PATH or tcp:HOST:PORT",
        ),
        ClientError::Refused { status: 404, .. } => {
            failure.help("`diolkos ls` lists the models of this daemon")
        }
        ClientError::Refused { status: 429, .. } => {
            failure.help("the daemon is full at the moment; try again")
        }
        ClientError::Refused { .. } | ClientError::Transport { .. } | ClientError::Protocol { .. } => failure,
    }
}
