// SPDX-License-Identifier: Apache-2.0
//! The contract between the engine and whatever executes operations.
//!
//! A [`Backend`] turns model files into [`Operation`]s; built-in operations are made directly. The
//! engine hands an operation a [`Work`]: inputs as [`Buffer`]s, a place for outputs, a cancel flag. An
//! operation knows nothing of tenants, queues, sockets or deadlines.
//!
//! An [`endpoint`] is what runs requests, as a caller sees it: the engine, or a client of a daemon.
//!
//! [`conformance`] is the suite that every backend passes, ours and a plug-in author's alike;
//! [`null`] and [`faulty`] are the two that tests rely on.

#![forbid(unsafe_code)]

mod backend;
mod buffer;
mod destination;
pub mod endpoint;
mod error;
mod seeded;
mod work;

pub mod conformance;
pub mod faulty;
pub mod null;

pub use backend::{Backend, Format, LoadOptions, ModelFiles, Operation};
pub use buffer::{Buffer, SharedMemory};
pub use destination::{Destination, RESULT_ALIGNMENT, ResultMemory};
pub use error::{LoadError, RunError};
pub use seeded::Seeded;
pub use work::{CancelFlag, OutputSlot, Phases, Tensor, Work};
