// SPDX-License-Identifier: Apache-2.0
//! Pods with many peers: pools have a cap, the longest idle tunnel goes, and each pod pays for itself.

mod common;
#[path = "common/many.rs"]
mod many;

use common::*;
use hbone_core::Direction;
use many::Many;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

const OTHER: u32 = 3;

fn ping((near, far): &mut (TcpStream, TcpStream)) {
    near.write_all(b"ping").unwrap();
    far.read_exact(&mut [0; 4]).unwrap();
}

/// Where the pod has tunnels to.
fn peers_of(many: &Many, workload: u32) -> HashSet<IpAddr> {
    let tunnels = many.client.tunnels().unwrap();
    let ours = tunnels
        .iter()
        .filter(|info| info.workload_id == workload && info.direction == Direction::Outbound);
    ours.map(|info| info.remote.ip()).collect()
}

fn in_use(many: &Many) -> usize {
    many.client.stats().unwrap().connections
}

/// A connection to each of them, one after the other; so the first tunnel is idle for longest.
fn visit(many: &Many, peers: std::ops::Range<usize>) {
    for n in peers {
        ping(&mut many.connect(n));
        eventually("the tunnel is idle", || in_use(many) <= 2);
    }
}

#[test]
fn a_pod_with_many_peers_keeps_the_latest_and_those_in_use() {
    const CAP: usize = 40;
    let many = Many::new(20, 300, |config| {
        config.workers = 1;
        config.pod_tunnels = CAP;
    });
    let mut kept = many.connect(0);
    let other = many.add_pod(OTHER);
    let mut others = many.connect_at(other, 1);
    visit(&many, 2..300);
    eventually("what was evicted has closed", || {
        many.client.stats().unwrap().tunnels == CAP + 1
    });
    let expected: HashSet<IpAddr> = (261..300).chain([0]).map(|n| many.addresses[n]).collect();
    assert_eq!(peers_of(&many, CLIENT), expected);
    assert_eq!(peers_of(&many, OTHER), [many.addresses[1]].into());
    let stats = many.client.stats().unwrap();
    assert_eq!(stats.tunnels_evicted as usize, 299 - CAP);
    assert_eq!((stats.tunnels_refused, stats.tunnels_opened), (0, 300));
    ping(&mut kept);
    ping(&mut others);
    // Evicted in order: the other side takes it for no fault.
    let closed = many.server.stats().unwrap().tunnels_closed;
    assert_eq!(
        closed.keys().copied().collect::<Vec<_>>(),
        [0],
        "{closed:?}"
    );
}

#[test]
fn an_idle_tunnel_of_another_pod_stays_however_busy_the_first() {
    let many = Many::new(21, 200, |config| config.pod_tunnels = 32);
    let other = many.add_pod(OTHER);
    for n in 0..5 {
        ping(&mut many.connect_at(other, n));
    }
    eventually("the other pod rests", || in_use(&many) == 0);
    let before = peers_of(&many, OTHER);
    assert_eq!(before.len(), 5);
    // More open at once than its share: allowed, while there are descriptors enough.
    let mut open: Vec<_> = (0..100).map(|n| many.connect(n)).collect();
    open.iter_mut().for_each(ping);
    assert_eq!(many.client.stats().unwrap().tunnels_refused, 0);
    drop(open);
    eventually("the pod rests", || in_use(&many) == 0);
    visit(&many, 100..200);
    // Each of the hundred dials cost it one of its own.
    eventually("there are no more than before", || {
        peers_of(&many, CLIENT).len() <= 100
    });
    assert_eq!(peers_of(&many, OTHER), before);
}

#[test]
fn a_peer_that_was_evicted_is_dialled_again() {
    let many = Many::new(22, 40, |config| {
        config.workers = 1;
        config.pod_tunnels = 16;
    });
    for _ in 0..3 {
        visit(&many, 0..40);
    }
    let stats = many.client.stats().unwrap();
    assert!(stats.tunnels <= 17, "{stats:?}");
    assert_eq!(
        stats.tunnels_opened, 120,
        "each had gone when its turn came"
    );
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(many.client.stats().unwrap().tunnels, 16);
}
