// SPDX-License-Identifier: Apache-2.0
//! What an idle tunnel costs, and that a pod with thousands of peers stays within its cap.
//!
//!     cargo run --release -p hbone-core --example idle -- PEERS POD_TUNNELS
//!
//! Each peer has a loopback address and so a tunnel of its own; a connection opens it, carries bytes
//! both ways and ends. Prints tunnels and private dirty memory of the process, which holds both ends
//! of each, before and after. A second round over the same peers shows whether anything grows.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/many.rs"]
mod many;

use many::Many;
use std::io::{Read, Write};
use std::time::Duration;

fn main() {
    let argument = |place, default| {
        let given = std::env::args().nth(place);
        given.map_or(default, |text| text.parse().expect("a number"))
    };
    let (peers, cap) = (argument(1, 5000), argument(2, 500));
    let many = Many::new(200, peers, |config| config.pod_tunnels = cap);
    visit(&many, 0..10);
    let (before, tunnels) = (private_dirty(), count(&many));
    for round in 1..=2 {
        visit(&many, 0..peers);
        std::thread::sleep(Duration::from_millis(600));
        let (dirty, now) = (private_dirty(), count(&many));
        let stats = many.client.stats().unwrap();
        println!(
            "round {round}: {peers} peers, cap {cap}: {now} tunnels, {} evicted, {} refused; {dirty} KB, {:.1} KB a tunnel (both ends)",
            stats.tunnels_evicted,
            stats.tunnels_refused,
            (dirty as f64 - before as f64) / (now - tunnels).max(1) as f64,
        );
    }
}

fn visit(many: &Many, peers: std::ops::Range<usize>) {
    for n in peers {
        let (mut near, mut far) = many.connect(n);
        near.write_all(&[1; 1000]).unwrap();
        far.read_exact(&mut [0; 1000]).unwrap();
        far.write_all(&[2; 1000]).unwrap();
        near.read_exact(&mut [0; 1000]).unwrap();
        drop(many.client.drain_events());
        drop(many.server.drain_events());
    }
}

fn count(many: &Many) -> usize {
    many.client.stats().unwrap().tunnels
}

/// In KiB (proc(5), smaps_rollup).
fn private_dirty() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("Private_Dirty:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}
