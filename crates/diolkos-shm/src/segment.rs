// SPDX-License-Identifier: Apache-2.0
//! Memory that somebody else can write: the one trait that all access goes through.
//!
//! The other side is not trusted and may change any byte at any time. So there is never a slice or a
//! reference to the bytes, only to single words that are atomic, and copies out of and into them. What is read
//! twice may differ; whoever decides something by a value reads it once, and decides by the copy.
//!
//! Offsets come from code that has checked them against [`Segment::len`], which never changes. An offset
//! outside is therefore a mistake of this side and panics; it is never something that a peer can cause.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

/// One 32-bit word that both sides use.
pub trait Word {
    /// Reads it.
    fn load(&self, order: Ordering) -> u32;
    /// Writes it.
    fn store(&self, value: u32, order: Ordering);
    /// Writes it and says what it was.
    fn swap(&self, value: u32, order: Ordering) -> u32;
}

impl Word for AtomicU32 {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        AtomicU32::load(self, order)
    }

    #[inline]
    fn store(&self, value: u32, order: Ordering) {
        AtomicU32::store(self, value, order);
    }

    #[inline]
    fn swap(&self, value: u32, order: Ordering) -> u32 {
        AtomicU32::swap(self, value, order)
    }
}

/// Memory shared with a peer that may write it at any time: a mapping, guest memory, or a stand-in of a test.
///
/// # Safety
///
/// While the value lives:
///
/// * `len` is the same at every call, and every byte below it can be read and written without a fault.
/// * `word` gives the word whose bytes begin at `offset`, in the byte order of this machine, and `read` and
///   `write` copy the bytes that begin at `offset`: all of them see the same memory.
/// * An offset (or offset and length) that does not lie inside panics; so does a word that is not aligned to 4.
pub unsafe trait Segment {
    /// A word of this memory.
    type Word: Word;

    /// Size in bytes.
    fn len(&self) -> usize;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The word at a byte offset.
    fn word(&self, offset: usize) -> &Self::Word;

    /// Copies bytes out.
    fn read(&self, offset: usize, into: &mut [u8]);

    /// Copies `len` bytes to the end of a vector.
    fn append(&self, offset: usize, len: usize, to: &mut Vec<u8>) {
        let end = to.len();
        to.resize(end + len, 0);
        self.read(offset, &mut to[end..]);
    }

    /// Copies bytes in.
    fn write(&self, offset: usize, from: &[u8]);

    /// A fence of [`Ordering::SeqCst`], of the kind that goes with [`Segment::Word`].
    #[inline]
    fn fence(&self) {
        core::sync::atomic::fence(Ordering::SeqCst);
    }
}

macro_rules! pass_on {
    ($($pointer:ty),*) => {$(
        // SAFETY: every call is the pointee's, which keeps the contract while it lives, and it lives at least as
        // long as what points at it.
        unsafe impl<S: Segment + ?Sized> Segment for $pointer {
            type Word = S::Word;

            #[inline]
            fn len(&self) -> usize {
                (**self).len()
            }

            #[inline]
            fn word(&self, offset: usize) -> &Self::Word {
                (**self).word(offset)
            }

            #[inline]
            fn read(&self, offset: usize, into: &mut [u8]) {
                (**self).read(offset, into);
            }

            fn append(&self, offset: usize, len: usize, to: &mut Vec<u8>) {
                (**self).append(offset, len, to);
            }

            #[inline]
            fn write(&self, offset: usize, from: &[u8]) {
                (**self).write(offset, from);
            }

            #[inline]
            fn fence(&self) {
                (**self).fence();
            }
        }
    )*};
}

pass_on!(&S, alloc::sync::Arc<S>);
