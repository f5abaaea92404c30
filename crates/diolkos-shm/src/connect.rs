// SPDX-License-Identifier: Apache-2.0
//! Connecting, for so long and no longer.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::addr::SocketAddrArg;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// A stream socket that is connected to the unix socket at `path`, within `limit` if there is one. Connecting waits while as
/// many wait to be accepted as the listener lets wait.
pub fn unix(path: &Path, limit: Option<Duration>) -> io::Result<OwnedFd> {
    within(AddressFamily::UNIX, &SocketAddrUnix::new(path)?, limit)
}

/// The same for any family.
pub(crate) fn within(
    family: AddressFamily,
    to: &impl SocketAddrArg,
    limit: Option<Duration>,
) -> io::Result<OwnedFd> {
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The time that sending may take is also that of connecting.
    let limit = limit.map(|limit| limit.max(Duration::from_millis(1)));
    set_socket_timeout(&socket, Timeout::Send, limit)?;
    match connect(&socket, to) {
        // What socket(7) says of a time that is over.
        Err(Errno::AGAIN | Errno::INPROGRESS) => {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it takes no connections in time"));
        }
        connected => connected?,
    }
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_queue_that_is_full_is_waited_for_and_not_for_ever() {
        let path = std::env::temp_dir().join(std::format!("diolkos-connect-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let limit = Some(Duration::from_millis(20));
        let mut connected = std::vec::Vec::new();
        let error = loop {
            match unix(&path, limit) {
                Ok(socket) => connected.push(socket),
                Err(error) => break error,
            }
            assert!(connected.len() < 100, "the queue has an end");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(unix(&path, limit).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
