// SPDX-License-Identifier: Apache-2.0
//! Where tensors lie: regions that are shared with the daemon, or this process's own memory.
//!
//! Regions are made as they are needed, with all their pages, and never shrink. Each is for one connection
//! (`diolkos_shm::region`). Tensors outlive it, and with them their regions, so that a request whose connection was lost can be sent
//! again without building its tensors anew: they move to a region of the new connection, or go over the stream.

use std::fmt;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use diolkos_shm::arena::{ALIGNMENT, Arena, Extent};
use diolkos_shm::region::{Pages, Region};
use diolkos_wire::Limits;

use crate::error::Error;

/// A region is no larger than that, if it is not for a larger tensor: its pages are made while somebody waits.
const STEP_BYTES_MAX: u64 = 64 << 20;

/// A process that has not even so many bytes left can't go on.
const PRIVATE_BYTES_SURE: usize = 1 << 20;

/// Bytes of a tensor, wherever they are.
pub(crate) enum Storage {
    /// In a region, by its number among those of one client and one of its connections.
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

impl fmt::Debug for Storage {
    // Contents have no place in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Storage({} bytes)", self.bytes().len())
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

    /// Whose region they are in, and the connection that it was made for.
    fn origin(&self) -> Option<(u64, u64)> {
        match self {
            Storage::Shared { client, generation, .. } => Some((*client, *generation)),
            Storage::Private { .. } => None,
            Storage::Part { of, .. } => of.origin(),
            #[cfg(feature = "local")]
            Storage::Given(_) => None,
        }
    }
}

/// The regions of a client: those of its latest connection. What lies in earlier ones keeps them.
pub(crate) struct Regions {
    /// Tells them from those of other clients in this process.
    client: u64,
    made: Mutex<Made>,
    first_bytes: usize,
    pages: Pages,
}

/// Regions that were made for one connection, by their numbers.
#[derive(Default)]
struct Made {
    generation: u64,
    arenas: Vec<Arc<Arena>>,
}

impl Regions {
    pub(crate) fn new(first_bytes: usize, pages: Pages) -> Regions {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: it only has to be another one each time.
        let client = NEXT.fetch_add(1, Ordering::Relaxed);
        Regions { client, made: Mutex::default(), first_bytes, pages }
    }

    /// `len` bytes of some region of this connection. `register` tells the daemon of a new one, if there has to be one, and
    /// if it fails the daemon knows of none.
    pub(crate) fn take(
        &self,
        len: usize,
        generation: u64,
        limits: &Limits,
        register: impl FnOnce(u16, &Arena) -> Result<(), Error>,
    ) -> Result<Storage, Error> {
        let none = |reason: String| Error::Memory { bytes: len, reason };
        // Nothing below panics while it holds the lock.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.generation > generation {
            return Err(Error::lost("there is a newer connection"));
        }
        if made.generation < generation {
            *made = Made { generation, arenas: Vec::new() };
        }
        let shared = |extent, number| Storage::Shared {
            extent,
            region: number as u16,
            client: self.client,
            generation,
        };
        for (number, arena) in made.arenas.iter().enumerate() {
            if let Some(extent) = arena.take(len) {
                return Ok(shared(extent, number));
            }
        }
        let number = made.arenas.len();
        if number >= usize::from(limits.regions_max) {
            return Err(none(format!("all {number} regions are in use; drop tensors or replies first")));
        }
        let taken: u64 = made.arenas.iter().map(|arena| arena.len() as u64).sum();
        let left = limits.regions_bytes_max.saturating_sub(taken).min(limits.region_bytes_max);
        // Each as large as all before it, so that few are needed; but pages are made at once, so not too large.
        let more = taken.max(self.first_bytes as u64).min(STEP_BYTES_MAX.max(self.first_bytes as u64));
        let wish = more.max(room_for(len)).min(left);
        if wish < room_for(len) {
            return Err(none(format!("the daemon grants {left} bytes more for regions")));
        }
        let region = usize::try_from(wish).map_err(|_| none("the address space is too small".into()))?;
        let region = Region::create_whole(region, self.pages).map_err(|error| none(error.to_string()))?;
        let arena = Arena::new(region).ok_or_else(|| none("the region is in use".into()))?;
        register(number as u16, &arena)?;
        let extent = arena.take(len).ok_or_else(|| none("it does not fit into a region".into()))?;
        made.arenas.push(arena);
        Ok(shared(extent, number))
    }

    /// Whether `len` bytes are to be had without asking the daemon, and without waiting for somebody who does.
    pub(crate) fn have_room(&self, len: usize, generation: u64) -> bool {
        let Ok(made) = self.made.try_lock() else { return false };
        made.generation == generation && made.arenas.iter().any(|arena| arena.has_room(len))
    }

    /// Where bytes are in the regions of this connection. Those of another one, and of another client, have numbers that
    /// mean something else there.
    pub(crate) fn extent(&self, storage: &Storage, generation: u64) -> Option<diolkos_wire::Extent> {
        storage.extent().filter(|_| storage.origin() == Some((self.client, generation)))
    }

    /// Whether bytes lie in regions of an earlier connection.
    pub(crate) fn are_of_earlier(&self, storage: &Storage, generation: u64) -> bool {
        storage.origin().is_some_and(|(client, made_for)| client == self.client && made_for < generation)
    }
}

/// What a region must have for `len` bytes.
fn room_for(len: usize) -> u64 {
    (len as u64).max(1).next_multiple_of(ALIGNMENT as u64)
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
    fn each_connection_has_regions_of_its_own() {
        let regions = Regions::new(4096, Pages::Ordinary);
        let take = |generation| regions.take(8, generation, &Limits::default(), |_, _| Ok(()));
        let old = take(0).unwrap();
        assert!(regions.have_room(4096 - 64, 0) && !regions.have_room(4096, 0) && !regions.have_room(1, 1));
        assert!(regions.extent(&old, 0).is_some() && !regions.are_of_earlier(&old, 0));
        let new = take(1).unwrap();
        assert!(regions.extent(&old, 1).is_none() && regions.are_of_earlier(&old, 1));
        assert_eq!(regions.extent(&new, 1).unwrap().region, 0);
        assert!(matches!(take(0), Err(Error::Lost { .. })), "it is lost, or there were no newer one");
        assert_eq!(old.bytes().len(), 8, "what lies there is there");
    }

    #[test]
    fn a_region_that_the_daemon_refuses_is_none() {
        let regions = Regions::new(4096, Pages::Ordinary);
        let refused = regions.take(8, 0, &Limits::default(), |_, _| Err(Error::invalid("no")));
        refused.unwrap_err();
        assert_eq!(regions.extent(&take(&regions, 8), 0).unwrap().region, 0);
    }

    #[test]
    fn regions_grow_and_fit() {
        let regions = Regions::new(4096, Pages::Ordinary);
        let sizes = |lens: &[usize], most: u64| {
            let limits = Limits { region_bytes_max: most, ..Limits::default() };
            let mut sizes = Vec::new();
            let taken = lens.iter().map(|&len| {
                regions.take(len, 0, &limits, |_, arena| {
                    sizes.push(arena.len());
                    Ok(())
                })
            });
            let taken: Vec<_> = taken.collect();
            (taken.iter().filter(|taken| taken.is_ok()).count(), sizes)
        };
        assert_eq!(sizes(&[4096, 1, 1 << 20, 1], 1 << 20), (4, vec![4096, 4096, 1 << 20]));
        // What is no whole number of lines does not fit into a region of its own size.
        assert_eq!(sizes(&[(1 << 20) + 1], (1 << 20) + 1).0, 0);
    }

    #[test]
    fn a_part_is_where_the_whole_is_until_it_is_written() {
        let regions = Regions::new(4096, Pages::Ordinary);
        let mut whole = take(&regions, 100);
        whole.bytes_mut().iter_mut().zip(0..).for_each(|(byte, at)| *byte = at);
        let whole = Arc::new(whole);
        let place = regions.extent(&whole, 0).unwrap();
        let mut part = Storage::Part { of: whole.clone(), range: 10..30 };
        let found = regions.extent(&part, 0).unwrap();
        assert_eq!((found.region, found.offset, found.length), (place.region, place.offset + 10, 20));
        part.bytes_mut()[0] = 200;
        assert_eq!((part.bytes()[0], part.bytes()[19], whole.bytes()[10]), (200, 29, 10));
        assert_eq!(regions.extent(&part, 0), None);
        assert_eq!(Arc::strong_count(&whole), 1);
    }

    #[test]
    fn a_place_in_regions_of_another_client_is_none_here() {
        let (ours, others) = (Regions::new(4096, Pages::Ordinary), Regions::new(4096, Pages::Ordinary));
        let storage = Arc::new(take(&ours, 8));
        let _ = take(&others, 8);
        assert!(ours.extent(&storage, 0).is_some());
        assert_eq!(others.extent(&storage, 0), None);
        assert_eq!(others.extent(&Storage::Part { of: storage, range: 0..8 }, 0), None);
        assert_eq!(ours.extent(&Storage::private(8), 0), None);
    }
}
