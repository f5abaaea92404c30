// SPDX-License-Identifier: Apache-2.0
//! What the tests share: where things lie, and how programs are run.

// Not every test program uses all of it.
#![allow(dead_code)]

pub(crate) mod daemon;

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// A file of this crate.
pub(crate) fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The folder of cargo's profile that this test was built for, such as `target/debug`.
pub(crate) fn profile_folder() -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    let folder = executable.parent().unwrap();
    if folder.ends_with("deps") { folder.parent().unwrap().to_owned() } else { folder.to_owned() }
}

/// A library that cargo built of this crate, or why there is none. `cargo test` alone does not build it, because no Rust
/// program links it; `cargo build --workspace` does.
pub(crate) fn built_library(name: &str) -> Result<PathBuf, String> {
    let library = profile_folder().join(name);
    let built = fs::metadata(&library).and_then(|found| found.modified());
    let built = built
        .map_err(|error| format!("{}: {error}; `cargo build -p libdiolkos` makes it", library.display()))?;
    match newer_source(&here("src"), built) {
        Some(source) => Err(format!(
            "{} is older than {}; `cargo build -p libdiolkos` makes it anew",
            library.display(),
            source.display()
        )),
        None => Ok(library),
    }
}

fn newer_source(folder: &Path, built: SystemTime) -> Option<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|file| fs::metadata(file).unwrap().modified().unwrap() > built)
}

/// Says why something is not tested here.
pub(crate) fn skip(reason: &str) {
    println!("SKIPPED: {reason}");
}

/// Longest that a program may take: it would hang.
const RUN_MAX: Duration = Duration::from_secs(120);

/// Runs a program to its end, and gives what it wrote to either output.
pub(crate) fn run(command: &mut Command) -> (ExitStatus, String) {
    let mut written = tempfile::tempfile().unwrap();
    command.stdin(Stdio::null()).stdout(written.try_clone().unwrap()).stderr(written.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let until = Instant::now() + RUN_MAX;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > until => {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut text = Vec::new();
    written.seek(SeekFrom::Start(0)).unwrap();
    written.read_to_end(&mut text).unwrap();
    (status, String::from_utf8_lossy(&text).into_owned())
}
