// SPDX-License-Identifier: Apache-2.0
//! A memory file in this process's address space.
//!
//! The only place that maps and unmaps, and the only one that turns an offset into an address.

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicU32;
use std::io;
use std::os::fd::AsFd;
use std::vec::Vec;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use rustix::param::page_size;

use crate::segment::Segment;

/// Less than a millisecond's worth of pages.
const POPULATED_AT_ONCE_BYTES: usize = 4 << 20;

/// Mapped memory, unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to the process and not to a thread, and every access to it is atomic or a copy
// through raw pointers, which `Segment` allows to race with anybody, this process's threads included.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of a file. The caller has checked that the file has that many and that its
    /// seals keep it so; otherwise an access beyond its end would be a fatal signal.
    pub(crate) fn new(file: impl AsFd, len: usize) -> io::Result<Mapping> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED and with no address asked for, the kernel chooses one that nothing uses.
        let base = unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Mapping { base, len })
    }

    /// Asks for huge pages. A hint: the kernel's settings decide.
    pub(crate) fn advise_huge_pages(&self) -> io::Result<()> {
        self.advise(Advice::LinuxHugepage)
    }

    /// Asks for none.
    pub(crate) fn advise_no_huge_pages(&self) -> io::Result<()> {
        self.advise(Advice::LinuxNoHugepage)
    }

    /// Makes every page that is not there yet. Nobody else has the file.
    pub(crate) fn populate(&self) -> io::Result<()> {
        match self.write_to_each_page() {
            // Kernels before 5.14 do not know how.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                for offset in (0..self.len).step_by(page_size()) {
                    let at = self.at(offset);
                    // SAFETY: the byte is mapped.
                    let byte = unsafe { at.read_volatile() };
                    // SAFETY: it can be written, and stays what it is.
                    unsafe { at.write_volatile(byte) };
                }
                Ok(())
            }
            made => made,
        }
    }

    /// Has the kernel do all that it does for a write to each page, but the write.
    pub(crate) fn write_to_each_page(&self) -> io::Result<()> {
        // In pieces, because the kernel holds a lock meanwhile that other threads of this process need.
        for offset in (0..self.len).step_by(POPULATED_AT_ONCE_BYTES) {
            let len = POPULATED_AT_ONCE_BYTES.min(self.len - offset);
            // SAFETY: the range lies in this mapping, and its contents stay what they are.
            unsafe { madvise(self.at(offset).cast::<c_void>(), len, Advice::LinuxPopulateWrite) }?;
        }
        Ok(())
    }

    /// Has the kernel take back what it can.
    #[cfg(test)]
    pub(crate) fn page_out(&self) -> io::Result<()> {
        self.advise(Advice::LinuxPageOut)
    }

    fn advise(&self, advice: Advice) -> io::Result<()> {
        // SAFETY: the range is this mapping, and none of the advice that is given here changes what is read from it.
        Ok(unsafe { madvise(self.base.as_ptr().cast::<c_void>(), self.len, advice) }?)
    }

    #[inline]
    fn check(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len).expect("an end of bytes overflows");
        assert!(end <= self.len, "{offset}+{len} is outside of {}", self.len);
    }

    /// The address of a byte that was checked to lie inside, or just behind the last.
    #[inline]
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: the mapping is one allocation of `len` bytes, and `offset` is at most that.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the range that `new` mapped, and nothing that points into it outlives the value:
        // words are borrowed from it.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping that was made can be unmapped");
    }
}

// SAFETY: `len` bytes stay mapped while the value lives, and the file's seals keep its end from moving below
// them (`Mapping::new`). All three ways of access check the range against `len` first.
unsafe impl Segment for Mapping {
    type Word = AtomicU32;

    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU32 {
        self.check(offset, size_of::<u32>());
        assert!(offset.is_multiple_of(align_of::<AtomicU32>()), "the word at {offset} is not aligned");
        // SAFETY: the four bytes are mapped and aligned (a mapping begins on a page), they stay so while `self`
        // is borrowed, and whoever else writes them, in this process or another, does so as a word.
        unsafe { AtomicU32::from_ptr(self.at(offset).cast()) }
    }

    #[inline]
    fn read(&self, offset: usize, into: &mut [u8]) {
        self.check(offset, into.len());
        // SAFETY: the source is mapped for as many bytes, the destination is a slice of this process that
        // is exclusively borrowed, so they don't overlap. A peer may write meanwhile; what is copied is then
        // some mixture of bytes, which is no worse than any other bytes that it could have written.
        unsafe { ptr::copy_nonoverlapping(self.at(offset), into.as_mut_ptr(), into.len()) };
    }

    /// Without filling the destination twice: zeroing tens of megabytes costs half as much as copying them.
    fn append(&self, offset: usize, len: usize, to: &mut Vec<u8>) {
        self.check(offset, len);
        to.reserve(len);
        let (source, end) = (self.at(offset), to.len());
        // SAFETY: as in `read`; the destination is the spare room of a vector, which was just made large enough.
        unsafe { ptr::copy_nonoverlapping(source, to.spare_capacity_mut().as_mut_ptr().cast(), len) };
        // SAFETY: the bytes up to there were initialised by the copy, and the room was reserved.
        unsafe { to.set_len(end + len) };
    }

    #[inline]
    fn write(&self, offset: usize, from: &[u8]) {
        self.check(offset, from.len());
        // SAFETY: the destination is mapped for as many bytes and writable, the source is a slice of this process,
        // so they don't overlap.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.at(offset), from.len()) };
    }
}
