// SPDX-License-Identifier: Apache-2.0
//! The steps of `cargo xtask test` that call other programs.
//!
//! Everything is built once, in the dev profile and with one set of features: `build` compiles all
//! targets of the workspace together, and the steps after it find their programs there.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::python;
use crate::tally::{self, Stop, Tally};
use crate::{process, tools};

/// Features are resolved for all targets at once, so that no step builds a dependency a second time.
const EVERYTHING: [&str; 2] = ["--workspace", "--all-targets"];

/// The Python package is a workspace of its own.
const PYTHON_MANIFEST: &str = "bindings/python/Cargo.toml";

/// Whether `build` has run and passed in this process, so that nothing needs building again.
static BUILT: AtomicBool = AtomicBool::new(false);

pub(crate) fn format() -> Result<Tally, Stop> {
    let mut tally = process::check(tools::cargo().args(["fmt", "--all", "--check"]))?;
    for apart in ["fuzz/Cargo.toml", PYTHON_MANIFEST] {
        let manifest = crate::root().join(apart);
        tally.add(process::check(tools::cargo().args(["fmt", "--check", "--manifest-path"]).arg(manifest))?);
    }
    Ok(tally)
}

pub(crate) fn clippy() -> Result<Tally, Stop> {
    process::check(tools::cargo().arg("clippy").args(EVERYTHING).args(["--quiet", "--", "-D", "warnings"]))
}

pub(crate) fn build() -> Result<Tally, Stop> {
    let tally = process::check(tools::cargo().arg("build").args(EVERYTHING).arg("--quiet"))?;
    BUILT.store(true, Ordering::Relaxed);
    Ok(tally)
}

/// Unit, integration and property tests.
pub(crate) fn tests() -> Result<Tally, Stop> {
    if tools::has_plugin("nextest") {
        let mut command = tools::cargo();
        command.args(["nextest", "run"]).args(EVERYTHING).args(["--no-fail-fast", "--status-level", "fail"]);
        return process::counted(command.args(["--final-status-level", "slow"]), tally::nextest);
    }
    println!("cargo-nextest is not installed: falling back to cargo test");
    process::counted(
        tools::cargo().arg("test").args(EVERYTHING).args(["--quiet", "--no-fail-fast"]),
        tally::libtest,
    )
}

pub(crate) fn doctests() -> Result<Tally, Stop> {
    process::counted(tools::cargo().args(["test", "--doc", "--workspace", "--quiet"]), tally::libtest)
}

pub(crate) fn clients(arguments: &[String]) -> Result<Tally, Stop> {
    against_daemon("tests/clients/run.py", arguments)
}

pub(crate) fn soak(arguments: &[String]) -> Result<Tally, Stop> {
    against_daemon("tests/clients/soak.py", arguments)
}

pub(crate) fn memory(arguments: &[String]) -> Result<Tally, Stop> {
    against_daemon("tests/clients/memory.py", arguments)
}

pub(crate) fn perf_analyzer(arguments: &[String]) -> Result<Tally, Stop> {
    against_daemon("tests/clients/perf_analyzer.py", arguments)
}

pub(crate) fn onnx_nodes(arguments: &[String]) -> Result<Tally, Stop> {
    against_daemon("tests/onnx_nodes/run.py", arguments)
}

/// Tests that need what this machine's kernel may not have, in a virtual machine. Python's own library is enough for it.
pub(crate) fn virtual_machine(arguments: &[String]) -> Result<Tally, Stop> {
    let mut command = Command::new("python3");
    command.arg("-u").arg(crate::root().join("tests/vm/run.py")).args(arguments);
    command.current_dir(crate::root()).env("PYTHONDONTWRITEBYTECODE", "1");
    process::counted(&mut command, tally::own)
}

/// Lints, wheel, types and tests of the Python package, in a virtual environment of its own.
pub(crate) fn python_package() -> Result<Tally, Stop> {
    let daemon = daemon()?;
    let mut lints = tools::cargo();
    lints.args(["clippy", "--quiet", "--locked", "--manifest-path"]).arg(crate::root().join(PYTHON_MANIFEST));
    // Where maturin builds as well.
    lints.arg("--target-dir").arg(tools::target_dir().join("python/target"));
    let mut tally = process::check(lints.args(["--", "-D", "warnings"]))?;
    let mut check = Command::new("sh");
    check.arg(crate::root().join("bindings/python/check.sh")).env("DIOLKOS_BIN", daemon);
    tally.add(process::counted(&mut check, tally::own)?);
    Ok(tally)
}

fn against_daemon(path: &str, arguments: &[String]) -> Result<Tally, Stop> {
    let mut command = python::script(path, arguments)?;
    command.env("DIOLKOS_BIN", daemon()?);
    process::counted(&mut command, tally::own)
}

/// The executable under test: the one that `build` made, else built now.
fn daemon() -> Result<PathBuf, Stop> {
    if let Some(path) = std::env::var_os("DIOLKOS_BIN") {
        let path = crate::root().join(path);
        return if path.exists() {
            Ok(path)
        } else {
            Err(Stop::failed(format!("DIOLKOS_BIN names {}, which does not exist", path.display())))
        };
    }
    if !BUILT.load(Ordering::Relaxed) {
        process::check(tools::cargo().args(["build", "--package", "diolkos", "--quiet"]))?;
    }
    Ok(tools::target_dir().join("debug/diolkos"))
}
