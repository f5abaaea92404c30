// SPDX-License-Identifier: Apache-2.0
//! mimalloc, made to give back what was freed before it is much.
//!
//! Tensors are large blocks that live for one request and are freed by another thread than the one that made them.
//! glibc gives such memory back to the system at once and faults it in again for the next request, page by page: 70 to 100
//! faults and a third of the CPU time of a REST echo of 602 kB, with eight clients on two cores. mimalloc keeps it for a
//! tenth of a second and longer. That is good for the next request, but whoever has memory freed and allocated quickly
//! enough, in changing sizes, makes the process keep several times what it is using: three times was seen, beyond the sum of
//! all limits, which gets a daemon killed whose control group has just that much.
//!
//! So large blocks that are freed are counted, and whenever [`diolkos::memory::kept_max`] bytes have been, everything that is
//! free goes back to the system. That costs a tenth of an echo of 4 MB, so it is left out while the process has little more
//! than that anyway. What was tried and is not enough: looking only whether the process has grown since. What is kept in one size is not
//! used for another, so the next thing that grows comes on top.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicU64, Ordering};

use mimalloc::MiMalloc;

/// Blocks below this size are not counted: mimalloc keeps them in pages by size, which are used again.
const COUNTED_BYTES_MIN: usize = 64 << 10;

/// Bytes of counted blocks that were freed since everything was given back. Relaxed: it orders nothing, and a block more
/// or less does not matter.
static FREED: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    /// Frees what the calling thread keeps, and with `force` gives all free memory of the process back to the system.
    safe fn mi_collect(force: bool);
}

/// The allocator.
pub(crate) struct GivesBack;

// SAFETY: every call goes to `MiMalloc` with the arguments it came with, which keeps the contract; counting does not touch
// the blocks.
unsafe impl GlobalAlloc for GivesBack {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that `MiMalloc` asks for.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { MiMalloc.dealloc(block, layout) };
        freed(layout.size());
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        let moved = unsafe { MiMalloc.realloc(block, layout, size) };
        if moved != block {
            freed(layout.size());
        }
        moved
    }
}

fn freed(bytes: usize) {
    if bytes >= COUNTED_BYTES_MIN {
        let freed = FREED.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if freed >= diolkos::memory::kept_max() {
            give_back();
        }
    }
}

#[cold]
fn give_back() {
    // Of several threads that come here at once, one does it.
    if FREED.swap(0, Ordering::Relaxed) == 0 {
        return;
    }
    let little = diolkos::memory::BESIDE_BYTES + diolkos::memory::kept_max();
    if diolkos::memory::resident_bytes().is_none_or(|resident| resident > little) {
        mi_collect(true);
    }
}
