// SPDX-License-Identifier: Apache-2.0
//! Sequences of operations of two connections: open, answer, write, end, read, set aside, reset,
//! deliver in pieces, wait, freeze the network, drain, lose the connection.
//!
//! The world, its referee and its invariants are those of the simulation in hbone-proto's tests;
//! here the input decides instead of a seed, so coverage leads it.
#![no_main]

#[path = "../../proto/tests/world/mod.rs"]
mod world;

use hbone_fuzz::Input;
use libfuzzer_sys::fuzz_target;
use world::World;
use world::choices::{Choices, Seeded};

struct FromInput<'a>(Input<'a>);

impl Choices for FromInput<'_> {
    fn below(&mut self, n: u64) -> u64 {
        let value = match n {
            1 => 0,
            2..=256 => u64::from(self.0.byte()),
            257..=65_536 => u64::from(self.0.word()),
            _ => u64::from(self.0.word()) << 16 | u64::from(self.0.word()),
        };
        value % n
    }

    /// Smaller than the simulation's: what counts here is how many sequences are tried.
    fn size(&mut self, most: u64) -> usize {
        let most = [16, 300, 3000, most / 8][self.below(4) as usize];
        1 + self.below(most.max(1)) as usize
    }
}

fuzz_target!(|data: &[u8]| {
    let mut choices = FromInput(Input(data));
    let mut world = World::new(&mut choices);
    while !choices.0.is_empty() {
        world.step(&mut choices);
    }
    world.finish(&mut Seeded(0));
});
