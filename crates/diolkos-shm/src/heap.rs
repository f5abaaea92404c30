// SPDX-License-Identifier: Apache-2.0
//! A segment on this process's own heap, for tests, fuzzers, and both sides in one process.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::segment::Segment;

const WORD: usize = size_of::<u32>();

/// Memory of this process that behaves as if it were shared: made of atomic words, so that threads may
/// write it while others read without a data race, whatever they do.
#[derive(Debug)]
pub struct HeapSegment {
    words: Box<[AtomicU32]>,
}

impl HeapSegment {
    /// Zeroes, at least `len` bytes, rounded up to whole words.
    #[must_use]
    pub fn new(len: usize) -> HeapSegment {
        HeapSegment { words: (0..len.div_ceil(WORD)).map(|_| AtomicU32::new(0)).collect() }
    }

    fn check(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len).expect("an end of bytes overflows");
        assert!(end <= self.words.len() * WORD, "{offset}+{len} is outside of {}", self.words.len() * WORD);
    }

    /// Cuts bytes into the words that they are in: index of the word, first byte in it, number of bytes.
    fn pieces(&self, offset: usize, len: usize) -> impl Iterator<Item = (&AtomicU32, usize, usize)> {
        self.check(offset, len);
        let mut at = offset;
        core::iter::from_fn(move || {
            let place = at % WORD;
            let count = (offset + len - at).min(WORD - place);
            let word = self.words.get(at / WORD).filter(|_| count > 0)?;
            at += count;
            Some((word, place, count))
        })
    }
}

// SAFETY: the words are there, and as many, for as long as the value; they are atomics, which any thread may
// read and write at any time; every access is an index that is checked.
unsafe impl Segment for HeapSegment {
    type Word = AtomicU32;

    fn len(&self) -> usize {
        self.words.len() * WORD
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(WORD), "the word at {offset} is not aligned");
        &self.words[offset / WORD]
    }

    fn read(&self, offset: usize, mut into: &mut [u8]) {
        for (word, place, count) in self.pieces(offset, into.len()) {
            // Relaxed: ordering is the business of the words that announce these bytes.
            let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            let (now, later) = into.split_at_mut(count);
            now.copy_from_slice(&bytes[place..place + count]);
            into = later;
        }
    }

    fn write(&self, offset: usize, mut from: &[u8]) {
        for (word, place, count) in self.pieces(offset, from.len()) {
            let (now, later) = from.split_at(count);
            from = later;
            if let Ok(whole) = now.try_into() {
                word.store(u32::from_ne_bytes(whole), Ordering::Relaxed);
                continue;
            }
            // Read and written in one step, because the bytes around them may be written at the same time.
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
                let mut bytes = before.to_ne_bytes();
                bytes[place..place + count].copy_from_slice(now);
                Some(u32::from_ne_bytes(bytes))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_bytes_are_the_same_memory() {
        let heap = HeapSegment::new(10);
        assert_eq!(heap.len(), 12);
        heap.write(3, &[1, 2, 3]);
        assert_eq!(heap.word(4).load(Ordering::Relaxed).to_ne_bytes(), [2, 3, 0, 0]);
        heap.word(8).store(u32::from_ne_bytes([7, 8, 9, 10]), Ordering::Relaxed);
        let mut bytes = [0; 9];
        heap.read(3, &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 0, 0, 7, 8, 9, 10]);
    }

    #[test]
    fn outside_is_our_mistake() {
        let outside: [fn(&HeapSegment); 5] = [
            |heap| heap.read(9, &mut [0; 4]),
            |heap| heap.write(usize::MAX, &[0; 2]),
            |heap| heap.read(13, &mut []),
            |heap| heap.word(12).store(1, Ordering::Relaxed),
            |heap| heap.word(2).store(1, Ordering::Relaxed),
        ];
        for access in outside {
            let heap = HeapSegment::new(12);
            std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| access(&heap))).unwrap_err();
        }
    }
}
