// SPDX-License-Identifier: Apache-2.0
//! Addresses to listen on, and the one used when nobody named any.
//!
//! TCP is not encrypted, so any address but loopback is refused unless the operator wrote `insecure = true` next to it:
//! a literal when settings are read, a name when it is resolved.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use diolkos_shm::vsock::VsockAddr;
use serde::{Deserialize, Serialize};

use crate::limits;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// A unix socket in the file system.
    Unix(PathBuf),
    /// A TCP port; 0 = one that is free.
    Tcp {
        /// Name or number, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A port for virtual machines (`AF_VSOCK`); 0 = one that is free.
    Vsock(VsockAddr),
}

/// Where a listener really listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BoundAddress {
    /// A unix socket in the file system.
    Unix(PathBuf),
    /// A TCP address, with the port that the system chose if 0 was asked for.
    Tcp(SocketAddr),
    /// A port for virtual machines, with the one that the system chose if 0 was asked for.
    Vsock(VsockAddr),
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BoundAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            BoundAddress::Tcp(address) => write!(f, "tcp:{address}"),
            BoundAddress::Vsock(address) => write!(f, "vsock:{address}"),
        }
    }
}

/// Why text is no address, or none that may be listened on.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// None of the kinds.
    #[error(
        "`{0}` is no address: write unix:PATH, vsock:any:PORT or tcp:HOST:PORT, such as tcp:127.0.0.1:8000"
    )]
    Syntax(String),
    /// No machine, or no port.
    #[error(
        "`{0}` is no address: write vsock:any:PORT, or vsock:local:PORT for this machine alone (0 = any free port)"
    )]
    Vsock(String),
    /// No port number.
    #[error("`{0}` has no port: write a number from 0 to 65535 behind the last colon (0 = any free one)")]
    Port(String),
    /// The kernel's limit.
    #[error("the socket path `{path}` has {bytes} bytes; the kernel takes at most {max}",
        path = .path.display(), max = limits::UNIX_PATH_BYTES_MAX)]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// TCP is for this host only, unless somebody said otherwise.
    #[error(
        "`{address}` is not on loopback{resolved}, and TCP is not encrypted: whoever sees the network could read tensors and tokens; listen on unix:PATH and put a proxy in front, or write {{ address = \"{address}\", insecure = true }} in the settings"
    )]
    NotLoopback {
        /// What was asked for.
        address: String,
        /// ` (it is ADDRESS)` for a name.
        resolved: String,
    },
    /// The name means nothing here.
    #[error("can't resolve `{address}`")]
    Resolve {
        /// What was asked for.
        address: String,
        /// What the resolver said.
        source: std::io::Error,
    },
    /// The default directory can't be used.
    #[error("the directory `{path}` for the default socket {problem}; name another with --listen unix:PATH",
        path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, as the end of a sentence.
        problem: String,
    },
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let excerpt = || text.chars().take(200).collect::<String>();
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() || path.contains('\0') {
                return Err(AddressError::Syntax(excerpt()));
            }
            return Ok(Address::Unix(path.into()));
        }
        if let Some(at) = text.strip_prefix("vsock:") {
            return at.parse().map(Address::Vsock).map_err(|_| AddressError::Vsock(excerpt()));
        }
        let rest = text.strip_prefix("tcp:").ok_or_else(|| AddressError::Syntax(excerpt()))?;
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| AddressError::Port(excerpt()))?;
        let port = port.parse().map_err(|_| AddressError::Port(excerpt()))?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        // Outside of brackets a colon means an IPv6 address whose end can't be told from the port.
        let unclear = (bracketed.is_none() && host.contains(':')) || host.contains(['[', ']']);
        if host.is_empty() || unclear {
            return Err(AddressError::Syntax(excerpt()));
        }
        Ok(Address::Tcp { host: host.into(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Address::Vsock(address) => write!(f, "vsock:{address}"),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Address, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

impl Address {
    /// Refuses an address that others than this host could reach, if it is one: what a name means shows later.
    pub fn check_loopback(&self) -> Result<(), AddressError> {
        match self {
            Address::Tcp { host, .. } if host.parse().is_ok_and(|ip: IpAddr| !ip.is_loopback()) => {
                Err(AddressError::NotLoopback { address: self.to_string(), resolved: String::new() })
            }
            // The hypervisor carries what goes over vsock, and nobody beside it.
            Address::Tcp { .. } | Address::Unix(_) | Address::Vsock(_) => Ok(()),
        }
    }

    /// Makes a relative socket path relative to `base`.
    pub(crate) fn resolve(&mut self, base: &Path) {
        if let Address::Unix(path) = self {
            *path = base.join(&*path);
        }
    }
}

/// The socket addresses that a TCP host and port mean. All of them must be loopback, unless the operator wants it
/// `insecure`: which one a client would reach is not ours to choose.
pub(super) fn tcp_addresses(host: &str, port: u16, insecure: bool) -> Result<Vec<SocketAddr>, AddressError> {
    let address = || Address::Tcp { host: host.into(), port }.to_string();
    let resolved = (host, port).to_socket_addrs();
    let resolved = resolved.map_err(|source| AddressError::Resolve { address: address(), source })?;
    let resolved: Vec<SocketAddr> = resolved.collect();
    if !insecure {
        check_loopback(address(), &resolved)?;
    }
    Ok(resolved)
}

fn check_loopback(address: String, resolved: &[SocketAddr]) -> Result<(), AddressError> {
    match resolved.iter().find(|resolved| !resolved.ip().is_loopback()) {
        Some(other) => {
            Err(AddressError::NotLoopback { address, resolved: format!(" (it is {})", other.ip()) })
        }
        None => Ok(()),
    }
}

/// The socket that `serve` listens on, and clients connect to, when nobody names one:
/// `$XDG_RUNTIME_DIR/diolkos/diolkos.sock`, else under `/run/user/UID`, else under `/tmp/diolkos-UID`.
#[must_use]
pub fn default_address() -> Address {
    let uid = rustix::process::geteuid().as_raw();
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let run_user = PathBuf::from(format!("/run/user/{uid}"));
    let run_user_is_ours = std::fs::metadata(&run_user).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid);
    Address::Unix(default_path(runtime_dir, run_user_is_ours.then_some(run_user), uid))
}

fn default_path(runtime_dir: Option<PathBuf>, run_user: Option<PathBuf>, uid: u32) -> PathBuf {
    // The specification of XDG_RUNTIME_DIR says that a relative path is to be ignored.
    let runtime_dir = runtime_dir.filter(|dir| dir.is_absolute());
    let dir = match runtime_dir.or(run_user) {
        Some(dir) => dir.join("diolkos"),
        None => PathBuf::from(format!("/tmp/diolkos-{uid}")),
    };
    dir.join("diolkos.sock")
}

/// [`default_address`], with its directory made, ours, and closed to others.
pub(crate) fn prepare_default() -> Result<Address, AddressError> {
    let address = default_address();
    if let Address::Unix(path) = &address
        && let Some(dir) = path.parent()
    {
        prepare_dir(dir, rustix::process::geteuid().as_raw())?;
    }
    Ok(address)
}

/// Makes a directory with mode 0700, or checks that the one that is there is ours and closed: in `/tmp`
/// somebody else may have made it first, to see or replace our socket.
fn prepare_dir(dir: &Path, uid: u32) -> Result<(), AddressError> {
    let problem = |problem: String| AddressError::Directory { path: dir.into(), problem };
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(problem(format!("can't be made ({error})"))),
    }
    // Not followed if it is a link: whoever made a link could point it elsewhere later.
    let meta = std::fs::symlink_metadata(dir).map_err(|error| problem(format!("can't be read ({error})")))?;
    if !meta.is_dir() {
        return Err(problem("is no directory".into()));
    }
    if meta.uid() != uid {
        return Err(problem(format!("belongs to uid {} and not to us (uid {uid})", meta.uid())));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(problem(format!(
            "has mode {:04o} and must be closed to others (0700)",
            meta.mode() & 0o7777
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_every_kind() {
        let tcp = ["tcp:127.0.0.1:8000", "tcp:[::1]:0", "tcp:localhost:1"];
        let vsock = ["vsock:any:5001", "vsock:local:0", "vsock:host:1", "vsock:7:1"];
        for text in ["unix:/run/d.sock", "unix:rel"].into_iter().chain(tcp).chain(vsock) {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        for (text, expected) in [
            (
                "8000",
                "`8000` is no address: write unix:PATH, vsock:any:PORT or tcp:HOST:PORT, such as tcp:127.0.0.1:8000",
            ),
            (
                "unix:",
                "`unix:` is no address: write unix:PATH, vsock:any:PORT or tcp:HOST:PORT, such as tcp:127.0.0.1:8000",
            ),
            (
                "tcp:::1:80",
                "`tcp:::1:80` is no address: write unix:PATH, vsock:any:PORT or tcp:HOST:PORT, such as tcp:127.0.0.1:8000",
            ),
            (
                "vsock:5001",
                "`vsock:5001` is no address: write vsock:any:PORT, or vsock:local:PORT for this machine alone (0 = any free port)",
            ),
            (
                "tcp:localhost",
                "`tcp:localhost` has no port: write a number from 0 to 65535 behind the last colon (0 = any free one)",
            ),
            (
                "tcp:localhost:99999",
                "`tcp:localhost:99999` has no port: write a number from 0 to 65535 behind the last colon (0 = any free one)",
            ),
        ] {
            assert_eq!(text.parse::<Address>().unwrap_err().to_string(), expected);
        }
        for text in ["tcp:[::]:80", "tcp:192.168.0.1:80", "tcp:[::ffff:10.0.0.1]:80", "tcp:[fe80::1]:80"] {
            let address: Address = text.parse().unwrap();
            assert!(matches!(address.check_loopback(), Err(AddressError::NotLoopback { .. })), "{text}");
        }
    }

    #[test]
    fn a_name_must_mean_loopback_only() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 80));
        let other = SocketAddr::from(([10, 1, 2, 3], 80));
        assert!(check_loopback("tcp:here:80".into(), &[loopback]).is_ok());
        let error = check_loopback("tcp:here:80".into(), &[loopback, other]).unwrap_err();
        assert!(
            error.to_string().starts_with("`tcp:here:80` is not on loopback (it is 10.1.2.3), and TCP"),
            "{error}"
        );
        // What a resolver takes for a number is a number here too: 0 is 0.0.0.0.
        assert!(matches!(tcp_addresses("0", 0, false), Err(AddressError::NotLoopback { .. })));
    }

    #[test]
    fn the_default_prefers_the_runtime_directory() {
        let path = |runtime: Option<&str>, run_user: Option<&str>| {
            default_path(runtime.map(PathBuf::from), run_user.map(PathBuf::from), 7).display().to_string()
        };
        assert_eq!(path(Some("/r"), Some("/run/user/7")), "/r/diolkos/diolkos.sock");
        assert_eq!(path(Some("relative"), Some("/run/user/7")), "/run/user/7/diolkos/diolkos.sock");
        assert_eq!(path(None, None), "/tmp/diolkos-7/diolkos.sock");
    }

    #[test]
    fn the_default_directory_must_be_ours_and_closed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("d");
        let uid = rustix::process::geteuid().as_raw();
        prepare_dir(&dir, uid).unwrap();
        assert_eq!(dir.metadata().unwrap().mode() & 0o777, 0o700);
        prepare_dir(&dir, uid).unwrap();
        let error = prepare_dir(&dir, uid + 1).unwrap_err().to_string();
        assert!(error.contains(&format!("belongs to uid {uid} and not to us (uid {})", uid + 1)), "{error}");
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
        let error = prepare_dir(&dir, uid).unwrap_err().to_string();
        assert!(error.contains("has mode 0755 and must be closed to others (0700)"), "{error}");
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(temp.path(), &link).unwrap();
        assert!(prepare_dir(&link, uid).unwrap_err().to_string().contains("is no directory"));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_alike(text in "(unix|tcp|vsock):([\\[\\]a-z0-9:./]{0,20}|any|host|2)(:[0-9]{1,6})?") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            }
        }
    }
}
