// SPDX-License-Identifier: Apache-2.0
//! What belongs to one process.
//!
//! `multiprocessing` forks by default on older Pythons. The child then has a copy of everything: the socket, the rings
//! and the regions, which it shares with its parent and with the daemon. One request from there would take a slot that
//! the parent believes to be free, and one destructor would say goodbye in the parent's name.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::PyResult;

use crate::errors;

/// How often this process was forked off, seen from the first one: tells a child from its parent.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// To be called first in a process that was forked off.
pub(crate) fn forked() {
    // Relaxed: the child has one thread.
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// A value that only the process that made it can use. Elsewhere it is forgotten instead of dropped.
pub(crate) struct Own<T> {
    value: Option<T>,
    generation: u64,
}

impl<T> Own<T> {
    pub(crate) fn new(value: T) -> Own<T> {
        Own { value: Some(value), generation: generation() }
    }

    /// The value, or an exception that says that this process was forked off.
    pub(crate) fn get(&self) -> PyResult<&T> {
        self.value.as_ref().filter(|_| self.is_ours()).ok_or_else(errors::forked)
    }

    /// Takes the value out, to be dropped in a better place. `None` where it is not to be dropped at all.
    pub(crate) fn take(&mut self) -> Option<T> {
        let value = self.value.take()?;
        if self.is_ours() {
            return Some(value);
        }
        std::mem::forget(value);
        None
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.generation == generation()
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}
