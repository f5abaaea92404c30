// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: all steps in order, a table of what happened, one line of totals.
//!
//! Every step runs even if an earlier one failed, except that what needs the build is skipped when the
//! build failed. The exit status is a failure exactly when something failed.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::tally::{self, Stop, Tally};
use crate::{fuzz, policy, small, steps, tools};

struct Step {
    name: &'static str,
    what: &'static str,
    /// Pointless when the step `build` has failed.
    needs_build: bool,
    run: fn() -> Result<Tally, Stop>,
}

const fn step(
    name: &'static str,
    what: &'static str,
    needs_build: bool,
    run: fn() -> Result<Tally, Stop>,
) -> Step {
    Step { name, what, needs_build, run }
}

/// Quick ones first: a formatting slip should not cost a build.
const STEPS: &[Step] = &[
    step("tools", "toolchain components, C compiler, python3", false, tools::step),
    step("format", "rustfmt --check", false, steps::format),
    step("policy", "crate floors, dependencies, licence lines, unsafe", false, policy::step),
    step("clippy", "lints as errors, all targets", false, steps::clippy),
    step("build", "all targets, dev profile", false, steps::build),
    step("tests", "unit, integration and property tests", true, steps::tests),
    step("doctests", "examples in the API documentation", true, steps::doctests),
    step("clients", "stock clients against a spawned daemon, and hostile ones", true, || steps::clients(&[])),
    step("small-client", "the client's crates; a static client below two megabytes", false, small::step),
    step("python", "the Python package: its wheel, types and tests", true, steps::python_package),
    step("soak", "1,000 connections; 100 hot reloads under load", true, || steps::soak(&[])),
    step(
        "memory",
        "a daemon under the memory limit that its limits add up to, and two who want it all",
        true,
        || steps::memory(&[]),
    ),
    step("vm", "tests that need vsock, in an emulated virtual machine", true, || steps::virtual_machine(&[])),
    step("perf-analyzer", "Triton's perf_analyzer, three modes, two models", true, || {
        steps::perf_analyzer(&[])
    }),
    step("onnx-nodes", "the ONNX node tests through the server", true, || steps::onnx_nodes(&[])),
    step("fuzz", "decoders of tenants' bytes, for a short time", true, fuzz::step),
];

struct Row {
    name: &'static str,
    tally: Tally,
    note: String,
    took: Duration,
}

/// Parses the arguments and runs the steps.
pub(crate) fn command(arguments: &[String]) -> ExitCode {
    match select(arguments) {
        Ok(Selection::List) => {
            for step in STEPS {
                println!("{:<14} {}", step.name, step.what);
            }
            ExitCode::SUCCESS
        }
        Ok(Selection::Run(selected)) => run(&selected),
        Err(problem) => {
            eprintln!("xtask test: {problem}");
            ExitCode::from(2)
        }
    }
}

enum Selection {
    List,
    Run(Vec<&'static Step>),
}

fn select(arguments: &[String]) -> Result<Selection, String> {
    let mut selected: Vec<&'static Step> = STEPS.iter().collect();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let (option, value) = match argument.split_once('=') {
            Some((option, value)) => (option, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        if option == "--list" {
            return Ok(Selection::List);
        }
        if option != "--only" && option != "--skip" {
            return Err(format!("no option '{argument}'; there are --only STEPS, --skip STEPS and --list"));
        }
        let names =
            value.or_else(|| arguments.next().cloned()).ok_or(format!("{option} needs names of steps"))?;
        let names: Vec<&str> = names.split(',').collect();
        if let Some(unknown) = names.iter().find(|name| !STEPS.iter().any(|step| step.name == **name)) {
            return Err(format!("no step '{unknown}'; `cargo xtask test --list` names them"));
        }
        selected.retain(|step| names.contains(&step.name) == (option == "--only"));
    }
    Ok(Selection::Run(selected))
}

fn run(selected: &[&'static Step]) -> ExitCode {
    let started = Instant::now();
    let mut rows: Vec<Row> = Vec::new();
    let mut build_failed = false;
    for step in selected {
        println!("\n==== {}: {}", step.name, step.what);
        // Children write to the same stdout directly, so ours must not lag behind.
        let _ = io::stdout().flush();
        let begun = Instant::now();
        let result = if step.needs_build && build_failed {
            Err(Stop::Skipped("the build failed".into()))
        } else {
            (step.run)()
        };
        let (tally, note) = tally::judge(result);
        build_failed |= step.name == "build" && tally.failed > 0;
        if !note.is_empty() {
            println!("{}: {note}", step.name);
        }
        rows.push(Row { name: step.name, tally, note, took: begun.elapsed() });
    }
    let total = summary(&rows, started.elapsed());
    println!("{total}");
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn summary(rows: &[Row], took: Duration) -> Tally {
    let mut total = Tally::default();
    println!("\n{:<14} {:>7} {:>7} {:>7} {:>8}", "step", "passed", "failed", "skipped", "seconds");
    for Row { name, tally, note, took } in rows {
        total.add(*tally);
        let counts = format!("{:>7} {:>7} {:>7}", tally.passed, tally.failed, tally.skipped);
        println!("{}", format!("{name:<14} {counts} {:>8.1}  {note}", took.as_secs_f64()).trim_end());
    }
    println!("{:<14} {:>31.1}\n", "all", took.as_secs_f64());
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arguments: &[&str]) -> Result<Vec<&'static str>, String> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        match select(&arguments)? {
            Selection::List => Ok(Vec::new()),
            Selection::Run(steps) => Ok(steps.iter().map(|step| step.name).collect()),
        }
    }

    #[test]
    fn steps_are_chosen_by_name() {
        assert_eq!(names(&["--only", "clients,policy"]), Ok(vec!["policy", "clients"]));
        assert_eq!(names(&["--only=format"]), Ok(vec!["format"]));
        assert_eq!(names(&[]).unwrap().len(), STEPS.len());
        assert!(!names(&["--skip", "clippy"]).unwrap().contains(&"clippy"));
    }

    #[test]
    fn a_misspelt_step_is_refused_rather_than_not_run() {
        assert!(names(&["--only", "client"]).unwrap_err().contains("'client'"));
        assert!(names(&["--only"]).unwrap_err().contains("--only"));
        assert!(names(&["--fast"]).unwrap_err().contains("--fast"));
    }
}
