// SPDX-License-Identifier: Apache-2.0
//! What the transport proves about the other side of a connection. Nothing here comes from a request.

use std::fmt;
use std::net::SocketAddr;

use crate::settings::Settings;

/// How a peer reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    /// A unix socket.
    Unix,
    /// TCP over loopback.
    Tcp,
}

impl Transport {
    /// Its name in metrics and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Transport::Unix => "unix",
            Transport::Tcp => "tcp",
        }
    }
}

/// The two ends of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpEnds {
    /// Ours.
    pub(crate) local: SocketAddr,
    /// Theirs.
    pub(crate) remote: SocketAddr,
}

/// The other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// How it reached us.
    pub(crate) transport: Transport,
    /// Its user, where the kernel says so (`SO_PEERCRED`).
    pub(crate) uid: Option<u32>,
    /// Its process when it connected, where the kernel says so and the process is visible from here.
    pub(crate) pid: Option<i32>,
    /// Where a TCP connection begins and ends, by which the kernel can be asked for more.
    pub(crate) tcp: Option<TcpEnds>,
}

impl Peer {
    /// A peer over TCP, which proves nothing but that it is on this host.
    pub(crate) fn tcp(ends: Option<TcpEnds>) -> Peer {
        Peer { transport: Transport::Tcp, uid: None, pid: None, tcp: ends }
    }

    /// A peer over a unix socket.
    pub(crate) fn unix(uid: u32, pid: Option<i32>) -> Peer {
        // 0 is what the kernel gives for a process outside of our pid namespace.
        Peer { transport: Transport::Unix, uid: Some(uid), pid: pid.filter(|&pid| pid > 0), tcp: None }
    }

    /// Whether the settings let it in: our own user and root always, others by name.
    pub(crate) fn may_connect(&self, own_uid: u32, settings: &Settings) -> bool {
        match self.uid {
            Some(uid) => uid == own_uid || uid == 0 || settings.access.uids.contains(&uid),
            None => self.transport == Transport::Tcp,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.transport.name())?;
        if let Some(uid) = self.uid {
            write!(f, " uid {uid}")?;
        }
        if let Some(pid) = self.pid {
            write!(f, " pid {pid}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_we_root_and_the_named_may_connect() {
        let mut settings = Settings::default();
        let may = |uid, settings: &Settings| Peer::unix(uid, None).may_connect(1000, settings);
        assert!(may(1000, &settings) && may(0, &settings) && !may(1001, &settings));
        settings.access.uids.push(1001);
        assert!(may(1001, &settings) && !may(1002, &settings));
        assert!(Peer::tcp(None).may_connect(1000, &settings));
        assert_eq!(Peer::unix(7, Some(0)).to_string(), "unix uid 7");
    }
}
