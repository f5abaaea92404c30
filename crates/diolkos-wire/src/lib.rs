// SPDX-License-Identifier: Apache-2.0
//! The messages of the native channel: what a client in a sandbox and the daemon say to each other.
//!
//! The same messages travel over a stream (unix socket, TCP, vsock) and over rings in shared memory:
//!
//! ```text
//! stream   PREFACE, once │ Header (24) │ body │ payload of tensors │ Header │ …
//!                                         │
//!                                      Message
//!                                         │
//! ring     RingEntry (64): 16 bytes of head and the body ── or the number of a slot that holds it
//! ```
//!
//! | module | its one job |
//! |---|---|
//! | [`frame`] | header of a message on a stream |
//! | [`ring_entry`] | a message in a ring |
//! | [`message`], [`kind`] | every message, and its number |
//! | [`hello`] | who speaks, which version, which features and limits |
//! | [`channel`], [`layout`] | rings and regions of shared memory, and where rings lie |
//! | [`tensor`], `signature` | shapes, signatures, parameters, and where a tensor's bytes are |
//! | [`infer`] | running an operation |
//! | [`model`], [`stats`] | opening, loading, listing, counting |
//! | [`failed`] | why a request got no result |
//! | [`limits`] | every bound, with its reason |
//! | [`fuzz`] | what holds for bytes of any peer |
//!
//! Invariants:
//!
//! * There is no socket, no clock and no I/O here, and the crate is `no_std` and `alloc`, for guests and unikernels.
//! * Decoding never panics, and allocates in proportion to the bytes that are there, never to a claim.
//! * What encodes decodes to the same message, and nothing else decodes: a message has one encoding. Only a
//!   failure is lenient: its sentence is cut as it is written, and a code of the future reads as
//!   [`diolkos_types::Code::Internal`].
//! * An unknown kind is an error of that message alone: its header says how long it is, so the next can be
//!   read. Behind a header that is refused nothing can be read, and the connection ends.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod channel;
mod cursor;
mod error;
pub mod failed;
pub mod frame;
pub mod fuzz;
pub mod hello;
pub mod infer;
pub mod kind;
pub mod layout;
pub mod limits;
pub mod message;
pub mod model;
pub mod ring_entry;
mod signature;
pub mod stats;
pub mod tensor;

#[cfg(test)]
mod message_tests;
#[cfg(test)]
mod strategies;

pub use channel::{Bell, ChannelOpened, CloseRegion, CommitRegion, OpenChannel, RegisterRegion};
pub use error::{DecodeError, EncodeError, LayoutError};
pub use failed::Failed;
pub use frame::{HEADER_BYTES, Header, Part, append_frame, encode_frame};
pub use hello::{
    Features, Hello, NoCommonVersion, PREFACE, Token, VERSION, Welcome, check_preface, choose_version,
};
pub use infer::{Class, Infer, Inferred, ResultPlace, Timing};
pub use kind::Kind;
pub use layout::{RingPlace, SlotsPlace};
pub use limits::Limits;
pub use message::Message;
pub use model::{CloseModel, Load, ModelEntry, ModelOpened, ModelState, Models, OpenModel, Unload};
pub use ring_entry::{ENTRY_BYTES, EntryBody, INLINE_BYTES_MAX, InlineBody, RingEntry};
pub use stats::{HealthReply, Stats, StatsEntry, StatsReply};
pub use tensor::{Extent, Place, TensorRef};
