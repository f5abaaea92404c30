// SPDX-License-Identifier: Apache-2.0
//! Where tensors lie: regions that are shared with the daemon, or this process's own memory.
//!
//! Regions are made as they are needed, with all their pages, and never shrink. They outlive a connection, so that a
//! request whose connection was lost can be sent again without building its tensors anew; but a daemon may write only
//! what was made for its connection (`diolkos_shm::region`), so what lies there is used up, and nothing new comes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
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
    /// In a region, by its number among those of one client, that was made for a connection.
    Shared { extent: Extent, region: u16, client: u64, generation: u64 },
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

    /// Whether a daemon may write them over the connection of this generation.
    pub(crate) fn was_made_for(&self, wanted: u64) -> bool {
        matches!(self, Storage::Shared { generation, .. } if *generation == wanted)
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
    made: Mutex<BTreeMap<u16, Made>>,
    first_bytes: usize,
    pages: Pages,
}

/// A region, and the connection that it was made for.
struct Made {
    arena: Arc<Arena>,
    generation: u64,
}

impl Regions {
    pub(crate) fn new(first_bytes: usize, pages: Pages) -> Regions {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: it only has to be another one each time.
        let client = NEXT.fetch_add(1, Ordering::Relaxed);
        Regions { client, made: Mutex::default(), first_bytes, pages }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, Made>> {
        // Nothing below panics while it holds the lock.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `len` bytes of some region of this connection. `register` tells the daemon of a new one, if there has to be one.
    pub(crate) fn take(
        &self,
        len: usize,
        generation: u64,
        limits: &Limits,
        register: impl FnOnce(u16, &Arena) -> Result<(), Error>,
    ) -> Result<Storage, Error> {
        let none = |reason: String| Error::Memory { bytes: len, reason };
        let mut all = self.lock();
        let shared = |extent, region| Storage::Shared { extent, region, client: self.client, generation };
        for (&number, made) in all.iter().filter(|(_, made)| made.generation == generation) {
            if let Some(extent) = made.arena.take(len) {
                return Ok(shared(extent, number));
            }
        }
        // The first number that is free.
        let number = (0..limits.regions_max).find(|number| !all.contains_key(number));
        let number = number.ok_or_else(|| {
            none(format!("all {} regions are in use; drop tensors or replies first", all.len()))
        })?;
        let taken: u64 = all.values().map(|made| made.arena.len() as u64).sum();
        let left = limits.regions_bytes_max.saturating_sub(taken).min(limits.region_bytes_max);
        // Each as large as all before it, so that few are needed.
        let wish = (taken.max(self.first_bytes as u64)).max(len as u64 + 4096).min(left);
        if wish < len as u64 {
            return Err(none(format!("the daemon grants {left} bytes more for regions")));
        }
        let region = usize::try_from(wish).map_err(|_| none("the address space is too small".into()))?;
        let region = Region::create(region, self.pages).map_err(|error| none(error.to_string()))?;
        region.populate().map_err(|error| none(error.to_string()))?;
        let arena = Arena::new(region).ok_or_else(|| none("the region is in use".into()))?;
        register(number, &arena)?;
        let extent = arena.take(len).ok_or_else(|| none("it does not fit into a region".into()))?;
        all.insert(number, Made { arena, generation });
        Ok(shared(extent, number))
    }

    /// Where bytes are in these regions. Those of another client have numbers that mean something else here.
    pub(crate) fn extent(&self, storage: &Storage) -> Option<diolkos_wire::Extent> {
        storage.extent().filter(|_| storage.client() == Some(self.client))
    }

    /// Every region in which something lies, with its number, to tell a new connection of. The others are gone then.
    pub(crate) fn in_use(&self) -> Vec<(u16, Arc<Arena>)> {
        let mut all = self.lock();
        // Whatever lies in it has hold of it, too.
        all.retain(|_, made| Arc::strong_count(&made.arena) > 1);
        all.iter().map(|(&number, made)| (number, made.arena.clone())).collect()
    }
}

/// A copy of a region's descriptor, to be sent.
pub(crate) fn descriptor(file: impl AsFd) -> Result<OwnedFd, Error> {
    file.as_fd().try_clone_to_owned().map_err(|error| Error::lost(format!("no descriptor is left: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(regions: &Regions, len: usize) -> Storage {
        regions.take(len, 0, &Limits::default(), |_, _| Ok(())).unwrap()
    }

    #[test]
    fn what_was_made_for_a_connection_ends_with_its_last_tensor() {
        let regions = Regions::new(4096, Pages::Ordinary);
        let take = |generation| regions.take(8, generation, &Limits::default(), |_, _| Ok(())).unwrap();
        let old = take(0);
        assert!(old.was_made_for(0) && !old.was_made_for(1));
        let new = take(1);
        let number = |storage: &Storage| regions.extent(storage).unwrap().region;
        assert_eq!((number(&old), number(&new)), (0, 1));
        assert_eq!(regions.in_use().len(), 2);
        drop(old);
        let left: Vec<u16> = regions.in_use().into_iter().map(|(number, _)| number).collect();
        assert_eq!(left, [1]);
        assert_eq!(number(&take(2)), 0, "a number that is free is used again");
        drop(new);
        assert!(regions.in_use().is_empty());
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
