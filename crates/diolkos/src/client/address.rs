// SPDX-License-Identifier: Apache-2.0
//! Where a daemon listens, as a person writes it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use diolkos_shm::vsock::{self, VsockAddr};

/// Where to reach a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// A host (name, IPv4, or IPv6 in brackets) and a port.
    Tcp(String),
    /// The same, with TLS.
    Tls(String),
    /// A machine (`host`, or its CID) and a port, over vsock.
    Vsock(VsockAddr),
}

/// Text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address; write unix:/path/to/socket, tcp:host:port, tls:host:port or vsock:cid:port")]
pub struct ParseAddressError(String);

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Address, ParseAddressError> {
        let bad = || ParseAddressError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///run/x` is how gRPC clients write it.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(bad()) } else { Ok(Address::Unix(path.into())) };
        }
        if text.starts_with('/') || text.starts_with("./") || text.starts_with("../") {
            return Ok(Address::Unix(text.into()));
        }
        if let Some(at) = text.strip_prefix("vsock:") {
            let at = at.strip_prefix("//").unwrap_or(at).parse().ok();
            // `any` is for those who listen.
            return at.filter(|at: &VsockAddr| at.cid != vsock::ANY).map(Address::Vsock).ok_or_else(bad);
        }
        let encrypted = text.strip_prefix("tls:").or_else(|| text.strip_prefix("https:"));
        let plain = || text.strip_prefix("tcp:").or_else(|| text.strip_prefix("http:"));
        let stripped = encrypted.or_else(plain).unwrap_or(text);
        let authority = stripped.strip_prefix("//").unwrap_or(stripped).trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or_else(bad)?;
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || bare_v6 || host.contains('/') || port.parse::<u16>().is_err() {
            return Err(bad());
        }
        let authority = authority.to_owned();
        Ok(if encrypted.is_some() { Address::Tls(authority) } else { Address::Tcp(authority) })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(authority) => write!(f, "tcp:{authority}"),
            Address::Tls(authority) => write!(f, "tls:{authority}"),
            Address::Vsock(at) => write!(f, "vsock:{at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        let unix = |path: &str| Ok(Address::Unix(path.into()));
        let tcp = |authority: &str| Ok(Address::Tcp(authority.into()));
        assert_eq!("unix:/run/d.sock".parse(), unix("/run/d.sock"));
        assert_eq!("unix:///run/d.sock".parse(), unix("/run/d.sock"));
        assert_eq!("unix:relative".parse(), unix("relative"));
        assert_eq!("./d.sock".parse(), unix("./d.sock"));
        assert_eq!("tcp:127.0.0.1:8000".parse(), tcp("127.0.0.1:8000"));
        assert_eq!("tcp://localhost:8000".parse(), tcp("localhost:8000"));
        assert_eq!("http://localhost:8000/".parse(), tcp("localhost:8000"));
        assert_eq!("localhost:8000".parse(), tcp("localhost:8000"));
        assert_eq!("tcp:[::1]:8000".parse(), tcp("[::1]:8000"));
        let tls = Ok(Address::Tls("node.example:8443".into()));
        assert_eq!("tls:node.example:8443".parse(), tls);
        assert_eq!("https://node.example:8443/".parse(), tls);
        let vsock = Ok(Address::Vsock(VsockAddr { cid: vsock::HOST, port: 5001 }));
        assert_eq!("vsock:2:5001".parse(), vsock);
        assert_eq!("vsock://host:5001".parse(), vsock);
        for bad in ["vsock:", "vsock:any:1", "vsock:5001", "vsock:host:x"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        for bad in ["", "unix:", "localhost", "tcp:", "tcp:host:", "tcp:host:99999", "::1:8000", "a/b:80"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for text in ["unix:/run/d.sock", "tcp:localhost:8000", "tls:localhost:8443", "vsock:host:5001"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }
}
