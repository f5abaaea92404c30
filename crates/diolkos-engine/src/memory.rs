// SPDX-License-Identifier: Apache-2.0
//! Memory that requests may need: counted before it is used, for everybody together and for each tenant.
//!
//! ```text
//! all requests (requests_memory_max)
//!   ├── tenant a (its own maximum) ── reservation, reservation
//!   └── tenant b ──────────────────── reservation
//! ```
//!
//! Invariant: what a pool has reserved is the sum of its reservations, and never more than it may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why memory was not reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No single request may have so much.
    TooLarge {
        /// What a request may have.
        limit: u64,
        /// The limit is the tenant's own.
        own: bool,
    },
    /// Others have it now.
    Full {
        /// What is reserved.
        used: u64,
        /// What may be.
        limit: u64,
        /// The limit is the tenant's own.
        own: bool,
    },
}

/// A pool. The one that has no parent is everybody's.
#[derive(Debug)]
pub(crate) struct Memory {
    used: AtomicU64,
    max: AtomicU64,
    one_max: u64,
    parent: Option<Arc<Memory>>,
}

impl Memory {
    /// Everybody's.
    pub(crate) fn new(max: u64, one_max: u64) -> Arc<Memory> {
        Arc::new(Memory { used: AtomicU64::new(0), max: AtomicU64::new(max), one_max, parent: None })
    }

    /// A part of it, for one tenant, without a limit yet.
    pub(crate) fn part(self: &Arc<Memory>) -> Arc<Memory> {
        let (used, max) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Arc::new(Memory { used, max, one_max: self.one_max, parent: Some(self.clone()) })
    }

    /// Sets what may be reserved from now on. What is reserved stays.
    pub(crate) fn limit(&self, max: u64) {
        self.max.store(max, Ordering::Relaxed);
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// What one request may have.
    pub(crate) fn one_max(&self) -> u64 {
        self.one_max.min(self.max.load(Ordering::Relaxed))
    }

    pub(crate) fn reserve(self: &Arc<Memory>, bytes: u64) -> Result<Reservation, Refused> {
        if bytes > self.one_max {
            return Err(Refused::TooLarge { limit: self.one_max, own: false });
        }
        self.take(bytes)?;
        Ok(Reservation { memory: self.clone(), bytes })
    }

    fn take(&self, bytes: u64) -> Result<(), Refused> {
        if bytes == 0 {
            return Ok(());
        }
        // Relaxed: the counters guard no other memory.
        let (max, own) = (self.max.load(Ordering::Relaxed), self.parent.is_some());
        if own && bytes > max {
            return Err(Refused::TooLarge { limit: max, own });
        }
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= max)
            })
            .map_err(|used| Refused::Full { used, limit: max, own })?;
        let taken = self.parent.as_ref().map_or(Ok(()), |parent| parent.take(bytes));
        taken.inspect_err(|_| {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        })
    }

    fn give_back(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.give_back(bytes);
        }
    }
}

/// Memory set aside; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Reservation {
    /// Takes `bytes` more from the same pool.
    pub(crate) fn another(&self, bytes: u64) -> Result<Reservation, Refused> {
        self.memory.reserve(bytes)
    }

    /// Takes over what another one of the same pool has.
    pub(crate) fn absorb(&mut self, mut other: Reservation) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back all but `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.memory.give_back(surplus);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_its_own_limit_and_everybodys() {
        let all = Memory::new(100, 80);
        let (a, b) = (all.part(), all.part());
        a.limit(60);
        let mut first = a.reserve(50).unwrap();
        assert_eq!(a.reserve(20).unwrap_err(), Refused::Full { used: 50, limit: 60, own: true });
        assert_eq!(a.reserve(61).unwrap_err(), Refused::TooLarge { limit: 60, own: true });
        assert_eq!(b.reserve(81).unwrap_err(), Refused::TooLarge { limit: 80, own: false });
        assert_eq!(b.reserve(60).unwrap_err(), Refused::Full { used: 50, limit: 100, own: false });
        assert_eq!(b.used(), 0, "what everybody's pool refused is not charged");
        let second = b.reserve(50).unwrap();
        first.shrink_to(10);
        assert_eq!((a.used(), all.used()), (10, 60));
        let more = first.another(20).unwrap();
        first.absorb(more);
        assert_eq!((a.used(), all.used()), (30, 80));
        drop((first, second));
        assert_eq!((a.used(), b.used(), all.used()), (0, 0, 0));
        // A limit that was lowered below what is reserved refuses, and takes nothing away.
        let held = a.reserve(40).unwrap();
        a.limit(30);
        assert!(held.another(1).is_err());
        assert_eq!(a.used(), 40);
    }

    #[test]
    fn limits_hold_whoever_races() {
        let all = Memory::new(1000, 1000);
        let parts: Vec<_> = (0..4).map(|_| all.part()).collect();
        parts.iter().for_each(|part| part.limit(300));
        std::thread::scope(|scope| {
            for part in parts.iter().chain(&parts) {
                let all = &all;
                scope.spawn(move || {
                    for size in 1..2000 {
                        let held = part.reserve(size % 200);
                        // Another thread may be between its own part and everybody's, never past either.
                        assert!(part.used() <= 300 && all.used() <= 1000);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(all.used(), 0);
    }
}
