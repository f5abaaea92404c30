// SPDX-License-Identifier: Apache-2.0
//! The native part of the Python package `diolkos`: `diolkos-client`, as Python classes that know no NumPy.
//!
//! What a program sees is written in Python (`python/diolkos`), and so is everything about arrays. Here are only things
//! that Python can't do: calls of the client with the interpreter's lock let go, and memory that NumPy looks at.
//!
//! ```text
//! Client ── Model ── submit ──> Pending ── wait ──> outputs: Memory
//!   │ allocate                     └─ watch ──> Arrivals ── a descriptor ──> event loop
//!   └─> Memory <── numpy.ndarray(buffer=…)
//! ```
//!
//! Invariants:
//!
//! * Nothing waits with the interpreter's lock held, and no lock of ours is held while waiting for that.
//! * Memory that an array looks at is not used for anything else: the array's base is the [`memory::Memory`].
//! * A process that was forked off uses nothing of its parent's, and drops none of it ([`process::Own`]).
//!
//! | module | its one job |
//! |---|---|
//! | `client`, `model`, `pending` | the client's types |
//! | `memory` | bytes for arrays; the one place with unsafe code |
//! | `arrivals` | tells an event loop that answers came |
//! | `wait` | waiting without the interpreter's lock |
//! | `process` | what belongs to one process |
//! | `errors` | from the client's errors to exceptions |

#![deny(unsafe_code)]

mod arrivals;
mod client;
mod errors;
#[allow(unsafe_code)]
mod memory;
mod model;
mod pending;
mod process;
mod wait;

/// The native part of `diolkos`. Programs use the package; what is here may change at any time.
#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use crate::arrivals::Arrivals;
    #[pymodule_export]
    use crate::client::Client;
    #[pymodule_export]
    use crate::memory::Memory;
    #[pymodule_export]
    use crate::model::{Model, Options};
    #[pymodule_export]
    use crate::pending::Pending;
    #[pymodule_export]
    use crate::wait::{after_fork, settle};
}
