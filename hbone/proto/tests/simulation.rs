// SPDX-License-Identifier: Apache-2.0
//! Two connections and a hostile network, seeded.
//!
//! `HBONE_SIM_SEEDS=5000 cargo test -p hbone-proto --test simulation` runs more seeds;
//! `HBONE_SIM_SEED=17` runs one again, with its panic.

mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::choices::{Choices, Seeded};
use world::{Tally, World};

/// Seeds of a plain `cargo test`: some seconds.
const SEEDS: u64 = 64;
const STEPS: u64 = 1500;

fn run(seed: u64) -> Tally {
    let mut choices = Seeded(seed);
    let mut world = World::new(&mut choices);
    for _ in 0..STEPS {
        world.step(&mut choices);
        if choices.one_in(400) {
            world.settle(&mut choices);
        }
    }
    world.finish(&mut choices);
    world.tally
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

#[test]
fn any_network_leaves_both_sides_in_agreement() {
    if let Some(seed) = number("HBONE_SIM_SEED") {
        println!("seed {seed}: {:?}", run(seed));
        return;
    }
    let mut sum = Tally::default();
    for seed in 0..number("HBONE_SIM_SEEDS").unwrap_or(SEEDS) {
        let Ok(tally) = catch_unwind(AssertUnwindSafe(|| run(seed))) else {
            panic!("seed {seed} failed, see above; again by HBONE_SIM_SEED={seed}");
        };
        sum.connections += tally.connections;
        sum.streams += tally.streams;
        sum.bytes += tally.bytes;
        sum.lost += tally.lost;
        sum.drained += tally.drained;
        sum.keepalive_timeouts += tally.keepalive_timeouts;
        sum.stalls += tally.stalls;
    }
    println!("{sum:?}");
    let rare = [
        sum.streams,
        sum.bytes,
        sum.lost,
        sum.drained,
        sum.keepalive_timeouts,
        sum.stalls,
    ];
    assert!(
        rare.iter().all(|&count| count > 0),
        "something never happened: {sum:?}"
    );
}

#[test]
fn a_seed_is_a_story_that_repeats() {
    assert_eq!(run(1), run(1));
}
