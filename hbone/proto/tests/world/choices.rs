// SPDX-License-Identifier: Apache-2.0
//! Where decisions come from: a seeded generator in the simulation, an input in the fuzz target.

/// A source of decisions.
pub trait Choices {
    /// A number below `n` (which is not 0).
    fn below(&mut self, n: u64) -> u64;

    /// True in one of `n` cases.
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }

    /// A size: mostly small, sometimes as large as `most`.
    fn size(&mut self, most: u64) -> usize {
        let most = match self.below(4) {
            0 => 16,
            1 => 2000,
            _ => most,
        };
        1 + self.below(most) as usize
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers from the same seed, for ever.
#[derive(Debug, Clone)]
pub struct Seeded(pub u64);

impl Choices for Seeded {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}
