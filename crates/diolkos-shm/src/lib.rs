// SPDX-License-Identifier: Apache-2.0
//! Shared memory between a node's daemon and its sandboxes.
//!
//! | module | its one job |
//! |---|---|
//! | [`segment`] | memory that somebody else can write: the one trait that all access goes through |
//! | [`heap`] | such memory on this process's own heap |
//! | [`ring`] | entries from one producer to one consumer |
//! | [`region`], [`mapping`] | memory files: made, checked, sealed, mapped |
//! | [`arena`] | a client's own region, parcelled out to tensors |
//! | [`bell`] | how the consumer of a ring waits and is woken |
//! | `presence` | which of a memory file's pages there are |
//! | `alone` | whether anybody else has a file |
//! | [`pass`] | descriptors over a unix socket |
//! | `peer` | which process is at the other end of a socket |
//! | [`connect`] | connecting, for so long and no longer |
//! | [`vsock`] | a connection from a virtual machine to its host |
//! | [`spin`] | how long it looks before it sleeps |
//! | [`fuzz`] | a peer that lies |
//!
//! Invariants:
//!
//! * Memory that a peer can write is never a slice or a reference, but for single atomic words; a client, which
//!   trusts its daemon, has slices of its own region ([`arena`]).
//! * What comes from a peer is copied once, and judged and used by the copy.
//! * Nothing in shared memory is an address or a descriptor, so it may be mapped anywhere: by processes, into
//!   guests, or as a device of a virtual machine.
//! * Without the feature `std` the crate is `no_std` and `alloc`, for guests and unikernels.

#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "std"))]
extern crate std;

#[cfg(feature = "peer")]
#[allow(unsafe_code)]
pub mod alone;
#[cfg(feature = "std")]
#[allow(unsafe_code)]
pub mod arena;
#[cfg(feature = "std")]
pub mod bell;
#[cfg(feature = "std")]
pub mod connect;
pub mod fuzz;
#[allow(unsafe_code)]
pub mod heap;
#[cfg(feature = "std")]
#[allow(unsafe_code)]
pub mod mapping;
#[cfg(feature = "std")]
pub mod pass;
#[cfg(feature = "peer")]
#[allow(unsafe_code)]
pub mod peer;
#[cfg(feature = "peer")]
#[allow(unsafe_code)]
pub mod presence;
#[cfg(feature = "std")]
pub mod region;
pub mod ring;
#[allow(unsafe_code)]
pub mod segment;
pub mod spin;
#[cfg(feature = "std")]
#[allow(unsafe_code)]
pub mod vsock;
