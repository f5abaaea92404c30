// SPDX-License-Identifier: Apache-2.0
//! Sockets: where the daemon listens, who connects, and how long they may take.
//!
//! | module | its one job |
//! |---|---|
//! | `address` | `unix:PATH`, `tcp:HOST:PORT`, `vsock:any:PORT`, and which of them are refused |
//! | `socket_file` | a unix socket in the file system: lock, stale ones, mode, removal |
//! | `listener` | binding, accepting, and surviving a lack of descriptors |
//! | `open_files` | room for descriptors |
//! | `pace` | how often tenants connect |
//! | `peer` | what the transport proves about the other side |
//! | `table` | which connections there are, and which of them makes room |
//! | `activity` | what one connection is doing, and when that takes too long |
//! | `socket` | the stream of bytes, watched |
//! | `tls` | certificates from files, and the handshake |
//! | `turns` | how much one connection moves before others have their turn |
//! | `vsock` | sockets of virtual machines |
//! | `watchdog` | the timer of a connection |
//! | `doors` | sockets that come and go with their tenants |
//! | `conn` | one connection: HTTP/1.1 or HTTP/2, its timers, its end |
//! | `callers` | who asks: whoever the transport proves, or whose token comes with a request |
//! | `service` | one request: context in, fronts, reply out |
//! | `body` | bodies of requests, metered |
//! | `framing` | where the messages of a gRPC body begin and end |
//! | `reply` | bodies of replies, metered |
//! | `refuse` | telling a client that there is no room |

mod activity;
mod address;
mod authority;
mod body;
mod callers;
mod conn;
mod doors;
mod framing;
mod listener;
pub(crate) mod open_files;
mod pace;
mod peer;
mod refuse;
mod reply;
mod service;
mod socket;
mod socket_file;
mod table;
mod tls;
mod turns;
mod vsock;
mod watchdog;

pub use address::{Address, AddressError, BoundAddress, default_address};
pub use listener::ListenError;
pub use tls::TlsError;

pub(crate) use activity::Expired;
pub(crate) use address::prepare_default;
pub(crate) use body::{Budget, Fault, fault_of};
pub(crate) use conn::{Rim, Stop, draining};
pub(crate) use doors::{Doors, Prepared};
pub(crate) use listener::Listener;
pub(crate) use peer::{Peer, Transport};
pub(crate) use refuse::{Refusal, Unproven};
pub(crate) use socket::Socket;
pub(crate) use table::ConnPlace;
pub(crate) use tls::Tls;
pub(crate) use turns::Turns;

/// For `fuzz`: lengths stay, only `-` is written, and it does not matter how the bytes are cut.
pub(crate) fn fuzz_authority(bytes: &[u8], cut: usize) {
    let (mut whole, mut parts) = (bytes.to_vec(), bytes.to_vec());
    authority::AuthorityFilter::new().pass(&mut whole);
    let mut filter = authority::AuthorityFilter::new();
    let (head, tail) = parts.split_at_mut(cut);
    filter.pass(head);
    filter.pass(tail);
    assert_eq!(whole, parts, "a cut at {cut} changed what was replaced");
    assert!(bytes.iter().zip(&whole).all(|(before, after)| before == after || *after == b'-'));
}
