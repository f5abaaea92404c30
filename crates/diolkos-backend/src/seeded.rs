// SPDX-License-Identifier: Apache-2.0
//! A tiny seeded generator, so that what the suite and the fault plans do can be replayed from one number.
//!
//! SplitMix64 (Steele, Lea and Flood, 2014): statistically good enough for test data, never for secrets.

/// The step of SplitMix64's counter, the golden ratio in 64 bits.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Number `index` of the sequence that `seed` begins.
pub(crate) fn at(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(GAMMA));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The sequence, number by number.
#[derive(Clone, Debug)]
pub struct Seeded {
    seed: u64,
    index: u64,
}

impl Seeded {
    /// The sequence that `seed` begins.
    #[must_use]
    pub fn new(seed: u64) -> Seeded {
        Seeded { seed, index: 0 }
    }

    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> u64 {
        let number = at(self.seed, self.index);
        self.index = self.index.wrapping_add(1);
        number
    }

    /// A number below `bound`, or 0 if there is none. The bias of the remainder does not matter here.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let number = self.next();
        number.checked_rem(bound as u64).unwrap_or(0) as usize
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_published_sequence_and_replays() {
        // The first outputs of the reference implementation for seed 1234567.
        let mut numbers = Seeded::new(1_234_567);
        assert_eq!(numbers.next(), 6_457_827_717_110_365_317);
        assert_eq!(numbers.next(), 3_203_168_211_198_807_973);
        assert_eq!(at(1_234_567, 1), 3_203_168_211_198_807_973);
        assert_eq!(Seeded::new(1).below(0), 0);
        assert!((0..100).all(|_| numbers.below(3) < 3));
    }
}
