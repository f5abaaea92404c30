// SPDX-License-Identifier: Apache-2.0
//! The regions that one client registered.
//!
//! A region is a sealed memory file of the client's ([`diolkos_shm::region`] checks that), mapped here. Jobs hold the
//! mapping for as long as they need it, so that closing a region, or the end of the client, waits for nobody.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_backend::{Buffer, SharedMemory};
use diolkos_engine::RegionCharge;
use diolkos_shm::mapping::Mapping;
use diolkos_shm::region::Region;
use diolkos_shm::segment::Segment as _;
use diolkos_types::{Code, Status};
use diolkos_wire::{Extent, Limits};

use crate::metrics::Copied;

/// A region, as the engine and backends see it: bytes that can be copied out.
pub(super) struct RegionMemory {
    mapping: Arc<Mapping>,
    copied: Arc<Copied>,
    /// Its tenant is charged until the last job that uses it lets go.
    _charge: Option<RegionCharge>,
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

impl RegionMemory {
    /// Copies into the region. The caller has checked that it is inside.
    pub(super) fn write(&self, offset: usize, from: &[u8]) {
        self.copied.outward(from.len());
        self.mapping.write(offset, from);
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

/// Regions by the numbers that the client gave them.
pub(super) struct Regions {
    table: Mutex<Table>,
    limits: Limits,
    copied: Arc<Copied>,
}

#[derive(Default)]
struct Table {
    regions: HashMap<u16, Arc<RegionMemory>>,
    bytes: u64,
}

impl Regions {
    pub(super) fn new(limits: Limits, copied: Arc<Copied>) -> Regions {
        Regions { table: Mutex::default(), limits, copied }
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
        let region =
            Region::open(file, region_bytes_max).map_err(|error| Status::invalid(error.to_string()))?;
        // The mapping stays; the descriptor is closed here, so that regions use up none.
        let mapping = region.mapping().clone();
        let bytes = mapping.len() as u64;
        if bytes != length {
            return Err(Status::invalid(format!(
                "region {number} has {bytes} bytes, and {length} were announced"
            )));
        }
        let mut table = self.lock();
        if table.regions.contains_key(&number) {
            return Err(Status::invalid(format!(
                "region {number} is registered; close it, or take another number"
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
        let memory = RegionMemory { mapping, copied: self.copied.clone(), _charge: charge };
        table.regions.insert(number, Arc::new(memory));
        Ok(())
    }

    /// Forgets a region. Requests that use it go on.
    pub(super) fn close(&self, number: u16) -> Result<(), Status> {
        let mut table = self.lock();
        let region = table.regions.remove(&number).ok_or_else(|| no_such_region(number))?;
        table.bytes -= region.len() as u64;
        Ok(())
    }

    /// A piece of a region, checked to lie inside.
    pub(super) fn piece(&self, extent: &Extent) -> Result<Piece, Status> {
        let &Extent { region, offset, length } = extent;
        let memory = self.lock().regions.get(&region).cloned().ok_or_else(|| no_such_region(region))?;
        let size = memory.len();
        if !extent.lies_within(size as u64) {
            return Err(Status::invalid(format!(
                "bytes {offset}+{length} are not all in region {region}, which has {size} bytes"
            )));
        }
        // Lossless: both are at most the size of a mapping.
        Ok(Piece { memory, offset: offset as usize, length: length as usize })
    }

    /// The payload of an input.
    pub(super) fn buffer(&self, extent: &Extent) -> Result<Buffer, Status> {
        let Piece { memory, offset, length } = self.piece(extent)?;
        Ok(Buffer::shared(memory, offset, length).expect("the piece was found to lie inside"))
    }
}

fn no_such_region(number: u16) -> Status {
    Status::new(Code::NotFound, format!("region {number} is not registered"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use diolkos_shm::region::Pages;

    use super::*;

    fn file(len: usize) -> (Region, OwnedFd) {
        let region = Region::create(len, Pages::Ordinary).unwrap();
        let file = region.as_fd().try_clone_to_owned().unwrap();
        (region, file)
    }

    fn free(_: u64) -> Result<Option<RegionCharge>, Status> {
        Ok(None)
    }

    fn limits() -> Limits {
        Limits { regions_max: 2, region_bytes_max: 8192, regions_bytes_max: 12_288, ..Limits::default() }
    }

    #[test]
    fn numbers_sizes_and_sums_have_bounds() {
        let regions = Regions::new(limits(), Arc::default());
        let refused = |number, announced, len| {
            let error = regions.register(number, announced, file(len).1, free).unwrap_err();
            error.message().to_owned()
        };
        regions.register(7, 8192, file(8192).1, free).unwrap();
        assert!(refused(7, 4096, 4096).contains("region 7 is registered"));
        assert!(refused(1, 4096, 8192).contains("has 8192 bytes, and 4096 were announced"));
        assert!(refused(1, 8193, 8193).contains("between 1 and 8192"));
        assert!(refused(1, 8192, 8192).contains("8192 of 12288 are taken"));
        regions.register(1, 4096, file(4096).1, free).unwrap();
        assert!(refused(2, 1, 1).contains("2 regions are registered"));
        regions.close(7).unwrap();
        assert_eq!(regions.close(7).unwrap_err().code(), Code::NotFound);
        regions.register(2, 8192, file(8192).1, free).unwrap();
        let unsealed = std::fs::File::open("/proc/self/exe").unwrap();
        let error = regions.register(3, 1, unsealed.into(), free).unwrap_err();
        assert!(error.message().contains("F_SEAL_SHRINK"), "{error}");
    }

    #[test]
    fn pieces_lie_inside_and_outlive_their_region() {
        let regions = Regions::new(limits(), Arc::default());
        let (ours, file) = file(4096);
        regions.register(0, 4096, file, free).unwrap();
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
