// SPDX-License-Identifier: Apache-2.0
//! What the transport proves about the other side of a connection. Nothing here comes from a request.

use std::fmt;
use std::sync::Arc;

use diolkos_types::TenantId;

use crate::identity::Certificate;

/// How a peer reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    /// A unix socket.
    Unix,
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// From a virtual machine, or from the host of one.
    Vsock,
}

impl Transport {
    /// Its name in metrics and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Transport::Unix => "unix",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Vsock => "vsock",
        }
    }
}

/// The other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// How it reached us.
    pub(crate) transport: Transport,
    /// The tenant that the listening address is for, if it is for one.
    pub(crate) of_listener: Option<TenantId>,
    /// The certificate that it showed and that was verified.
    pub(crate) certificate: Option<Certificate>,
    /// Its control group, where somebody asked for it and the kernel says so.
    pub(crate) cgroup: Option<Arc<str>>,
    /// Its user, where the kernel says so (`SO_PEERCRED`, or sock_diag on TCP).
    pub(crate) uid: Option<u32>,
    /// The machine that it is in, where the kernel says so.
    pub(crate) cid: Option<u32>,
    /// Its process when it connected, where the kernel says so and the process is visible from here.
    pub(crate) pid: Option<i32>,
}

impl Peer {
    /// A peer over TCP, which proves nothing by itself.
    pub(crate) fn tcp() -> Peer {
        Peer {
            transport: Transport::Tcp,
            of_listener: None,
            certificate: None,
            cgroup: None,
            uid: None,
            cid: None,
            pid: None,
        }
    }

    /// A peer over a unix socket.
    pub(crate) fn unix(uid: u32, pid: Option<i32>) -> Peer {
        // 0 is what the kernel gives for a process outside of our pid namespace.
        let pid = pid.filter(|&pid| pid > 0);
        Peer { transport: Transport::Unix, uid: Some(uid), pid, ..Peer::tcp() }
    }

    /// A peer in another machine, or in this one.
    pub(crate) fn vsock(cid: u32) -> Peer {
        Peer { transport: Transport::Vsock, cid: Some(cid), ..Peer::tcp() }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.transport.name())?;
        if let Some(uid) = self.uid {
            write!(f, " uid {uid}")?;
        }
        if let Some(cid) = self.cid {
            write!(f, " cid {cid}")?;
        }
        if let Some(pid) = self.pid {
            write!(f, " pid {pid}")?;
        }
        if let Some(certificate) = &self.certificate {
            write!(f, " certificate {certificate}")?;
        }
        if let Some(cgroup) = &self.cgroup {
            // Whoever makes a control group names it.
            write!(f, " cgroup {}", cgroup.escape_debug())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_by_what_is_known() {
        assert_eq!(Peer::tcp().to_string(), "tcp");
        assert_eq!(Peer::unix(7, Some(0)).to_string(), "unix uid 7");
        assert_eq!(Peer::vsock(7).to_string(), "vsock cid 7");
        let peer = Peer { cgroup: Some("/a\nb".into()), ..Peer::unix(7, Some(9)) };
        assert_eq!(peer.to_string(), "unix uid 7 pid 9 cgroup /a\\nb");
    }
}
