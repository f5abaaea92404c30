// SPDX-License-Identifier: Apache-2.0
//! `diolkos serve`: the daemon.

use std::io::{IsTerminal as _, Read as _};

use diolkos_engine::store::RehearsalLimits;
use diolkos_server::daemon::{self, ReadSettings};
use diolkos_server::{Address, BoundAddress, Daemon, DaemonError, Deps, Settings, SettingsError, logging};
use rustix::process::{Signal, getpid, kill_process};

use crate::backends;
use crate::cli::ServeArgs;
use crate::exit::{Exit, Failure};
use crate::memory;
use crate::term::{Paint, Style};

pub(super) fn run(args: ServeArgs) -> Result<Exit, Failure> {
    let listen = args
        .listen
        .iter()
        .map(|text| {
            let address = text.parse::<Address>()?;
            address.check_loopback().map(|()| address)
        })
        .collect::<Result<Vec<_>, _>>();
    let listen = listen.map_err(|error| Failure::usage("--listen is wrong").because(&error))?;
    let settings = settings(&args, &listen).map_err(|error| of_settings(&error))?;
    // Fails only where something else in this process logs already, and then there are lines anyway.
    let _ = logging::init(settings.log.level, settings.log.format);
    if args.exit_with_stdin {
        end_with_stdin()?;
    }
    let deps = Deps {
        backends: backends::all(),
        builtins: backends::builtins(),
        rehearser: Box::new(backends::rehearser(limits(&settings))),
        read_settings: args
            .config
            .is_some()
            .then(|| -> ReadSettings { Box::new(move || self::settings(&args, &listen)) }),
    };
    memory::keep_part_of(settings.limits.requests_memory_max.get());
    let runtime = daemon::runtime().map_err(|error| of_daemon(&error))?;
    runtime.block_on(async {
        let daemon = Daemon::start(settings, deps).await.map_err(|error| of_daemon(&error))?;
        if std::io::stderr().is_terminal() {
            eprint!("{}", welcome(daemon.addresses(), Paint::stderr()));
        }
        match daemon.run_until_signal().await {
            Ok(()) => Ok(Exit::Ok),
            Err(DaemonError::SecondSignal { .. }) => Ok(Exit::Interrupted),
            Err(error) => Err(of_daemon(&error)),
        }
    })
}

/// The settings of the file, and what the flags add to them.
fn settings(args: &ServeArgs, listen: &[Address]) -> Result<Settings, SettingsError> {
    let mut settings = match &args.config {
        Some(path) => Settings::load(path)?,
        None => Settings::default(),
    };
    settings.models.files.extend(args.model.iter().cloned());
    settings.models.repositories.extend(args.models.iter().cloned());
    if !listen.is_empty() {
        settings.listen = listen.iter().cloned().map(Into::into).collect();
    }
    Ok(settings)
}

fn limits(settings: &Settings) -> RehearsalLimits {
    RehearsalLimits {
        memory_max: settings.models.rehearsal_memory_max.get(),
        cpu_max: settings.models.rehearsal_cpu.get(),
        time_max: settings.models.rehearsal_timeout.get(),
    }
}

/// Ends the daemon as SIGTERM does once standard input ends, which it does when whoever holds its other end
/// is gone, however that happened.
fn end_with_stdin() -> Result<(), Failure> {
    let watch = || {
        let mut stdin = std::io::stdin().lock();
        let mut sink = [0; 256];
        while stdin.read(&mut sink).is_ok_and(|length| length > 0) {}
        // The signal is handled as any other: drain, and then end. It can't fail for one's own process.
        let _ = kill_process(getpid(), Signal::TERM);
    };
    std::thread::Builder::new()
        .name("dk-stdin".into())
        .spawn(watch)
        .map(drop)
        .map_err(|error| Failure::new(Exit::Start, "can't watch standard input").because(&error))
}

fn of_settings(error: &SettingsError) -> Failure {
    let mut failure = Failure::new(Exit::Start, "the settings are wrong");
    for diagnostic in &error.diagnostics {
        failure = failure.note(diagnostic.to_string());
    }
    failure.help("docs/settings.md lists what can be set; `diolkos check FILE` checks without starting")
}

fn of_daemon(error: &DaemonError) -> Failure {
    let failure = Failure::new(Exit::Start, "the daemon did not start").because(error);
    match error {
        DaemonError::Store(_) => {
            failure.help("`diolkos check PATH` says more about a model or a directory of models")
        }
        DaemonError::Listen(_) => {
            failure.help("is another daemon running? `diolkos doctor` looks; --listen names another address")
        }
        DaemonError::Engine(_)
        | DaemonError::Tenants(_)
        | DaemonError::Audit(_)
        | DaemonError::System { .. }
        | DaemonError::SecondSignal { .. } => failure,
    }
}

/// Where it listens and what to try; for a terminal.
fn welcome(addresses: &[BoundAddress], paint: Paint) -> String {
    let mut text = String::new();
    for address in addresses {
        text += &format!("{} {address}\n", paint.on("listening on", Style::Head));
    }
    let default = diolkos_server::listen::default_address().to_string();
    let is_default = addresses.iter().any(|address| address.to_string() == default);
    let flag = match addresses.first() {
        Some(address) if !is_default => format!(" --address {address}"),
        _ => String::new(),
    };
    text += &format!(
        "try: diolkos ls{flag}, diolkos inspect{flag} MODEL, diolkos run{flag} MODEL --input FILE; Ctrl-C stops\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_add_to_the_file_and_replace_where_it_listens() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("d.toml");
        std::fs::write(&file, "listen = [\"unix:/a\"]\n[models]\nfiles = [\"x.onnx\"]\n").unwrap();
        let mut args = ServeArgs {
            model: vec!["/m/y.onnx".into()],
            models: vec!["/m".into()],
            config: Some(file),
            listen: vec![],
            exit_with_stdin: false,
        };
        let read = settings(&args, &[]).unwrap();
        assert_eq!(read.listen, ["unix:/a".parse().unwrap()]);
        assert_eq!(read.models.files, [dir.path().join("x.onnx"), "/m/y.onnx".into()]);
        assert_eq!(read.models.repositories, [std::path::PathBuf::from("/m")]);
        let listen: Vec<Address> = vec!["tcp:127.0.0.1:0".parse().unwrap()];
        assert_eq!(settings(&args, &listen).unwrap().listen, ["tcp:127.0.0.1:0".parse().unwrap()]);
        args.config = Some(dir.path().join("missing.toml"));
        assert_eq!(of_settings(&settings(&args, &[]).unwrap_err()).exit, Exit::Start);
    }

    #[test]
    fn the_welcome_names_an_address_that_is_not_the_default() {
        let text = welcome(&[BoundAddress::Unix("/x/d.sock".into())], Paint::PLAIN);
        assert!(
            text.starts_with("listening on unix:/x/d.sock\n") && text.contains("--address unix:/x/d.sock"),
            "{text}"
        );
    }
}
