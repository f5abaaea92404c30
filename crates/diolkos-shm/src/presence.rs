// SPDX-License-Identifier: Apache-2.0
//! How much of a memory file there is: a page that nobody touched yet is a hole, and made, and counted, for whoever
//! touches it first.
//!
//! The kernel tells (cachestat(2), since Linux 6.5) without waiting for any lock of the file. `lseek` would wait for one that
//! the file's owner can hold for as long as it likes, and mincore(2) says of a file that its caller must not write that
//! all of it is there.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::write;
use rustix::param::page_size;

/// `__NR_cachestat` of asm-generic/unistd.h, and of every table that has one of its own but that of alpha.
const CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` of include/uapi/linux/mman.h.
#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

/// `struct cachestat` of the same file.
#[repr(C)]
#[derive(Default)]
struct Counts {
    /// Pages in memory.
    cached: u64,
    dirty: u64,
    writeback: u64,
    /// Pages in swap.
    evicted: u64,
    recently_evicted: u64,
}

/// How many of the pages of the first `length` bytes there are, in memory or in swap. The file must be a memory file that
/// was opened for writing, or that this user may write.
pub(crate) fn pages(file: impl AsFd, length: u64) -> io::Result<u64> {
    let range = Range { offset: 0, length };
    let mut counts = Counts::default();
    // SAFETY: the descriptor is open during the call, as it is borrowed; the two structures are local variables, laid out
    // as the kernel has them, and it writes nothing but the second.
    let result = unsafe {
        libc::syscall(
            CACHESTAT,
            file.as_fd().as_raw_fd(),
            &raw const range,
            &raw mut counts,
            0 as libc::c_uint,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(counts.cached + counts.evicted)
}

/// Pages of so many bytes.
pub(crate) fn pages_of(length: u64) -> u64 {
    length.div_ceil(page_size() as u64)
}

/// Whether the kernel tells at all: older ones do not, and some sandboxes forbid to ask.
#[must_use]
pub fn can_tell() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| two_pages_of_which_one_is_a_hole() == Ok(1))
}

fn two_pages_of_which_one_is_a_hole() -> Result<u64, io::ErrorKind> {
    let kind = |error: rustix::io::Errno| io::Error::from(error).kind();
    let file = memfd_create("diolkos-probe", MemfdFlags::CLOEXEC).map_err(kind)?;
    let length = 2 * page_size() as u64;
    ftruncate(&file, length).map_err(kind)?;
    write(&file, &[1]).map_err(kind)?;
    pages(&file, length).map_err(|error| error.kind())
}
