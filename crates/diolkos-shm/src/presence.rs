// SPDX-License-Identifier: Apache-2.0
//! Whether every page of a mapping is there, without making any.
//!
//! A page that is not there is made by the first access, and the kernel counts it to whoever made it. To count pages first
//! (cachestat(2), mincore(2), `SEEK_HOLE`) tells what was: a page that was only ever read is clean, and the kernel may drop
//! it again at any time, at its owner's wish too (`MADV_PAGEOUT`). So they are all written to, as far as the kernel is
//! concerned (`MADV_POPULATE_WRITE`, since Linux 5.14), while userfaultfd(2) turns every attempt to make one into an error. What was
//! there is dirty then, and stays until somebody punches a hole.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::OnceLock;

use rustix::param::page_size;

use crate::mapping::Mapping;
use crate::region::{Pages, Region};
use crate::segment::Segment as _;

/// `UFFD_USER_MODE_ONLY`: the kind that needs no privilege. Faults of the kernel on our behalf, such as those of madvise,
/// are errors with it.
const USER_MODE_ONLY: libc::c_int = 1;

/// `UFFD_API`, the version of the interface and the letter of its ioctls.
const API: u64 = 0xaa;

/// `UFFDIO_REGISTER_MODE_MISSING`.
const MODE_MISSING: u64 = 1;

/// `UFFDIO_API` and `UFFDIO_REGISTER` of include/uapi/linux/userfaultfd.h: `_IOWR` with the sizes of the structures below.
const UFFDIO_API: libc::c_ulong = ioctl(0x3f, size_of::<Handshake>());
const UFFDIO_REGISTER: libc::c_ulong = ioctl(0x00, size_of::<Register>());

/// `_IOWR(0xaa, number, size)` of asm-generic/ioctl.h, which x86-64, aarch64 and riscv64 use.
const fn ioctl(number: u64, size: usize) -> libc::c_ulong {
    (3 << 30 | (size as u64) << 16 | API << 8 | number) as libc::c_ulong
}

/// `struct uffdio_api`.
#[repr(C)]
struct Handshake {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

/// Watches a mapping: until this is dropped, no page of it is made.
struct Watch {
    _file: OwnedFd,
}

impl Watch {
    fn begin(mapping: &Mapping) -> io::Result<Watch> {
        // SAFETY: the call takes a number, and gives a new descriptor or an error.
        let file = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else has it. Descriptors are small numbers.
        let file = unsafe { OwnedFd::from_raw_fd(file as libc::c_int) };
        let mut handshake = Handshake { api: API, features: 0, ioctls: 0 };
        // SAFETY: the descriptor is open, and the structure is a local variable of the size in the request's number.
        let shaken = unsafe { libc::ioctl(file.as_raw_fd(), UFFDIO_API as _, &raw mut handshake) };
        if shaken != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut register = Register {
            start: mapping.at(0) as u64,
            length: mapping.len().next_multiple_of(page_size()) as u64,
            mode: MODE_MISSING,
            ioctls: 0,
        };
        // SAFETY: as above. The range is that of the mapping, whole pages, and it is mapped for as long as it is borrowed; its
        // contents do not change.
        let registered = unsafe { libc::ioctl(file.as_raw_fd(), UFFDIO_REGISTER as _, &raw mut register) };
        if registered != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Watch { _file: file })
    }
}

/// Whether every page is there. If so, they will be until somebody punches a hole. Nobody else may access the mapping
/// meanwhile.
pub(crate) fn is_whole(mapping: &Mapping) -> io::Result<bool> {
    let _watch = Watch::begin(mapping)?;
    match mapping.write_to_each_page() {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether this system tells: older kernels do not, and some sandboxes forbid to ask.
#[must_use]
pub fn can_tell() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let Ok(region) = Region::create(2 * page_size(), Pages::Ordinary) else { return false };
        let mapping = region.mapping();
        mapping.write(0, &[1]);
        matches!(is_whole(mapping), Ok(false))
            && region.populate().is_ok()
            && matches!(is_whole(mapping), Ok(true))
    })
}
