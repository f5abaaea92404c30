// SPDX-License-Identifier: Apache-2.0
//! Where the daemon is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use diolkos_shm::vsock::{self, VsockAddr};

/// The variable that `env` and the command line look at.
const VARIABLE: &str = "DIOLKOS_ENDPOINT";

/// The address of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `unix:PATH`: shared memory is possible.
    Unix(PathBuf),
    /// `tcp:HOST:PORT`
    Tcp(String),
    /// `tls:HOST:PORT`, for clients that are built with the feature `tls`.
    Tls(String),
    /// `vsock:CID:PORT`, from a virtual machine; `vsock:host:PORT` is its host.
    Vsock(VsockAddr),
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It has no known beginning.
    #[error(
        "`{0}` is no address: write unix:PATH, tcp:HOST:PORT, tls:HOST:PORT, vsock:CID:PORT, or env for ${VARIABLE} or the default socket"
    )]
    Unknown(String),
    /// It ends too early.
    #[error("`{0}` names no {1}")]
    Empty(String, &'static str),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if text == "env" {
            return match std::env::var(VARIABLE) {
                Ok(value) if !value.is_empty() && value != "env" => value.parse(),
                _ => Ok(Address::Unix(default_socket())),
            };
        }
        match text.split_once(':') {
            Some(("unix", "")) => Err(AddressError::Empty(text.into(), "path")),
            Some(("unix", path)) => Ok(Address::Unix(path.into())),
            Some((kind @ ("tcp" | "tls"), rest)) => match rest.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                    Ok(if kind == "tcp" { Address::Tcp(rest.into()) } else { Address::Tls(rest.into()) })
                }
                _ => Err(AddressError::Empty(text.into(), "host and port")),
            },
            Some(("vsock", rest)) => {
                // `any` is for those who listen.
                let at: Option<VsockAddr> = rest.parse().ok().filter(|at: &VsockAddr| at.cid != vsock::ANY);
                at.map(Address::Vsock)
                    .ok_or(AddressError::Empty(text.into(), "context id (or `host`, or `local`) and port"))
            }
            _ => Err(AddressError::Unknown(text.into())),
        }
    }
}

/// Where a daemon without any address in its settings listens; docs/settings.md, `listen`.
fn default_socket() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let folder = runtime.map(|dir| dir.join("diolkos")).unwrap_or_else(|| {
        let run = PathBuf::from(format!("/run/user/{uid}"));
        if run.is_dir() { run.join("diolkos") } else { PathBuf::from(format!("/tmp/diolkos-{uid}")) }
    });
    folder.join("diolkos.sock")
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(at) => write!(f, "tcp:{at}"),
            Address::Tls(at) => write!(f, "tls:{at}"),
            Address::Vsock(at) => write!(f, "vsock:{at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!("unix:/run/d.sock".parse(), Ok(Address::Unix("/run/d.sock".into())));
        assert_eq!("tcp:[::1]:80".parse(), Ok(Address::Tcp("[::1]:80".into())));
        let host = Address::Vsock(VsockAddr { cid: 2, port: 5001 });
        assert_eq!("vsock:host:5001".parse(), Ok(host));
        assert_eq!("tls:d.example:443".parse(), Ok(Address::Tls("d.example:443".into())));
        for text in
            ["unix:/run/d.sock", "tcp:localhost:8000", "tls:[::1]:8000", "vsock:host:5001", "vsock:7:1"]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let wrong =
            ["", "unix:", "tcp:", "tcp:x", "tcp::80", "tcp:x:99999", "tls:x", "/run/d.sock", "http://x"];
        for wrong in wrong.into_iter().chain([
            "vsock:",
            "vsock:2",
            "vsock:2:",
            "vsock:x:1",
            "vsock:-1:1",
            "vsock:any:1",
        ]) {
            let error = wrong.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
    }
}
