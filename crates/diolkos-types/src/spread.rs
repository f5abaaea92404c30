// SPDX-License-Identifier: Apache-2.0
//! A hash for numbers that nobody else chooses.

use core::hash::{BuildHasherDefault, Hasher};

/// Hashes numbers that count up, for tables whose keys are ours: job ids, numbers of our own requests. One multiplication
/// spreads such numbers as well as any hash does. Not for keys that a peer chooses, who could make them collide.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread(u64);

/// What a `HashMap` takes to use [`Spread`].
pub type BuildSpread = BuildHasherDefault<Spread>;

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    // Which variant an enum is, among others.
    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        // 2⁶⁴ over the golden ratio (Knuth, The Art of Computer Programming, volume 3, section 6.4). The upper half is
        // folded onto the lower one, because tables use bits of both ends.
        let product = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_fall_apart_at_both_ends() {
        let mut low = [0u32; 64];
        let mut high = [0u32; 64];
        for number in 0..64 * 64u64 {
            let mut hasher = Spread::default();
            hasher.write_u64(number);
            low[(hasher.finish() % 64) as usize] += 1;
            high[(hasher.finish() >> 58) as usize] += 1;
        }
        for count in low.into_iter().chain(high) {
            assert!((32..=128).contains(&count), "{count} of 64 expected");
        }
    }
}
