// SPDX-License-Identifier: Apache-2.0
//! Tunnels spread over the workers, and move between them while bytes flow.

mod common;
#[path = "common/many.rs"]
mod many;

use common::*;
use hbone_core::{Core, EventKind};
use hbone_proto::Reason;
use many::Many;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Moves need seconds of load, and the machine may be busy with other things.
const LONG: Duration = Duration::from_secs(60);

/// Sends noise in one direction and compares what arrives; FIN ends it.
fn exchange(from: &TcpStream, to: &TcpStream, length: usize, seed: u64) -> [JoinHandle<()>; 2] {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let (sent, expected) = (noise(length, seed), noise(length, seed));
    let writing = thread::spawn(move || {
        // Not at once: the connection shall live through many moves.
        for piece in sent.chunks(length / 50) {
            from.write_all(piece).unwrap();
            thread::sleep(Duration::from_millis(15));
        }
        from.shutdown(Shutdown::Write).unwrap();
    });
    let reading = thread::spawn(move || {
        let mut received = Vec::new();
        to.read_to_end(&mut received).unwrap();
        assert!(received == expected, "{} of {length} bytes", received.len());
    });
    [writing, reading]
}

#[test]
fn bytes_pass_unchanged_while_their_tunnels_move() {
    const LENGTH: usize = 6 << 20;
    let many = Many::new(2, 3, |_| {});
    let mut threads = Vec::new();
    for n in 0..9_u64 {
        // Three connections share each tunnel.
        let (near, far) = many.connect(n as usize % 3);
        threads.extend(exchange(&near, &far, LENGTH, 2 * n + 1));
        threads.extend(exchange(&far, &near, LENGTH / 4, 2 * n + 2));
    }
    let mut others = Vec::new();
    while threads.iter().any(|thread| !thread.is_finished()) {
        many.client.shuffle().unwrap();
        many.server.shuffle().unwrap();
        thread::sleep(Duration::from_millis(20));
        // New connections find the tunnel wherever it is; some end at once, some stay.
        let (mut near, mut far) = many.connect(others.len() % 3);
        near.write_all(b"ping").unwrap();
        far.read_exact(&mut [0; 4]).unwrap();
        if others.len() % 2 == 0 {
            near.shutdown(Shutdown::Write).unwrap();
            assert_eq!(far.read(&mut [0; 4]).unwrap(), 0);
        }
        others.push((near, far));
        assert!(others.len() < 1000, "it does not end");
    }
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    for core in [&many.client, &many.server] {
        let moved = core.stats().unwrap().tunnels_moved;
        assert!(moved >= 10, "{moved} moves");
    }
    drop(others);
    for core in [&many.client, &many.server] {
        eventually("all connections end", || {
            core.stats().unwrap().connections == 0
        });
        let closed = core.drain_events();
        let closed = closed
            .iter()
            .filter(|event| event.kind == EventKind::ConnectionClosed);
        assert!(closed.clone().all(|event| event.reason == 0));
        let counters = core.counters().unwrap();
        let told: u64 = closed
            .map(|event| event.bytes_sent + event.bytes_received)
            .sum();
        let counted: u64 = counters
            .values()
            .map(|c| c.bytes_sent + c.bytes_received)
            .sum();
        assert_eq!(told, counted);
        assert!(told >= 9 * (LENGTH as u64 + LENGTH as u64 / 4));
        let stats = core.stats().unwrap();
        assert_eq!(
            stats
                .shares
                .iter()
                .map(|share| share.tunnels)
                .sum::<usize>(),
            stats.tunnels
        );
    }
}

#[test]
fn a_drain_waits_for_tunnels_on_their_way() {
    let many = Many::new(3, 2, |_| {});
    let (mut near, mut far) = many.connect(0);
    let ending = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        near.write_all(b"last words").unwrap();
        drop(near);
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        text
    });
    for _ in 0..20 {
        many.client.shuffle().unwrap();
        many.server.shuffle().unwrap();
    }
    many.client.drain(PATIENCE).unwrap();
    assert_eq!(many.client.stats().unwrap().tunnels, 0);
    assert_eq!(ending.join().unwrap(), "last words");
    assert!(is_reason(&wait_closed(&many.client), Reason::None));
}

#[test]
fn a_peer_removed_while_its_tunnels_move_loses_them() {
    let many = Many::new(4, 1, |_| {});
    let (mut near, _far) = many.connect(0);
    for _ in 0..10 {
        many.client.shuffle().unwrap();
    }
    many.client.remove_peers(vec![SERVER]).unwrap();
    let error = near.read(&mut [0; 4]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    eventually("the tunnel is closed", || {
        many.client.stats().unwrap().tunnels == 0
    });
}

/// Load until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    ends: Vec<TcpStream>,
}

impl Load {
    fn new() -> Self {
        Self {
            stop: Arc::default(),
            threads: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn on(&mut self, (mut near, mut far): (TcpStream, TcpStream)) {
        self.ends.push(near.try_clone().unwrap());
        self.ends.push(far.try_clone().unwrap());
        let stop = self.stop.clone();
        self.threads.push(thread::spawn(move || {
            let block = vec![7; 64 * 1024];
            while !stop.load(Ordering::Relaxed) && near.write_all(&block).is_ok() {}
        }));
        self.threads.push(thread::spawn(move || {
            let mut block = vec![0; 64 * 1024];
            while far.read(&mut block).is_ok_and(|count| count > 0) {}
        }));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for end in &self.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn worker_of(core: &Core, many: &Many, n: usize) -> usize {
    let tunnels = core.tunnels().unwrap();
    let ours = |info: &&hbone_core::TunnelInfo| {
        info.remote.ip() == many.addresses[n] || info.local.ip() == many.addresses[n]
    };
    tunnels
        .iter()
        .find(ours)
        .expect("the tunnel is open")
        .worker
}

fn long_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < until, "it never happened that {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn new_tunnels_go_where_there_are_fewest_on_both_sides() {
    let many = Many::new(5, 12, |_| {});
    let _open: Vec<_> = (0..12).map(|n| many.connect(n)).collect();
    for core in [&many.client, &many.server] {
        let stats = core.stats().unwrap();
        let mut tunnels: Vec<usize> = stats.shares.iter().map(|share| share.tunnels).collect();
        tunnels.sort_unstable();
        assert_eq!(tunnels.iter().sum::<usize>(), 12);
        // Load of other things may shift a few.
        assert!(tunnels[0] >= 3, "{:?}", stats.shares);
    }
}

#[test]
fn heavy_tunnels_that_met_on_one_worker_part() {
    let many = Many::new(6, 8, |_| {});
    let open: Vec<_> = (0..8).map(|n| many.connect(n)).collect();
    let first = worker_of(&many.client, &many, 0);
    let mut load = Load::new();
    let mut heavy = Vec::new();
    for (n, ends) in open.iter().enumerate() {
        if worker_of(&many.client, &many, n) == first {
            let clone = (ends.0.try_clone().unwrap(), ends.1.try_clone().unwrap());
            load.on(clone);
            heavy.push(n);
        }
    }
    assert!(heavy.len() >= 2, "{heavy:?}");
    long_until("one of them moves", || {
        let workers = heavy.iter().map(|&n| worker_of(&many.client, &many, n));
        workers.collect::<HashSet<_>>().len() == 2
    });
    assert!(many.client.stats().unwrap().tunnels_moved > 0);
}

#[test]
fn a_key_that_saturates_its_worker_gets_another() {
    let many = Many::new(7, 1, |_| {});
    let mut load = Load::new();
    for _ in 0..6 {
        load.on(many.connect(0));
    }
    assert_eq!(many.client.stats().unwrap().spills, 0);
    let mut light = Vec::new();
    long_until("a new connection goes to another worker", || {
        light.push(many.connect(0));
        let tunnels = many.client.tunnels().unwrap();
        let workers: HashSet<_> = tunnels.iter().map(|tunnel| tunnel.worker).collect();
        workers.len() == 2
    });
    assert!(many.client.stats().unwrap().spills > 0);
    for (near, far) in &mut light {
        near.write_all(b"ping").unwrap();
        far.read_exact(&mut [0; 4]).unwrap();
    }
}
