// SPDX-License-Identifier: Apache-2.0
//! The promise that a client is small: few crates, and a static executable below two megabytes that needs nothing of
//! the sandbox it runs in.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::tally::{Stop, Tally};
use crate::{process, tools};

/// Crates that the client pulls in, at most: fewer than fifteen.
const CRATES_MAX: usize = 14;
/// Size of the executable, at most.
const BYTES_MAX: u64 = 2_000_000;
/// This machine's own, by name: only with a target named do the flags not also go to build scripts and macros, which
/// can't be static.
#[cfg(target_arch = "x86_64")]
const TARGET: &str = "x86_64-unknown-linux-gnu";
#[cfg(target_arch = "aarch64")]
const TARGET: &str = "aarch64-unknown-linux-gnu";

pub(crate) fn step() -> Result<Tally, Stop> {
    let mut tally = crates()?;
    if tools::links_statically()? {
        tally.add(executable()?);
    } else {
        println!("SKIPPED: the static client: this machine has no static C library (Debian: libc6-dev)");
        tally.skipped += 1;
    }
    Ok(tally)
}

/// Counts what `diolkos-client` needs to be built without optional features, itself not counted. As `cargo tree` tells
/// it: `cargo metadata` adds what other members of the workspace ask of the same crates.
fn crates() -> Result<Tally, Stop> {
    let mut tree = tools::cargo();
    tree.args(["tree", "--package", "diolkos-client", "--edges", "normal", "--prefix", "none"]);
    tree.args(["--format", "{p}", "--target", TARGET]);
    let output = tree.output().map_err(|error| Stop::failed(format!("cargo tree: {error}")))?;
    if !output.status.success() {
        return Err(Stop::failed(format!("cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let crates: BTreeSet<&str> =
        text.lines().map(|line| line.trim_end_matches(" (*)")).filter(|line| !line.is_empty()).collect();
    let count = crates.len().saturating_sub(1);
    println!("diolkos-client pulls in {count} crates, at most {CRATES_MAX} are promised");
    if count == 0 || count > CRATES_MAX {
        return Err(Stop::failed(format!("diolkos-client pulls in {count} crates")));
    }
    Ok(Tally::ONE)
}

/// Builds the example `ask` statically, and runs it far enough to see that it does.
fn executable() -> Result<Tally, Stop> {
    let target_dir = tools::target_dir().join("small-client");
    let mut build = tools::cargo();
    build.args(["build", "--package", "diolkos-client", "--example", "ask", "--profile", "small", "--quiet"]);
    build.args(["--target", TARGET, "--target-dir"]).arg(&target_dir);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    process::check(&mut build)?;
    let program = target_dir.join(TARGET).join("small/examples/ask");
    let size = std::fs::metadata(&program)
        .map_err(|error| Stop::failed(format!("{}: {error}", program.display())))?;
    println!("a static client has {} bytes, at most {BYTES_MAX} are promised", size.len());
    if size.len() >= BYTES_MAX {
        return Err(Stop::failed(format!("a static client has {} bytes", size.len())));
    }
    // Without an environment, and with an address at which nobody is: it must start and say so.
    let output =
        Command::new(&program).args(["unix:/nowhere", "noop"]).env_clear().stdin(Stdio::null()).output();
    let output = output.map_err(|error| Stop::failed(format!("{}: {error}", program.display())))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(1) || !said.contains("can't reach the daemon at unix:/nowhere") {
        return Err(Stop::failed(format!("a static client said `{}`", said.trim())));
    }
    Ok(Tally::ONE)
}
