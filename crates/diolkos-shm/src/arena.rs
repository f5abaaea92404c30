// SPDX-License-Identifier: Apache-2.0
//! A client's own region, parcelled out: tensors are built in place and results are read in place.
//!
//! ```text
//! Arena ──take──> Extent (a slice, exclusively) ──moved into a request──> the daemon reads or writes it
//!   ^                │                                                           │
//!   └───── drop ─────┴───────────────────────── reply ───────────────────────────┘
//! ```
//!
//! This is the one place where shared memory becomes a slice, so it is for the side that trusts the other: a
//! client trusts its daemon with its tensors anyway, and a daemon that writes into a region where no request
//! told it to has broken the protocol. A daemon never makes one of a client's memory.
//!
//! Invariants:
//!
//! * The arena owns its mapping, and nobody else in this process can reach it.
//! * Extents don't overlap, and what is free is in no extent.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::fmt;
use core::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::mapping::Mapping;
use crate::region::Region;
use crate::segment::Segment as _;

/// Extents begin on such a boundary: a cache line, and every element of a tensor is aligned.
pub const ALIGNMENT: usize = 64;

/// A region that is handed out in pieces.
pub struct Arena {
    file: OwnedFd,
    mapping: Mapping,
    free: Mutex<Free>,
}

impl Arena {
    /// Parcels out a region that nobody else in this process has hold of; `None` if somebody has.
    #[must_use]
    pub fn new(region: Region) -> Option<Arc<Arena>> {
        let (file, mapping) = region.into_parts()?;
        let free = Mutex::new(Free::all(mapping.len()));
        Some(Arc::new(Arena { file, mapping, free }))
    }

    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Whether it has no bytes, which no region has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that are in no extent.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.lock().extents.values().sum()
    }

    /// Whether `len` bytes are to be had.
    #[must_use]
    pub fn has_room(&self, len: usize) -> bool {
        room(len).is_some_and(|room| self.lock().extents.values().any(|&free| free >= room))
    }

    /// `len` bytes, or `None` where no piece is long enough. They hold whatever was there before: zeroes at first.
    #[must_use]
    pub fn take(self: &Arc<Self>, len: usize) -> Option<Extent> {
        let offset = self.lock().take(room(len)?)?;
        Some(Extent { arena: self.clone(), offset, len, given_up: false })
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        // Nothing below panics while it holds the lock.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Arena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({} of {} bytes are free)", self.free_bytes(), self.len())
    }
}

/// What an extent of `len` bytes takes. Even an empty one has a place of its own.
fn room(len: usize) -> Option<usize> {
    len.max(1).checked_next_multiple_of(ALIGNMENT)
}

/// Free pieces, by where they begin; no two of them touch.
#[derive(Debug)]
struct Free {
    extents: BTreeMap<usize, usize>,
}

impl Free {
    fn all(len: usize) -> Free {
        let whole = len / ALIGNMENT * ALIGNMENT;
        Free { extents: (whole > 0).then_some((0, whole)).into_iter().collect() }
    }

    /// The first that is long enough: low addresses are used again and again, and stay in the caches.
    fn take(&mut self, len: usize) -> Option<usize> {
        let (&offset, &found) = self.extents.iter().find(|&(_, &found)| found >= len)?;
        self.extents.remove(&offset);
        if found > len {
            self.extents.insert(offset + len, found - len);
        }
        Some(offset)
    }

    fn give_back(&mut self, mut offset: usize, mut len: usize) {
        if let Some(behind) = self.extents.remove(&(offset + len)) {
            len += behind;
        }
        if let Some((&before, &before_len)) = self.extents.range(..offset).next_back()
            && before + before_len == offset
        {
            (offset, len) = (before, before_len + len);
        }
        self.extents.insert(offset, len);
    }
}

/// Bytes of a region that belong to whoever has this.
pub struct Extent {
    arena: Arc<Arena>,
    offset: usize,
    len: usize,
    /// Its bytes stay out of use for as long as the arena lives.
    given_up: bool,
}

impl Extent {
    /// Drops it, and never uses its bytes again: somebody may still write them, and nobody can tell when that ends.
    pub fn give_up(mut self) {
        self.given_up = true;
    }

    /// Where it begins in the region.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The arena that it is from.
    #[must_use]
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }
}

impl Deref for Extent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let base = self.arena.mapping.at(self.offset);
        // SAFETY: the arena owns the mapping, which is mapped and initialised (by the kernel at least) for as long as
        // the arena lives, which is longer than the slice. `take` gave these bytes to this extent alone, so within this
        // process only a borrow of it can write them; the daemon keeps to the protocol (see the module).
        unsafe { core::slice::from_raw_parts(base, self.len) }
    }
}

impl DerefMut for Extent {
    fn deref_mut(&mut self) -> &mut [u8] {
        let base = self.arena.mapping.at(self.offset);
        // SAFETY: as above; the mapping is writable, because only such a region becomes an arena.
        unsafe { core::slice::from_raw_parts_mut(base, self.len) }
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        if self.given_up {
            return;
        }
        let len = room(self.len).expect("it was taken with this length");
        self.arena.lock().give_back(self.offset, len);
    }
}

impl fmt::Debug for Extent {
    // Contents are a tenant's and have no place in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extent({}+{})", self.offset, self.len)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::region::Pages;

    fn arena(len: usize) -> Arc<Arena> {
        Arena::new(Region::create(len, Pages::Ordinary).unwrap()).unwrap()
    }

    #[test]
    fn a_region_that_somebody_has_is_not_parcelled_out() {
        let region = Region::create(4096, Pages::Ordinary).unwrap();
        let hold = region.mapping().clone();
        assert!(Arena::new(region).is_none());
        drop(hold);
    }

    #[test]
    fn what_is_written_is_in_the_region() {
        let arena = arena(4096);
        let first = arena.take(1).unwrap();
        let mut second = arena.take(100).unwrap();
        second.copy_from_slice(&[7; 100]);
        assert_eq!((first.offset(), second.offset(), arena.free_bytes()), (0, 64, 4096 - 3 * 64));
        let other = Region::open(arena.as_fd().try_clone_to_owned().unwrap(), 4096).unwrap();
        let mut bytes = [0; 102];
        other.mapping().read(63, &mut bytes);
        assert_eq!((bytes[0], &bytes[1..101], bytes[101]), (0, &[7; 100][..], 0));
        assert!(arena.take(4096).is_none() && arena.take(usize::MAX).is_none());
        drop((first, second));
        assert_eq!(arena.take(4096).unwrap().len(), 4096);
        arena.take(64).unwrap().give_up();
        assert_eq!((arena.free_bytes(), arena.take(64).unwrap().offset()), (4096 - 64, 64));
    }

    proptest! {
        #[test]
        fn extents_never_overlap_and_nothing_is_lost(
            moves in prop::collection::vec((any::<bool>(), 0usize..700, any::<prop::sample::Index>()), 1..80),
        ) {
            let arena = arena(8192);
            let mut held: Vec<(Extent, u8)> = Vec::new();
            for (number, (give_back, len, which)) in moves.into_iter().enumerate() {
                if give_back && !held.is_empty() {
                    held.swap_remove(which.index(held.len()));
                } else if let Some(mut extent) = arena.take(len) {
                    prop_assert_eq!((extent.len(), extent.offset() % ALIGNMENT), (len, 0));
                    extent.fill(number as u8);
                    held.push((extent, number as u8));
                } else {
                    let longest = arena.lock().extents.values().copied().max().unwrap_or(0);
                    prop_assert!(longest < room(len).unwrap(), "{len} bytes would have fitted into {longest}");
                }
                for (extent, mark) in &held {
                    prop_assert!(extent.iter().all(|byte| byte == mark));
                }
            }
            drop(held);
            prop_assert_eq!(arena.free_bytes(), 8192);
            prop_assert_eq!(arena.lock().extents.len(), 1);
        }
    }
}
