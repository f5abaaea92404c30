// SPDX-License-Identifier: Apache-2.0
//! Fuzzing the decoders of tenants' bytes: by cargo-fuzz where it is installed, and always by the
//! mutation test `xtask/tests/decoders.rs`, which drives the same functions with the same seeds.

use std::ffi::OsString;
use std::path::Path;
use std::{fs, io};

use crate::tally::{self, Stop, Tally};
use crate::{process, tools};

/// In `cargo xtask test`, per target: long enough to notice a decoder that breaks on a byte or two.
const SHORT_SECONDS: u64 = 10;
/// By command, per target, unless told otherwise.
const LONG_SECONDS: u64 = 300;

/// The step of `cargo xtask test`. The instrumented build has other flags than ours and so is a second
/// build of the dependencies; it is made only where cargo-fuzz has been installed on purpose.
pub(crate) fn step() -> Result<Tally, Stop> {
    let mut tally = mutate(None, SHORT_SECONDS)?;
    if !tools::has_plugin("fuzz") {
        println!("cargo-fuzz is not installed: no run with coverage guidance (cargo install cargo-fuzz)");
        tally.skipped += 1;
        return Ok(tally);
    }
    tally.add(guided(None, SHORT_SECONDS)?);
    Ok(tally)
}

/// `cargo xtask fuzz [TARGET] [--seconds N] [--stable]`
pub(crate) fn command(arguments: &[String]) -> Result<Tally, Stop> {
    let (mut target, mut seconds, mut stable) = (None, LONG_SECONDS, false);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--stable" => stable = true,
            "--seconds" => {
                let value = arguments.next().map(String::as_str).unwrap_or_default();
                seconds =
                    value.parse().map_err(|_| Stop::failed(format!("--seconds '{value}' is no number")))?;
            }
            name if !name.starts_with('-') => target = Some(name.to_owned()),
            other => {
                return Err(Stop::failed(format!("no option '{other}'; there are --seconds N and --stable")));
            }
        }
    }
    let known = targets().map_err(|error| Stop::failed(format!("fuzz/seeds: {error}")))?;
    if let Some(target) = &target
        && !known.contains(target)
    {
        return Err(Stop::failed(format!("no target '{target}'; there are {}", known.join(", "))));
    }
    if stable || !tools::has_plugin("fuzz") {
        println!("without coverage guidance{}", if stable { "" } else { " (cargo install cargo-fuzz)" });
        return mutate(target, seconds);
    }
    guided(target, seconds)
}

/// The targets: each has a folder of seeds of its name.
fn targets() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(crate::root().join("fuzz/seeds"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn mutate(target: Option<String>, seconds: u64) -> Result<Tally, Stop> {
    let mut command = tools::cargo();
    command
        .args(["test", "--quiet", "--workspace", "--test", "decoders"])
        .env("DIOLKOS_FUZZ_SECONDS", seconds.to_string());
    if let Some(target) = target {
        command.args(["--", "--exact", &target]);
    }
    process::counted(&mut command, tally::libtest)
}

fn guided(target: Option<String>, seconds: u64) -> Result<Tally, Stop> {
    let targets = match target {
        Some(target) => vec![target],
        None => targets().map_err(|error| Stop::failed(format!("fuzz/seeds: {error}")))?,
    };
    let mut tally = Tally::default();
    for target in targets {
        let folder = Path::new("fuzz");
        let (corpus, seeds) = (folder.join("corpus").join(&target), folder.join("seeds").join(&target));
        fs::create_dir_all(crate::root().join(&corpus))
            .map_err(|error| Stop::failed(format!("{}: {error}", corpus.display())))?;
        let mut command = tools::cargo();
        // The stable compiler takes the sanitizer's flags only with RUSTC_BOOTSTRAP.
        command.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", "run", &target]).args([corpus, seeds]).arg("--");
        command.args([
            OsString::from(format!("-max_total_time={seconds}")),
            "-rss_limit_mb=2048".into(),
            "-timeout=10".into(),
        ]);
        match process::check(&mut command) {
            Ok(one) => tally.add(one),
            Err(Stop::Failed(_, reason)) => {
                tally.failed += 1;
                println!("{target}: {reason}; the input is in fuzz/artifacts/{target}");
            }
            Err(skipped) => return Err(skipped),
        }
    }
    if tally.failed == 0 { Ok(tally) } else { Err(Stop::Failed(tally, "see above".into())) }
}
