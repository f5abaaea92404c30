// SPDX-License-Identifier: Apache-2.0
//! What the machine must have: the toolchain's components, a C compiler, python3.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::tally::{Stop, Tally};

/// The cargo that runs us, so that a nested call uses the same toolchain.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(crate::root());
    command
}

/// Whether a cargo plug-in answers.
pub(crate) fn has_plugin(name: &str) -> bool {
    answers(cargo().args([name, "--version"]))
}

/// Whether a program starts and exits with success, saying nothing to the reader.
pub(crate) fn answers(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether this is a CI run, where a missing registry is an error rather than a skip.
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false" && value != "0")
}

/// A folder under `target/` for files that a step makes.
pub(crate) fn scratch(name: &str) -> Result<PathBuf, Stop> {
    let folder = target_dir().join(name);
    fs::create_dir_all(&folder)
        .map_err(|error| Stop::failed(format!("can't make {}: {error}", folder.display())))?;
    Ok(folder)
}

/// Where cargo puts its output.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => crate::root().join(folder),
        None => crate::root().join("target"),
    }
}

/// The step `tools`: says plainly what is missing and where it comes from.
pub(crate) fn step() -> Result<Tally, Stop> {
    let mut tally = Tally::default();
    let mut missing = Vec::new();
    let mut expect = |what: &str, there: bool, remedy: &str| {
        println!("{} {what}", if there { "ok     " } else { "MISSING" });
        if there {
            tally.passed += 1;
        } else {
            tally.failed += 1;
            missing.push(format!("{what} ({remedy})"));
        }
    };
    expect("rustfmt", answers(cargo().args(["fmt", "--version"])), "rustup component add rustfmt");
    expect("clippy", answers(cargo().args(["clippy", "--version"])), "rustup component add clippy");
    expect("C compiler", c_compiler_works()?, "Debian: apt install gcc libc6-dev; or set CC");
    expect("python3 3.11 or newer", python_is_new_enough(), "Debian: apt install python3 python3-venv");
    for (plugin, instead) in [
        ("nextest", "tests run one after the other by cargo test instead"),
        ("fuzz", "fuzzing runs without coverage guidance instead"),
    ] {
        let found = has_plugin(plugin);
        println!(
            "{} cargo-{plugin}{}",
            if found { "ok     " } else { "absent " },
            if found { String::new() } else { format!(": {instead}") }
        );
    }
    if missing.is_empty() {
        Ok(tally)
    } else {
        Err(Stop::Failed(tally, format!("missing: {}", missing.join(", "))))
    }
}

fn python_is_new_enough() -> bool {
    answers(Command::new("python3").args(["-c", "import sys; sys.exit(sys.version_info < (3, 11))"]))
}

/// Compiles and runs a program of one line: a compiler without headers or linker is no compiler.
fn c_compiler_works() -> Result<bool, Stop> {
    c_compiles(&[])
}

/// Whether programs can be linked with nothing of the system left to find when they start.
pub(crate) fn links_statically() -> Result<bool, Stop> {
    c_compiles(&["-static"])
}

fn c_compiles(flags: &[&str]) -> Result<bool, Stop> {
    let folder = scratch("xtask")?;
    let (source, program) = (folder.join("answer.c"), folder.join("answer"));
    fs::write(&source, "#include <stdio.h>\nint main(void) { return puts(\"42\") < 0; }\n")
        .map_err(|error| Stop::failed(format!("can't write {}: {error}", source.display())))?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| OsString::from("cc"));
    Ok(answers(Command::new(compiler).args(flags).arg(&source).arg("-o").arg(&program))
        && answers(&mut Command::new(program)))
}
