// SPDX-License-Identifier: Apache-2.0
//! The regions that one client registered.
//!
//! A region is a sealed memory file of the client's ([`diolkos_shm::region`] checks that), mapped here. Jobs hold the
//! mapping for as long as they need it, so that closing a region, or the end of the client, waits for nobody.
//!
//! ```text
//! register ──> pending: mapped, its descriptor kept ──commit: all its pages are there, for ever──> lent ──> for rings
//! ```
//!
//! No page of a region that is lent is ever made by an access of ours, so none counts to the daemon, whatever the client
//! does with the file afterwards. There is one pending region at a time, so that regions use up no descriptors.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_backend::{Buffer, Destination, ResultMemory, SharedMemory};
use diolkos_engine::RegionCharge;
use diolkos_shm::mapping::Mapping;
use diolkos_shm::region::{Region, RegionError};
use diolkos_shm::segment::Segment as _;
use diolkos_types::{Code, Status};
use diolkos_wire::{Extent, Limits};

use crate::metrics::Copied;
use crate::oip::offload::{self, OwnTurn};

/// A region that is lent, as the engine and backends see it: bytes that can be copied out of it, and into it.
pub(super) struct RegionMemory {
    mapping: Arc<Mapping>,
    /// Its client is gone, and what it does with its memory is its own again.
    ended: Arc<AtomicBool>,
    copied: Arc<Copied>,
    /// Its tenant is charged until the last job that uses it lets go.
    _charge: Option<RegionCharge>,
    _file: MappedFile,
}

impl SharedMemory for RegionMemory {
    fn len(&self) -> usize {
        self.mapping.len()
    }

    fn copy_to(&self, offset: usize, dst: &mut [u8]) {
        self.copied.inward(dst.len());
        self.mapping.read(offset, dst);
    }

    fn append_to(&self, offset: usize, length: usize, dst: &mut Vec<u8>) {
        self.copied.inward(length);
        self.mapping.append(offset, length, dst);
    }
}

impl ResultMemory for RegionMemory {
    fn write(&self, offset: usize, data: &[u8]) {
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        self.copied.outward(data.len());
        self.mapping.write(offset, data);
    }
}

impl RegionMemory {
    /// For rings, which are words and not tensors.
    pub(super) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

/// A piece of a region that lies inside it.
pub(super) struct Piece {
    /// The region.
    pub(super) memory: Arc<RegionMemory>,
    /// Where the piece begins.
    pub(super) offset: usize,
    /// Bytes of it.
    pub(super) length: usize,
}

impl Piece {
    /// As the engine takes it.
    pub(super) fn destination(&self) -> Destination {
        let destination = Destination::new(self.memory.clone(), self.offset, self.length);
        destination.expect("the piece was found to lie inside")
    }
}

/// The memory files that are mapped, of everybody: each is mapped once, so that tables of pages are a small part of what clients
/// really have.
#[derive(Default)]
pub(super) struct Files(Mutex<HashSet<(u64, u64)>>);

/// One of them.
struct MappedFile {
    files: Arc<Files>,
    id: (u64, u64),
}

impl Files {
    fn map(self: &Arc<Self>, id: (u64, u64)) -> Result<MappedFile, Status> {
        // Nothing below panics while it holds the lock.
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            return Ok(MappedFile { files: self.clone(), id });
        }
        Err(Status::invalid("this memory file is a region already; make one for each region"))
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        self.files.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// Regions by the numbers that the client gave them.
pub(super) struct Regions {
    table: Mutex<Table>,
    limits: Limits,
    copied: Arc<Copied>,
    files: Arc<Files>,
    ended: Arc<AtomicBool>,
}

#[derive(Default)]
struct Table {
    regions: HashMap<u16, Arc<RegionMemory>>,
    pending: Option<Pending>,
    /// Of all of them.
    bytes: u64,
}

/// A region that its client has to seal before anything is done with it.
struct Pending {
    number: u16,
    region: Arc<Region>,
    charge: Option<RegionCharge>,
    file: MappedFile,
}

impl Table {
    fn pending(&self, number: u16) -> Option<&Pending> {
        self.pending.as_ref().filter(|pending| pending.number == number)
    }
}

impl Regions {
    pub(super) fn new(limits: Limits, copied: Arc<Copied>, files: Arc<Files>) -> Regions {
        Regions { table: Mutex::default(), limits, copied, files, ended: Arc::default() }
    }

    /// The client is gone: nothing is written into its regions any more.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing below panics while it holds the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a region. `length` is what the client says that it has; `charge` charges its tenant.
    pub(super) fn register(
        &self,
        number: u16,
        length: u64,
        file: OwnedFd,
        charge: impl FnOnce(u64) -> Result<Option<RegionCharge>, Status>,
    ) -> Result<(), Status> {
        let Limits { regions_max, region_bytes_max, regions_bytes_max, .. } = self.limits;
        let region = Region::open(file, region_bytes_max).map_err(|error| refusal(number, &error))?;
        let file = region.file_id().map_err(|error| refusal(number, &error))?;
        let file = self.files.map(file)?;
        let bytes = region.mapping().len() as u64;
        if bytes != length {
            return Err(Status::invalid(format!(
                "region {number} has {bytes} bytes, and {length} were announced"
            )));
        }
        let mut table = self.lock();
        if table.regions.contains_key(&number) || table.pending(number).is_some() {
            return Err(Status::invalid(format!(
                "region {number} is registered; close it, or take another number"
            )));
        }
        if let Some(pending) = &table.pending {
            return Err(Status::invalid(format!(
                "region {} was registered and not committed; commit it, or close it, before the next one",
                pending.number
            )));
        }
        if table.regions.len() >= usize::from(regions_max) {
            let message =
                format!("{regions_max} regions are registered, and that is all there may be; close one");
            return Err(Status::new(Code::TooLarge, message));
        }
        if bytes > regions_bytes_max - table.bytes.min(regions_bytes_max) {
            let message = format!(
                "region {number} has {bytes} bytes; {} of {regions_bytes_max} are taken by this client's other regions",
                table.bytes
            );
            return Err(Status::new(Code::TooLarge, message));
        }
        let charge = charge(bytes)?;
        table.bytes += bytes;
        table.pending = Some(Pending { number, region: Arc::new(region), charge, file });
        Ok(())
    }

    /// Lends a region that is sealed and whole; one that is not is forgotten. The connection does one thing at a time, so that
    /// the region is still pending when it was looked at.
    pub(super) async fn commit(&self, turn: &OwnTurn, number: u16) -> Result<(), Status> {
        let region = self.lock().pending(number).ok_or_else(|| no_such_region(number))?.region.clone();
        let bytes = region.mapping().len();
        let whole = move || region.check_whole().map_err(|error| refusal(number, &error));
        // Not among the conversions, which others' requests need. A session has one turn at a time.
        let whole =
            if bytes <= offload::INLINE_BYTES_MAX { whole() } else { offload::waiting(turn, whole).await };
        if let Err(status) = whole {
            self.close(number)?;
            return Err(status);
        }
        let mut table = self.lock();
        let pending = table.pending.take_if(|pending| pending.number == number);
        let Pending { region, charge, file, .. } = pending.ok_or_else(|| no_such_region(number))?;
        // The mapping stays; the descriptor is closed here.
        let memory = RegionMemory {
            mapping: region.mapping().clone(),
            ended: self.ended.clone(),
            copied: self.copied.clone(),
            _charge: charge,
            _file: file,
        };
        table.regions.insert(number, Arc::new(memory));
        Ok(())
    }

    /// Forgets a region. Requests that use it go on.
    pub(super) fn close(&self, number: u16) -> Result<(), Status> {
        let mut table = self.lock();
        let pending = table.pending.take_if(|pending| pending.number == number);
        let lent = if pending.is_none() { table.regions.remove(&number) } else { None };
        let bytes = match (&pending, &lent) {
            (Some(pending), _) => pending.region.mapping().len(),
            (_, Some(memory)) => memory.len(),
            _ => return Err(no_such_region(number)),
        };
        table.bytes -= bytes as u64;
        // Unmapping takes a while, and the poll threads want the table.
        drop(table);
        drop((pending, lent));
        Ok(())
    }

    /// A piece of a region, checked to lie inside.
    pub(super) fn piece(&self, extent: &Extent) -> Result<Piece, Status> {
        let &Extent { region, offset, length } = extent;
        let memory = self.lent(region)?;
        let size = memory.len();
        if !extent.lies_within(size as u64) {
            return Err(Status::invalid(format!(
                "bytes {offset}+{length} are not all in region {region}, which has {size} bytes"
            )));
        }
        // Lossless: both are at most the size of a mapping.
        Ok(Piece { memory, offset: offset as usize, length: length as usize })
    }

    fn lent(&self, number: u16) -> Result<Arc<RegionMemory>, Status> {
        let table = self.lock();
        table.regions.get(&number).cloned().ok_or_else(|| match table.pending(number) {
            Some(_) => Status::invalid(format!(
                "region {number} is registered and not committed; seal it (F_SEAL_FUTURE_WRITE) and send `CommitRegion`"
            )),
            None => no_such_region(number),
        })
    }

    /// Takes a region out for rings of so many bytes, which begin where it does. Nothing else may use it any more: words
    /// and copies would meet in it.
    pub(super) fn take_for_rings(&self, number: u16, bytes: u64) -> Result<Arc<RegionMemory>, Status> {
        self.piece(&Extent { region: number, offset: 0, length: bytes })?;
        let mut table = self.lock();
        match table.regions.remove(&number) {
            Some(memory) if Arc::strong_count(&memory) == 1 => {
                table.bytes -= memory.len() as u64;
                Ok(memory)
            }
            Some(memory) => {
                table.regions.insert(number, memory);
                Err(Status::invalid(format!("requests use region {number}; take one of its own for rings")))
            }
            None => Err(no_such_region(number)),
        }
    }

    /// The payload of an input.
    pub(super) fn buffer(&self, extent: &Extent) -> Result<Buffer, Status> {
        let Piece { memory, offset, length } = self.piece(extent)?;
        Ok(Buffer::shared(memory, offset, length).expect("the piece was found to lie inside"))
    }
}

fn refusal(number: u16, error: &RegionError) -> Status {
    let message = format!("region {number}: {error}");
    match error {
        // It is not the client's fault.
        RegionError::System { .. } => Status::new(Code::Internal, message),
        _ => Status::invalid(message),
    }
}

fn no_such_region(number: u16) -> Status {
    Status::new(Code::NotFound, format!("region {number} is not registered"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use diolkos_shm::region::{Pages, seal_writes};

    use super::*;

    fn file(len: usize) -> (Region, OwnedFd) {
        let region = Region::create_whole(len, Pages::Ordinary).unwrap();
        let file = region.as_fd().try_clone_to_owned().unwrap();
        (region, file)
    }

    fn free(_: u64) -> Result<Option<RegionCharge>, Status> {
        Ok(None)
    }

    fn limits() -> Limits {
        Limits { regions_max: 2, region_bytes_max: 8192, regions_bytes_max: 12_288, ..Limits::default() }
    }

    /// Commits a region that its owner sealed.
    async fn lend(regions: &Regions, number: u16, len: usize) -> Result<Region, Status> {
        let (ours, file) = file(len);
        regions.register(number, len as u64, file, free)?;
        seal_writes(&ours).unwrap();
        regions.commit(&OwnTurn::default(), number).await?;
        Ok(ours)
    }

    #[tokio::test]
    async fn numbers_sizes_and_sums_have_bounds() {
        let regions = Regions::new(limits(), Arc::default(), Arc::default());
        let refused = |number, announced, len| {
            let error = regions.register(number, announced, file(len).1, free).unwrap_err();
            error.message().to_owned()
        };
        lend(&regions, 7, 8192).await.unwrap();
        assert!(refused(7, 4096, 4096).contains("region 7 is registered"));
        assert!(refused(1, 4096, 8192).contains("has 8192 bytes, and 4096 were announced"));
        assert!(refused(1, 8193, 8193).contains("between 1 and 8192"));
        assert!(refused(1, 8192, 8192).contains("8192 of 12288 are taken"));
        lend(&regions, 1, 4096).await.unwrap();
        assert!(refused(2, 1, 1).contains("2 regions are registered"));
        regions.close(7).unwrap();
        assert_eq!(regions.close(7).unwrap_err().code(), Code::NotFound);
        regions.register(2, 8192, file(8192).1, free).unwrap();
        assert!(refused(2, 1, 1).contains("region 2 is registered"));
        assert!(refused(3, 1, 1).contains("region 2 was registered and not committed"));
        regions.close(2).unwrap();
        let unsealed = std::fs::File::open("/proc/self/exe").unwrap();
        let error = regions.register(3, 1, unsealed.into(), free).unwrap_err();
        assert!(error.message().contains("F_SEAL_SHRINK"), "{error}");
    }

    #[tokio::test]
    async fn what_is_not_sealed_and_whole_is_not_lent() {
        assert!(diolkos_shm::presence::can_tell(), "this test needs userfaultfd, and Linux 5.14");
        let regions = Regions::new(limits(), Arc::default(), Arc::default());
        let ours = Region::create(8192, Pages::Ordinary).unwrap();
        let register = || regions.register(0, 8192, ours.as_fd().try_clone_to_owned().unwrap(), free);
        let commit = async |number| regions.commit(&OwnTurn::default(), number).await;
        let extent = Extent { region: 0, offset: 0, length: 1 };
        let refused = |error: Status| error.message().to_owned();
        register().unwrap();
        assert!(refused(regions.buffer(&extent).unwrap_err()).contains("is registered and not committed"));
        assert!(refused(commit(0).await.unwrap_err()).contains("add F_SEAL_FUTURE_WRITE"));
        assert_eq!(commit(0).await.unwrap_err().code(), Code::NotFound, "it was forgotten");
        register().unwrap();
        assert!(
            refused(regions.register(1, 8192, ours.as_fd().try_clone_to_owned().unwrap(), free).unwrap_err())
                .contains("is a region already")
        );
        ours.mapping().write(0, &[1]);
        seal_writes(&ours).unwrap();
        assert!(refused(commit(0).await.unwrap_err()).contains("MADV_POPULATE_WRITE"));
        assert!(refused(register().unwrap_err()).contains("sealed against writing already"));
        assert_eq!(regions.lock().bytes, 0);
        let ours = lend(&regions, 0, 8192).await.unwrap();
        ours.mapping().write(0, &[1]);
        assert_eq!(&regions.buffer(&extent).unwrap().to_private()[..], &[1]);
    }

    #[tokio::test]
    async fn rings_take_a_region_that_nobody_else_uses() {
        let regions = Regions::new(limits(), Arc::default(), Arc::default());
        lend(&regions, 0, 4096).await.unwrap();
        let refused = |bytes| regions.take_for_rings(0, bytes).err().unwrap().message().to_owned();
        assert!(refused(4097).contains("are not all in region 0"));
        let buffer = regions.buffer(&Extent { region: 0, offset: 0, length: 1 }).unwrap();
        assert!(refused(4096).contains("requests use region 0"));
        drop(buffer);
        let memory = regions.take_for_rings(0, 4096).unwrap();
        assert_eq!((memory.len(), regions.lock().bytes), (4096, 0));
        assert!(regions.take_for_rings(0, 1).is_err() && regions.close(0).is_err());
    }

    #[tokio::test]
    async fn nothing_is_written_once_the_client_is_gone() {
        let regions = Regions::new(limits(), Arc::default(), Arc::default());
        let ours = lend(&regions, 0, 4096).await.unwrap();
        let piece = regions.piece(&Extent { region: 0, offset: 10, length: 10 }).unwrap();
        let read = || {
            let mut bytes = [0; 2];
            ours.mapping().read(10, &mut bytes);
            bytes
        };
        piece.memory.write(10, &[1, 2]);
        assert_eq!(read(), [1, 2]);
        regions.end();
        piece.memory.write(10, &[3, 4]);
        assert_eq!(read(), [1, 2]);
    }

    #[tokio::test]
    async fn pieces_lie_inside_and_outlive_their_region() {
        let regions = Regions::new(limits(), Arc::default(), Arc::default());
        let ours = lend(&regions, 0, 4096).await.unwrap();
        ours.mapping().write(4090, &[1, 2, 3, 4, 5, 6]);
        let extent = |offset, length| Extent { region: 0, offset, length };
        let buffer = regions.buffer(&extent(4091, 5)).unwrap();
        let error = regions.buffer(&extent(4091, 6)).unwrap_err();
        assert_eq!(error.message(), "bytes 4091+6 are not all in region 0, which has 4096 bytes");
        assert!(regions.buffer(&extent(u64::MAX, 2)).is_err());
        assert!(regions.buffer(&Extent { region: 1, ..extent(0, 1) }).is_err());
        regions.close(0).unwrap();
        assert_eq!(&buffer.to_private()[..], &[2, 3, 4, 5, 6]);
    }
}
