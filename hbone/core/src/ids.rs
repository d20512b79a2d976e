// SPDX-License-Identifier: Apache-2.0
//! Maps by numbers that the agent has chosen.
//!
//! The standard hasher guards against keys that an attacker makes collide, at 20 ns a look-up; a
//! connection makes a dozen. Workload and service ids come from the agent, never from a peer. Maps
//! by address stay with the standard hasher.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map whose key is made of ids.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Multiplies and folds each word: the high bits, which the table takes for its tags, and the low
/// ones, which it takes for the place, both depend on all of the key.
#[derive(Debug, Default, Clone, Copy)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        // The odd constant is 2^64 divided by the golden ratio (Knuth, TAOCP 3, 6.4).
        let product = u128::from(self.0.rotate_left(23) ^ word ^ SEED) * u128::from(SEED);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};

    fn hash(key: impl Hash) -> u64 {
        BuildHasherDefault::<IdHasher>::default().hash_one(key)
    }

    #[test]
    fn ids_in_a_row_spread_over_places_and_tags() {
        let hashes: Vec<u64> = (0..4096_u32).map(hash).collect();
        let distinct =
            |bits: &dyn Fn(&u64) -> u64| hashes.iter().map(bits).collect::<HashSet<_>>().len();
        // Random placement of 4096 keys leaves some 63 % of 4096 places taken.
        assert!(distinct(&|h| h & 4095) > 2000);
        assert_eq!(distinct(&|h| h >> 57), 128);
        assert_eq!(distinct(&|h| *h), 4096);
    }

    #[test]
    fn the_order_of_words_counts() {
        assert_ne!(hash((1_u32, 2_u32)), hash((2_u32, 1_u32)));
    }
}
