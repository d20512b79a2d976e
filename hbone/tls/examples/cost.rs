// SPDX-License-Identifier: Apache-2.0
//! Prints what TLS costs on this machine: a record sealed and opened, a handshake by part.
//!
//! `cargo run --release -p hbone-tls --example cost`

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{CLIENT, Ca, SERVER, session_pair};
use hbone_tls::{ExpectedPeers, HEADER_LEN, Handshake, OVERHEAD, Svid};

const ROUNDS: u32 = 5;

fn main() {
    let ca = Ca::new("cluster.local");
    let (client, server) = (ca.svid(CLIENT), ca.svid(SERVER));
    for size in [64, 1500, 16384] {
        let (seal, open) = best((0..ROUNDS).map(|_| records(&client, &server, size)));
        println!("{size:6} B record: seal {seal:6.0} ns, open {open:6.0} ns");
    }
    let (ours, theirs) = best((0..ROUNDS).map(|_| handshakes(&client, &server, 300)));
    let rate = 1e6 / (ours + theirs);
    println!("handshake: client {ours:.0} us, server {theirs:.0} us; both {rate:.0}/s on one core");
    let setup = best((0..ROUNDS).map(|_| setup(&client, 1000)));
    println!(
        "of which preparing: client {:.2} us, server {:.2} us",
        setup.0, setup.1
    );
    let material = ca.issue(&[SERVER]);
    let began = Instant::now();
    for _ in 0..50 {
        material.svid(&ca.der);
    }
    println!(
        "an SVID made ready: {:.0} us",
        per(began.elapsed(), 50) / 1e3
    );
}

/// The lowest of each, as other work on the machine only ever adds.
fn best(runs: impl Iterator<Item = (f64, f64)>) -> (f64, f64) {
    runs.fold((f64::MAX, f64::MAX), |a, b| (a.0.min(b.0), a.1.min(b.1)))
}

fn per(elapsed: Duration, n: u32) -> f64 {
    elapsed.as_nanos() as f64 / f64::from(n)
}

/// Nanoseconds to seal and to open.
fn records(client: &Svid, server: &Svid, size: usize) -> (f64, f64) {
    const RECORDS: u32 = 5000;
    let (mut client, mut server) = session_pair(client, server);
    let mut record = vec![7; OVERHEAD + size];
    let (mut seal, mut open) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..RECORDS {
        let began = Instant::now();
        client.seal(&mut record).unwrap();
        let sealed = Instant::now();
        let header = record[..HEADER_LEN].try_into().unwrap();
        server.open(header, &mut record[HEADER_LEN..]).unwrap();
        open += sealed.elapsed();
        seal += sealed - began;
    }
    (per(seal, RECORDS), per(open, RECORDS))
}

/// Microseconds of each side.
fn handshakes(client: &Svid, server: &Svid, n: u32) -> (f64, f64) {
    let expected = ExpectedPeers::from(server.id().clone());
    let (mut ours, mut theirs) = (Duration::ZERO, Duration::ZERO);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..n {
        up.clear();
        down.clear();
        let t0 = Instant::now();
        let mut client = Handshake::client(client, &expected).unwrap();
        client.step(&mut [], &mut up).unwrap();
        let t1 = Instant::now();
        let mut server = Handshake::server(server).unwrap();
        let step = server.step(&mut up, &mut down).unwrap();
        up.drain(..step.consumed);
        let t2 = Instant::now();
        client.step(&mut down, &mut up).unwrap();
        client.finish().unwrap();
        let t3 = Instant::now();
        server.step(&mut up, &mut down).unwrap();
        server.finish().unwrap();
        theirs += t3.elapsed() + (t2 - t1);
        ours += (t1 - t0) + (t3 - t2);
    }
    (per(ours, n) / 1e3, per(theirs, n) / 1e3)
}

/// Microseconds to begin, without a single message read.
fn setup(svid: &Svid, n: u32) -> (f64, f64) {
    let expected = ExpectedPeers::from(svid.id().clone());
    let began = Instant::now();
    for _ in 0..n {
        std::hint::black_box(Handshake::client(svid, &expected).unwrap());
    }
    let client = began.elapsed();
    let began = Instant::now();
    for _ in 0..n {
        std::hint::black_box(Handshake::server(svid).unwrap());
    }
    (per(client, n) / 1e3, per(began.elapsed(), n) / 1e3)
}
