// SPDX-License-Identifier: Apache-2.0
//! The virtual environment with the stock clients: `target/venv`, made from pinned requirements and
//! made anew when those change.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::tally::Stop;
use crate::tools;

/// A command that runs one of our scripts in the virtual environment.
pub(crate) fn script(path: &str, arguments: &[String]) -> Result<Command, Stop> {
    let python = environment()?;
    let mut command = Command::new(python);
    // Unbuffered, so that what a script says appears when it says it.
    command.arg("-u").arg(crate::root().join(path)).args(arguments);
    command.current_dir(crate::root()).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// The environment's interpreter. A registry that can't be reached is a skip, except in CI.
fn environment() -> Result<PathBuf, Stop> {
    let folder = tools::target_dir().join("venv");
    let python = folder.join("bin/python");
    let stamp = folder.join("requirements.stamp");
    let requirements = crate::root().join("tests/clients/requirements.txt");
    let wanted = fs::read_to_string(&requirements)
        .map_err(|error| Stop::failed(format!("can't read {}: {error}", requirements.display())))?;
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == wanted) {
        return Ok(python);
    }
    println!("making {} from tests/clients/requirements.txt", folder.display());
    if !succeeds(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder)) {
        return Err(unavailable("python3 -m venv failed (Debian: apt install python3-venv)"));
    }
    let mut install = Command::new(&python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
        "-r",
    ]);
    if !succeeds(install.arg(&requirements)) {
        return Err(unavailable("pip can't install tests/clients/requirements.txt: no package registry?"));
    }
    fs::write(&stamp, wanted)
        .map_err(|error| Stop::failed(format!("can't write {}: {error}", stamp.display())))?;
    Ok(python)
}

fn succeeds(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

fn unavailable(reason: &str) -> Stop {
    if tools::in_ci() {
        Stop::failed(format!("{reason} (an error because CI is set)"))
    } else {
        Stop::Skipped(reason.into())
    }
}
