// SPDX-License-Identifier: Apache-2.0
//! Which tenant a peer is. Everything comes from the transport, or is a secret that was shown; nothing is believed because
//! a request says so.
//!
//! ```text
//! unix:  listening path ──> control group ──> user ──────────────> anonymous ──> refused
//! vsock: listening port ──> machine (CID) ─────────────────────────> anonymous ──> refused
//! TCP:   listening port ──> token, shown with the request ──> certificate ──> user (within this host) ──> anonymous ──> refused
//! ```
//!
//! The path comes before the group, and the group before the user: user 0 in two containers is not one tenant.
//!
//! | module | its one job |
//! |---|---|
//! | `directory` | the settings, turned into something to look peers up in |
//! | `cgroup` | patterns of control groups |
//! | `cid` | context ids of virtual machines |
//! | `process` | the control group of a peer |
//! | `tcp_owner` | the user of a TCP peer |
//! | `token` | bearer tokens |
//! | `certificate` | certificates that clients show (mTLS) |
//! | `hex` | digests as text |

mod certificate;
mod cgroup;
mod cid;
mod directory;
mod hex;
mod process;
mod tcp_owner;
mod token;

pub(crate) use certificate::Certificate;
pub use certificate::{CertificateName, NoCertificate};
pub use cgroup::{CgroupPattern, NoCgroup};
pub use cid::{Cid, NoCid};
pub(crate) use directory::{Claim, Directory, NOT_FOR_OTHERS, Rights, tell_engine};
pub(crate) use token::bearer;
pub use token::{NoTokenHash, TokenHash, new_token};

use crate::listen::{Peer, Socket};

/// Asks the kernel for what `directory` needs to know of a peer beyond what accepting told.
pub(crate) fn ask_kernel(peer: &mut Peer, socket: &Socket, directory: &Directory) {
    match socket {
        Socket::Unix(stream) => {
            if directory.knows_cgroups() {
                peer.cgroup = process::cgroup_of_peer(stream, peer.pid).map(Into::into);
            }
        }
        // Who holds the other end of the TCP connection is the same question with TLS in it.
        Socket::Tcp(_) | Socket::Tls(_) => {
            let Some(stream) = socket.tcp() else { return };
            let (Ok(client), Ok(server)) = (stream.peer_addr(), stream.local_addr()) else { return };
            if directory.knows_uids() && client.ip().is_loopback() {
                // A kernel without sock_diag proves nothing, and says so by an error.
                peer.uid = tcp_owner::owner(client, server).ok().flatten();
            }
        }
        // Accepting told which machine it is in, and nothing tells more.
        Socket::Vsock(_) => {}
    }
}
