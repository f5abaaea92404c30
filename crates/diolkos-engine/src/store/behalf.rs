// SPDX-License-Identifier: Apache-2.0
//! For whom a model is loaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Weights that are in memory because one tenant asked for them. Others may use them, too, and are not charged for it.
#[derive(Debug, Default)]
pub struct Loaded {
    bytes: AtomicU64,
}

impl Loaded {
    /// Bytes in memory, as of the last time that something was loaded or taken out.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        // Relaxed, here and below: the number is for people, and is written under the store's lock.
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

/// A tenant that asks for a model.
#[derive(Clone, Debug)]
pub struct Behalf {
    /// Its weights.
    pub loaded: Arc<Loaded>,
    /// Bytes that these may have.
    pub memory_max: u64,
}
