// SPDX-License-Identifier: Apache-2.0
//! Where tensors lie: regions that are shared with the daemon, or this process's own memory.
//!
//! Regions are made as they are needed and never shrink: their pages are taken from the system when they are first
//! written, and used again and again after that. They outlive a connection, so that a request whose connection was
//! lost can be sent again without building its tensors anew.

use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_shm::arena::{Arena, Extent};
use diolkos_shm::region::{Pages, Region};
use diolkos_wire::Limits;

use crate::error::Error;

/// A process that has not even so many bytes left can't go on.
const PRIVATE_BYTES_SURE: usize = 1 << 20;

/// Bytes of a tensor, wherever they are.
#[derive(Debug)]
pub(crate) enum Storage {
    /// In a region, by its number among those of one client.
    Shared { extent: Extent, region: u16, client: u64 },
    /// In words, because elements are aligned to as much as that.
    Private { words: Vec<u64>, len: usize },
    /// Bytes of one that others use as well, for reading.
    Part { of: Arc<Storage>, range: Range<usize> },
    /// What an endpoint in this process gave.
    #[cfg(feature = "local")]
    Given(bytes::Bytes),
}

/// Bytes for somebody to read while their owner has them as well.
#[cfg(feature = "local")]
pub(crate) struct Lent(Arc<Storage>);

#[cfg(feature = "local")]
impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl Storage {
    /// So many zeroes of this process's own, if it has as much memory.
    pub(crate) fn try_private(len: usize) -> Result<Storage, Error> {
        if len > PRIVATE_BYTES_SURE {
            // What is made of zeroes at once is cheap and can't fail but by ending the process. So ask first.
            let asked = Vec::<u64>::new().try_reserve_exact(len.div_ceil(size_of::<u64>()));
            asked.map_err(|error| Error::Memory { bytes: len, reason: error.to_string() })?;
        }
        Ok(Storage::private(len))
    }

    /// So many zeroes of this process's own.
    pub(crate) fn private(len: usize) -> Storage {
        Storage::Private { words: vec![0; len.div_ceil(size_of::<u64>())], len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Storage::Shared { extent, .. } => extent,
            Storage::Private { words, len } => &bytemuck::cast_slice(words)[..*len],
            Storage::Part { of, range } => &of.bytes()[range.clone()],
            #[cfg(feature = "local")]
            Storage::Given(bytes) => bytes,
        }
    }

    /// Whether others may read these bytes as well.
    fn is_for_reading(&self) -> bool {
        match self {
            Storage::Shared { .. } | Storage::Private { .. } => false,
            Storage::Part { .. } => true,
            #[cfg(feature = "local")]
            Storage::Given(_) => true,
        }
    }

    /// Lets somebody else read these bytes; see [`Storage::take_back`].
    #[cfg(feature = "local")]
    pub(crate) fn lend(&mut self) -> Lent {
        let mine = std::mem::replace(self, Storage::Private { words: Vec::new(), len: 0 });
        let range = 0..mine.bytes().len();
        let of = Arc::new(mine);
        *self = Storage::Part { of: of.clone(), range };
        Lent(of)
    }

    /// What was lent, and may be written again if nobody reads it any more.
    #[cfg(feature = "local")]
    pub(crate) fn take_back(self) -> Storage {
        match self {
            Storage::Part { of, range } if range.len() == of.bytes().len() => {
                Arc::try_unwrap(of).unwrap_or_else(|of| Storage::Part { of, range })
            }
            other => other,
        }
    }

    /// Those that others use as well become a copy of this process's own first.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        if self.is_for_reading() {
            let mut copy = Storage::private(self.bytes().len());
            copy.bytes_mut().copy_from_slice(self.bytes());
            *self = copy;
        }
        match self {
            Storage::Shared { extent, .. } => extent,
            Storage::Private { words, len } => &mut bytemuck::cast_slice_mut(words)[..*len],
            _ => unreachable!("it was just replaced"),
        }
    }

    /// Drops them, and never uses their place in a region again; see [`Extent::give_up`].
    pub(crate) fn give_up(self) {
        if let Storage::Shared { extent, .. } = self {
            extent.give_up();
        }
    }

    /// Where they are in a region, for a message.
    pub(crate) fn extent(&self) -> Option<diolkos_wire::Extent> {
        match self {
            Storage::Shared { extent, region, .. } => Some(diolkos_wire::Extent {
                region: *region,
                offset: extent.offset() as u64,
                length: extent.len() as u64,
            }),
            Storage::Private { .. } => None,
            Storage::Part { of, range } => of.extent().map(|whole| diolkos_wire::Extent {
                offset: whole.offset + range.start as u64,
                length: range.len() as u64,
                ..whole
            }),
            #[cfg(feature = "local")]
            Storage::Given(_) => None,
        }
    }

    /// Whose region they are in.
    fn client(&self) -> Option<u64> {
        match self {
            Storage::Shared { client, .. } => Some(*client),
            Storage::Private { .. } => None,
            Storage::Part { of, .. } => of.client(),
            #[cfg(feature = "local")]
            Storage::Given(_) => None,
        }
    }
}

/// The regions of a client.
pub(crate) struct Regions {
    /// Tells them from those of other clients in this process.
    client: u64,
    arenas: Mutex<Vec<Arc<Arena>>>,
    first_bytes: usize,
    pages: Pages,
}

impl Regions {
    pub(crate) fn new(first_bytes: usize, pages: Pages) -> Regions {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: it only has to be another one each time.
        let client = NEXT.fetch_add(1, Ordering::Relaxed);
        Regions { client, arenas: Mutex::default(), first_bytes, pages }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Arena>>> {
        // Nothing below panics while it holds the lock.
        self.arenas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `len` bytes of some region. `register` tells the daemon of a new one, if there has to be one.
    pub(crate) fn take(
        &self,
        len: usize,
        limits: &Limits,
        register: impl FnOnce(u16, &Arena) -> Result<(), Error>,
    ) -> Result<Storage, Error> {
        let none = |reason: String| Error::Memory { bytes: len, reason };
        let mut arenas = self.lock();
        for (number, arena) in arenas.iter().enumerate() {
            if let Some(extent) = arena.take(len) {
                return Ok(Storage::Shared { extent, region: number as u16, client: self.client });
            }
        }
        let number = u16::try_from(arenas.len()).unwrap_or(u16::MAX);
        if number >= limits.regions_max {
            return Err(none(format!("all {number} regions are in use; drop tensors or replies first")));
        }
        let taken: u64 = arenas.iter().map(|arena| arena.len() as u64).sum();
        let left = limits.regions_bytes_max.saturating_sub(taken).min(limits.region_bytes_max);
        // Each as large as all before it, so that few are needed.
        let wish = (taken.max(self.first_bytes as u64)).max(len as u64 + 4096).min(left);
        if wish < len as u64 {
            return Err(none(format!("the daemon grants {left} bytes more for regions")));
        }
        let region = usize::try_from(wish).map_err(|_| none("the address space is too small".into()))?;
        let region = Region::create(region, self.pages).map_err(|error| none(error.to_string()))?;
        let arena = Arena::new(region).ok_or_else(|| none("the region is in use".into()))?;
        register(number, &arena)?;
        let extent = arena.take(len).ok_or_else(|| none("it does not fit into a region".into()))?;
        arenas.push(arena);
        Ok(Storage::Shared { extent, region: number, client: self.client })
    }

    /// Where bytes are in these regions. Those of another client have numbers that mean something else here.
    pub(crate) fn extent(&self, storage: &Storage) -> Option<diolkos_wire::Extent> {
        storage.extent().filter(|_| storage.client() == Some(self.client))
    }

    /// Every region with its number, to tell a new connection of.
    pub(crate) fn all(&self) -> Vec<(u16, Arc<Arena>)> {
        self.lock().iter().enumerate().map(|(number, arena)| (number as u16, arena.clone())).collect()
    }
}

/// A copy of a region's descriptor, to be sent.
pub(crate) fn descriptor(arena: &Arena) -> Result<OwnedFd, Error> {
    arena.as_fd().try_clone_to_owned().map_err(|error| Error::lost(format!("no descriptor is left: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(regions: &Regions, len: usize) -> Storage {
        regions.take(len, &Limits::default(), |_, _| Ok(())).unwrap()
    }

    #[test]
    fn a_part_is_where_the_whole_is_until_it_is_written() {
        let regions = Regions::new(4096, Pages::Ordinary);
        let mut whole = take(&regions, 100);
        whole.bytes_mut().iter_mut().zip(0..).for_each(|(byte, at)| *byte = at);
        let whole = Arc::new(whole);
        let place = regions.extent(&whole).unwrap();
        let mut part = Storage::Part { of: whole.clone(), range: 10..30 };
        let found = regions.extent(&part).unwrap();
        assert_eq!((found.region, found.offset, found.length), (place.region, place.offset + 10, 20));
        part.bytes_mut()[0] = 200;
        assert_eq!((part.bytes()[0], part.bytes()[19], whole.bytes()[10]), (200, 29, 10));
        assert_eq!(regions.extent(&part), None);
        assert_eq!(Arc::strong_count(&whole), 1);
    }

    #[test]
    fn a_place_in_regions_of_another_client_is_none_here() {
        let (ours, others) = (Regions::new(4096, Pages::Ordinary), Regions::new(4096, Pages::Ordinary));
        let storage = Arc::new(take(&ours, 8));
        let _ = take(&others, 8);
        assert!(ours.extent(&storage).is_some());
        assert_eq!(others.extent(&storage), None);
        assert_eq!(others.extent(&Storage::Part { of: storage, range: 0..8 }), None);
        assert_eq!(ours.extent(&Storage::private(8)), None);
    }
}
