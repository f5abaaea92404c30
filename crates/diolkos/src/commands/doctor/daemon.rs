// SPDX-License-Identifier: Apache-2.0
//! Where the daemon's socket lies, and whether somebody answers there.

use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

use super::Finding;
use crate::client::{Address, Client, ClientError};
use crate::commands::runtime;
use crate::exit::Failure;
use crate::term;

pub(super) fn examine(address: &Address) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    if let Address::Unix(path) = address {
        findings.push(directory(path));
    }
    let answer = runtime()?.block_on(async { Client::connect(address).await?.is_ready().await });
    findings.push(daemon(address, answer));
    findings.push(models_directory());
    Ok(findings)
}

fn directory(socket: &Path) -> Finding {
    let dir = socket.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // `serve` makes the last directory itself, so the one above it must be writable.
    let (place, verb) =
        if dir.exists() { (dir, "writable") } else { (dir.parent().unwrap_or(dir), "can be made") };
    match access(place, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::ok("runtime dir", format!("{}, {verb}", dir.display())),
        Err(errno) => Finding::fail(
            "runtime dir",
            format!("{}: {errno}", dir.display()),
            "set XDG_RUNTIME_DIR to a directory of yours, or name a socket with `serve --listen unix:PATH`",
        ),
    }
}

fn daemon(address: &Address, answer: Result<bool, ClientError>) -> Finding {
    match answer {
        Ok(true) => Finding::ok("daemon", format!("ready at {address}")),
        Ok(false) => Finding::warn(
            "daemon",
            format!("at {address}, and not ready"),
            "it is loading models or shutting down; `diolkos ls` says more",
        ),
        Err(ClientError::Connect { source, .. }) => nobody(address, &source),
        Err(error) => Finding::fail(
            "daemon",
            format!("somebody is at {address}, and {error}"),
            "another program listens there; name the right address with --address",
        ),
    }
}

fn nobody(address: &Address, error: &io::Error) -> Finding {
    match (error.kind(), address) {
        (io::ErrorKind::NotFound, _) => {
            Finding::ok("daemon", format!("none at {address}; `diolkos serve` starts one"))
        }
        (io::ErrorKind::ConnectionRefused, Address::Unix(_)) => Finding::warn(
            "daemon",
            format!("{address} is left over from a daemon that is gone"),
            "nothing to do: the next `diolkos serve` takes it over",
        ),
        (io::ErrorKind::ConnectionRefused, Address::Tcp(_)) => {
            Finding::ok("daemon", format!("none at {address}; `diolkos serve --listen {address}` starts one"))
        }
        (io::ErrorKind::PermissionDenied, _) => Finding::fail(
            "daemon",
            format!("{address}: {error}"),
            "it does not serve you; ask for its settings to name you (tenants.NAME.uids)",
        ),
        _ => Finding::fail(
            "daemon",
            format!("{address}: {error}"),
            "look whether the address is the right one",
        ),
    }
}

fn models_directory() -> Finding {
    // What tests and benchmarks look for; a person has models wherever they like.
    let named = std::env::var_os("DIOLKOS_TEST_MODELS").filter(|dir| !dir.is_empty());
    let dir = named.map_or_else(|| Path::new("../shared/models").to_path_buf(), Into::into);
    let Ok(entries) = std::fs::read_dir(&dir) else {
        return Finding::ok(
            "test models",
            "none; tests that need them are skipped ($DIOLKOS_TEST_MODELS names them)",
        );
    };
    let sizes = entries.filter_map(|entry| entry.ok()?.metadata().ok()).filter(std::fs::Metadata::is_file);
    let (count, total) = sizes.fold((0u64, 0u64), |(count, total), file| (count + 1, total + file.len()));
    Finding::ok("test models", format!("{count} files, {} in {}", term::bytes(total), dir.display()))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn tells_the_states_of_a_socket_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        let address = Address::Unix(path.clone());
        let look = || {
            let answer =
                runtime().unwrap().block_on(async { Client::connect(&address).await?.is_ready().await });
            daemon(&address, answer)
        };
        assert!(look().found.starts_with("none at unix:"), "{:?}", look());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let stale = look();
        assert!(stale.level == Level::Warn && stale.found.contains("left over"), "{stale:?}");
    }

    #[test]
    fn a_directory_that_can_not_be_made_fails() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(directory(&dir.path().join("d.sock")).level, Level::Ok);
        assert_eq!(directory(&dir.path().join("new/d.sock")).level, Level::Ok);
        assert_eq!(directory(&dir.path().join("no/such/d.sock")).level, Level::Fail);
    }
}
