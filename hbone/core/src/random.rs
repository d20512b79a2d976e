// SPDX-License-Identifier: Apache-2.0
//! Numbers for trace ids: unlikely to repeat, nothing that must stay secret.

use std::hash::{BuildHasher, RandomState};

/// SplitMix64 (Steele, Lea, Flood 2014), seeded by the system through the standard hasher.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Self(RandomState::new().hash_one(std::thread::current().id()))
    }

    /// Never zero: W3C Trace Context forbids it.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).max(1)
    }
}
