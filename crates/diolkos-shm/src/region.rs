// SPDX-License-Identifier: Apache-2.0
//! Regions: memory files that are shared by passing their descriptors.
//!
//! ```text
//! whose it is                                     the other side
//! create    a memory file, its size sealed, mapped
//! populate  every page is made, and counted to whoever calls this
//!                        ── its descriptor ──>    open         checked, mapped
//! seal_writes  no page can be taken out again
//!                        ── "it is sealed" ──>    check_whole  every page is there, and will be
//! ```
//!
//! A file that a peer hands over is only believed to be what the kernel says of it: a memory file, of ordinary pages,
//! whose size is sealed against both directions. Without the seals, a peer that shrinks the file after it was checked
//! would turn our next access into a fatal signal; with a file of another kind (on disk, FUSE) it could make every access
//! wait for as long as it likes; and huge pages come from a pool that can be empty, a fatal signal once more.
//!
//! A page that is not there yet is made by the first access, also one that reads, and the kernel counts it to the process
//! that made it, for as long as *anybody* has the file. A peer that keeps its files would so fill the memory that is
//! counted to us. Therefore [`Region::check_whole`]: the file is sealed against writing (`F_SEAL_FUTURE_WRITE`; mappings that
//! were there before stay writable), which forbids to punch holes as well, and every page is there (`presence` says how
//! that is found out).
//!
//! A descriptor of a memory file is as good as the file: whoever has it for reading can open it again for writing
//! through `/proc`. So it is the seal that keeps others from writing, and not the descriptor.
//!
//! Seals are added by the file's owner only: whoever adds one waits for a lock of the file, which a peer can hold.

use alloc::sync::Arc;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs, ftruncate, memfd_create,
};

use crate::mapping::Mapping;
#[cfg(feature = "peer")]
use crate::presence;

/// Magic number of a file system of huge pages (`HUGETLBFS_MAGIC`, include/uapi/linux/magic.h).
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Each of them keeps everybody from writing in new ways, and from punching holes.
const WRITE_SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::FUTURE_WRITE);

/// Seals that keep a file's size.
const SIZE_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// Which pages a region is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Ordinary ones.
    #[default]
    Ordinary,
    /// Ordinary ones, with the wish that the kernel puts them together into huge ones
    /// (`/sys/kernel/mm/transparent_hugepage/shmem_enabled` decides).
    Transparent,
}

/// Why there is no region.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// Regions have at least one byte and fit into the address space.
    #[error("a region of {len} bytes; between 1 and {max} are possible")]
    Size {
        /// Its size.
        len: u64,
        /// The most that was allowed.
        max: u64,
    },
    /// The descriptor is not that of a memory file, or its size is not sealed.
    #[error(
        "the descriptor is not that of a memory file whose size is sealed; make it with memfd_create and \
         MFD_ALLOW_SEALING, and add F_SEAL_SHRINK and F_SEAL_GROW"
    )]
    Unsealed,
    /// The memory file has huge pages, which a pool may be short of.
    #[error(
        "the memory file is made of huge pages, which are not taken from others; make it without MFD_HUGETLB"
    )]
    Huge,
    /// Its pages can be taken out.
    #[error(
        "the memory file is not sealed against holes; add F_SEAL_FUTURE_WRITE once the daemon has mapped it (your own \
         mapping stays writable), then commit the region"
    )]
    Unsettled,
    /// It can't be written here.
    #[error(
        "the memory file is sealed against writing already; the daemon has to map it first, so seal it after it was \
         registered, and register it once only"
    )]
    ReadOnly,
    /// Some of its pages were never written.
    #[error(
        "not all pages of the memory file are there; make them before you seal it: madvise with MADV_POPULATE_WRITE, or \
         write to each"
    )]
    Holes,
    /// The system refused.
    #[error("can't {action} a memory file")]
    System {
        /// What was attempted.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn system(action: &'static str) -> impl Fn(rustix::io::Errno) -> RegionError {
    move |errno| RegionError::System { action, source: errno.into() }
}

/// Shared memory: a sealed memory file, mapped.
#[derive(Debug)]
pub struct Region {
    file: OwnedFd,
    mapping: Arc<Mapping>,
}

impl Region {
    /// A new region of zeroes. `len` is rounded up to whole pages by the kernel, but only `len` bytes are used.
    pub fn create(len: usize, pages: Pages) -> Result<Region, RegionError> {
        check_len(len as u64, isize::MAX as u64)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("diolkos", flags).map_err(system("make"))?;
        ftruncate(&file, len as u64).map_err(system("size"))?;
        fcntl_add_seals(&file, SIZE_SEALS).map_err(system("seal"))?;
        let region = Region::map(file, len)?;
        if pages == Pages::Transparent {
            // A kernel without transparent huge pages says no, and the region is as good without.
            let _ = region.mapping.advise_huge_pages();
        }
        Ok(region)
    }

    /// The same with every page made, so that they count to this process and not to one that it shares them with.
    pub fn create_whole(len: usize, pages: Pages) -> Result<Region, RegionError> {
        let region = Region::create(len, pages)?;
        region.populate()?;
        Ok(region)
    }

    /// A region that a peer made, of at most `len_max` bytes.
    pub fn open(file: OwnedFd, len_max: u64) -> Result<Region, RegionError> {
        // Only memory files have seals at all; those on /dev/shm have none of these.
        let seals = fcntl_get_seals(&file).map_err(|_| RegionError::Unsealed)?;
        if !seals.contains(SIZE_SEALS) {
            return Err(RegionError::Unsealed);
        }
        if fstatfs(&file).map_err(system("look at"))?.f_type as u64 == HUGETLBFS_MAGIC {
            return Err(RegionError::Huge);
        }
        // After the seals, so that it can't change any more.
        let size = fstat(&file).map_err(system("look at"))?.st_size;
        let len = u64::try_from(size).unwrap_or(0);
        check_len(len, len_max.min(isize::MAX as u64))?;
        if seals.intersects(WRITE_SEALS) {
            return Err(RegionError::ReadOnly);
        }
        let region = Region::map(file, len as usize)?;
        // A huge page that the kernel puts together here, of a peer's pages, would count to us.
        let _ = region.mapping.advise_no_huge_pages();
        Ok(region)
    }

    fn map(file: OwnedFd, len: usize) -> Result<Region, RegionError> {
        let mapping =
            Mapping::new(&file, len).map_err(|source| RegionError::System { action: "map", source })?;
        Ok(Region { file, mapping: Arc::new(mapping) })
    }

    /// The memory file and the mapping, for whoever is alone in having them.
    pub(crate) fn into_parts(self) -> Option<(OwnedFd, Mapping)> {
        Some((self.file, Arc::into_inner(self.mapping)?))
    }

    pub(crate) fn populate(&self) -> Result<(), RegionError> {
        self.mapping.populate().map_err(|source| RegionError::System { action: "make the pages of", source })
    }

    /// Whether every page is there and can't be taken out: then no access of ours makes one. Where the system can't tell
    /// ([`presence::can_tell`]) the peer is believed. Nobody else may use the region meanwhile.
    #[cfg(feature = "peer")]
    pub fn check_whole(&self) -> Result<(), RegionError> {
        // Before the pages are looked at, so that they are there afterwards.
        if !fcntl_get_seals(&self.file).map_err(system("look at"))?.intersects(WRITE_SEALS) {
            return Err(RegionError::Unsettled);
        }
        if !presence::can_tell() {
            return Ok(());
        }
        match presence::is_whole(&self.mapping) {
            Ok(true) => Ok(()),
            Ok(false) => Err(RegionError::Holes),
            Err(source) => Err(RegionError::System { action: "look at the pages of", source }),
        }
    }

    /// Which file it is: device and number.
    pub fn file_id(&self) -> Result<(u64, u64), RegionError> {
        let stat = fstat(&self.file).map_err(system("look at"))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// The memory. It stays mapped for as long as somebody has it, even without the region.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

impl AsFd for Region {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// From now on nobody can map the file for writing or write to it, and nobody can punch holes; mappings that there are
/// stay writable.
pub fn seal_writes(file: impl AsFd) -> Result<(), RegionError> {
    fcntl_add_seals(file, SealFlags::FUTURE_WRITE | SealFlags::SEAL).map_err(system("seal"))
}

fn check_len(len: u64, max: u64) -> Result<(), RegionError> {
    if (1..=max).contains(&len) { Ok(()) } else { Err(RegionError::Size { len, max }) }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;
    use std::string::ToString as _;
    use std::vec;

    use super::*;
    use crate::segment::Segment as _;

    const LEN: usize = 10_000;

    fn again(region: &Region) -> OwnedFd {
        region.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn two_mappings_are_one_memory() {
        for pages in [Pages::Ordinary, Pages::Transparent] {
            let one = Region::create(LEN, pages).unwrap();
            let other = Region::open(again(&one), LEN as u64).unwrap();
            one.mapping().write(4097, &[1, 2, 3]);
            let mut bytes = [9; 5];
            other.mapping().read(4096, &mut bytes);
            assert_eq!((bytes, other.mapping().len()), ([0, 1, 2, 3, 0], LEN));
            other.mapping().word(128).store(7, Ordering::Release);
            assert_eq!(one.mapping().word(128).load(Ordering::Acquire), 7);
            drop(one);
            other.mapping().read(4096, &mut bytes);
            assert_eq!(bytes, [0, 1, 2, 3, 0], "a mapping outlives the one that made it");
        }
    }

    #[test]
    fn sizes_have_bounds() {
        assert!(matches!(Region::create(0, Pages::Ordinary), Err(RegionError::Size { len: 0, .. })));
        let region = Region::create(LEN, Pages::Ordinary).unwrap();
        let error = Region::open(again(&region), LEN as u64 - 1).unwrap_err();
        assert_eq!(error.to_string(), "a region of 10000 bytes; between 1 and 9999 are possible");
        assert!(ftruncate(&region, 1).is_err() && ftruncate(&region, 1 << 20).is_err(), "the size is sealed");
    }

    #[test]
    fn only_sealed_memory_files_are_taken() {
        let unsealed = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 4096).unwrap();
        assert!(matches!(Region::open(unsealed.try_clone().unwrap(), 4096), Err(RegionError::Unsealed)));
        fcntl_add_seals(&unsealed, SealFlags::SHRINK).unwrap();
        assert!(matches!(Region::open(unsealed.try_clone().unwrap(), 4096), Err(RegionError::Unsealed)));
        fcntl_add_seals(&unsealed, SealFlags::GROW).unwrap();
        Region::open(unsealed, 4096).unwrap();
        for path in ["/proc/self/exe", "/dev/zero", "/proc/self/stat"] {
            let file = std::fs::File::open(path).unwrap();
            assert!(matches!(Region::open(file.into(), u64::MAX), Err(RegionError::Unsealed)), "{path}");
        }
    }

    fn punch(file: impl AsFd) -> rustix::io::Result<()> {
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, flags, 0, 4096)
    }

    #[test]
    fn what_is_sealed_is_written_by_those_who_have_it_mapped() {
        let region = Region::create(LEN, Pages::Ordinary).unwrap();
        let other = Region::open(again(&region), LEN as u64).unwrap();
        seal_writes(&region).unwrap();
        other.mapping().write(0, &[5]);
        let mut byte = [0];
        region.mapping().read(0, &mut byte);
        assert_eq!(byte, [5]);
        let late = Region::open(again(&region), LEN as u64);
        assert!(matches!(late, Err(RegionError::ReadOnly)), "{late:?}");
        // Not through /proc either, which gives a new descriptor that may write.
        let path = std::format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&region.as_fd()));
        let reopened = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        std::io::Write::write_all(&mut &reopened, &[7]).unwrap_err();
        punch(&reopened).unwrap_err();
    }

    #[test]
    fn a_hole_reads_as_zeroes() {
        let region = Region::create(LEN, Pages::Ordinary).unwrap();
        region.mapping().write(0, &vec![7; LEN]);
        punch(&region).unwrap();
        let mut bytes = vec![1; LEN];
        region.mapping().read(0, &mut bytes);
        assert!(bytes[..4096].iter().all(|&byte| byte == 0) && bytes[4096..].iter().all(|&byte| byte == 7));
    }

    #[cfg(feature = "peer")]
    #[test]
    fn whole_is_what_has_all_its_pages_for_ever() {
        assert!(presence::can_tell(), "this test needs userfaultfd, and Linux 5.14");
        let region = Region::create(LEN, Pages::Ordinary).unwrap();
        region.populate().unwrap();
        let other = Region::open(again(&region), LEN as u64).unwrap();
        assert!(matches!(other.check_whole(), Err(RegionError::Unsettled)), "holes can be punched");
        punch(&region).unwrap();
        seal_writes(&region).unwrap();
        for _ in 0..2 {
            assert!(matches!(other.check_whole(), Err(RegionError::Holes)), "looking makes no page");
        }
        // Whoever has it mapped can make it.
        region.mapping().write(0, &[1]);
        other.check_whole().unwrap();
        let mut byte = [0];
        other.mapping().read(0, &mut byte);
        assert_eq!(byte, [1], "what was there is there");
    }

    #[cfg(feature = "peer")]
    #[test]
    fn pages_that_were_only_read_do_not_count_or_stay() {
        let read = || {
            let region = Region::create(LEN, Pages::Ordinary).unwrap();
            region.mapping().read(0, &mut vec![0; LEN]);
            region
        };
        let blocks = |region: &Region| fstat(region).unwrap().st_blocks;
        let region = read();
        let all = blocks(&region);
        region.mapping().page_out().unwrap();
        if blocks(&region) == all {
            std::eprintln!("NOTHING TESTED: this kernel keeps pages that were only read");
        }
        // They are dirty when they were looked at. (The kernel takes back what one process has mapped.)
        let region = read();
        let other = Region::open(again(&region), LEN as u64).unwrap();
        seal_writes(&region).unwrap();
        other.check_whole().unwrap();
        drop(other);
        region.mapping().page_out().unwrap();
        assert_eq!(blocks(&region), all);
    }
}
