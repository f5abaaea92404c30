// SPDX-License-Identifier: Apache-2.0
//! Client of a Diolkos daemon.
//!
//! ```no_run
//! # fn main() -> Result<(), diolkos_client::Error> {
//! let client = diolkos_client::Client::connect("env")?;
//! let model = client.open("mobilenet")?;
//! let mut image = client.tensor::<f32>(&[1, 3, 224, 224])?;
//! image.fill(0.5); // it is a slice: build the tensor in place
//! let reply = model.infer([("data", image)])?;
//! let scores: &[f32] = reply.output(0)?.values()?;
//! # let _ = scores;
//! # Ok(())
//! # }
//! ```
//!
//! On a unix socket, tensors lie in memory that the daemon shares, and requests and answers go through rings in such
//! memory: nothing is copied on this side, and nothing crosses the socket. On TCP the same messages go over the
//! stream with their tensors behind them.
//!
//! ```text
//! Client ── Model ── submit ──> Pending ── wait ──> Reply
//!   │                  │
//!   │ memory           └─> ring (or stream) ──> board: answers for those who wait
//!   └─ Tensor
//! ```
//!
//! | module | its one job |
//! |---|---|
//! | `address` | where the daemon is |
//! | `client` | what a program calls |
//! | `model` | an opened model, and requests to it |
//! | `pending` | a request that was sent |
//! | `tensor` | values to send, and values that came |
//! | `memory` | where they lie |
//! | `connection` | what requests go over: one of the next two |
//! | `remote` | a connection to a daemon: greeting, calls, regions |
//! | `tls` | the socket under TLS (feature `tls`) |
//! | `local` | an endpoint in this process (feature `local`) |
//! | `endpoint` | a client as an endpoint (feature `local`) |
//! | `ring`, `stream` | the two ways of a request |
//! | `board` | answers, for whoever waits for them |

//! With the feature `tls`, daemons are reached at `tls:HOST:PORT`. With the feature `local`, the same calls reach an engine in this process (`Client::local`), and a client can stand in for
//! one (`Client::endpoint`).

#![forbid(unsafe_code)]

mod address;
mod board;
mod client;
mod connection;
#[cfg(feature = "local")]
mod endpoint;
mod error;
#[cfg(feature = "local")]
mod local;
mod memory;
mod model;
mod options;
mod pending;
mod remote;
mod ring;
mod stream;
mod tensor;
#[cfg(feature = "tls")]
pub mod tls;
mod turned_away;

pub use address::{Address, AddressError};
pub use client::{Client, Health, ModelInfo, ModelStats};
#[cfg(feature = "local")]
pub use endpoint::RemoteEndpoint;
pub use error::Error;
pub use model::Model;
pub use options::{Memory, Options, TlsFiles, Token, Waiting};
pub use pending::{Answer, Pending, Reply, RequestOptions, Unanswered};
pub use tensor::{AnyTensor, Element, Output, SharedTensor, Tensor};

pub use diolkos_shm::vsock::VsockAddr;
pub use diolkos_types as types;
pub use diolkos_wire::{Class, ModelState, Timing};
