// SPDX-License-Identifier: Apache-2.0
//! Handshakes that are begun and not ended: bounded in number, for each address and in all, and in
//! time, however the bytes trickle. Strangers need no certificate for this.

mod common;
#[path = "common/raw.rs"]
#[allow(dead_code, reason = "shared with peers that keep the rules")]
mod raw;
#[path = "common/scene.rs"]
#[allow(dead_code, reason = "shared with other attacks")]
mod scene;

use common::*;
use hbone_core::{Event, EventKind};
use hbone_proto::Reason;
use hbone_tls::{ExpectedPeers, Handshake};
use raw::{Client, dial_from};
use scene::{MALLORY, Scene};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

fn failed_with(reason: Reason) -> impl Fn(&Event) -> bool {
    move |event| event.kind == EventKind::HandshakeFailed && is_reason(event, reason)
}

fn failed(scene: &Scene, reason: Reason) -> u64 {
    let failed = scene.pair.server.stats().unwrap().handshakes_failed;
    failed.get(&reason.number()).copied().unwrap_or(0)
}

/// A ClientHello as our own client sends it.
fn hello(scene: &Scene) -> Vec<u8> {
    let svid = scene.pair.authority.svid(CLIENT_ID);
    let expected = ExpectedPeers::any_of([SERVER_ID.parse().unwrap()]);
    let mut hello = Vec::new();
    let mut handshake = Handshake::client(&svid, &expected).unwrap();
    handshake.step(&mut [], &mut hello).unwrap();
    hello
}

/// Reads to the end, however it comes; how long that took.
fn until_end(mut stream: TcpStream) -> Duration {
    let began = Instant::now();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    if let Err(error) = stream.read_to_end(&mut Vec::new()) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    began.elapsed()
}

/// One byte at a time is progress, but no reason to wait for longer.
#[test]
fn a_trickle_does_not_move_the_deadline() {
    let scene = Scene::with(|config| config.connect_timeout = Duration::from_secs(1));
    let wire = hello(&scene);
    let mut stream = dial_from(MALLORY, scene.pair.hbone).unwrap();
    stream.set_nodelay(true).unwrap();
    let began = Instant::now();
    let mut bytes = wire.iter();
    // The whole would take twenty times as long as a handshake may.
    while stream.write_all(&[*bytes.next().unwrap()]).is_ok() {
        assert!(
            began.elapsed() < PATIENCE,
            "still open after {:?}",
            began.elapsed()
        );
        thread::sleep(Duration::from_millis(100));
    }
    let event = wait_for(&scene.pair.server, failed_with(Reason::TlsHandshakeFailed));
    assert!(event.detail.contains("in time"), "{event:?}");
    scene.victim_is_well();
}

/// Half a handshake that is valid as far as it goes: our certificate has been sent, theirs never comes.
#[test]
fn whoever_stops_in_the_middle_is_shown_out_in_time() {
    let scene = Scene::with(|config| config.connect_timeout = Duration::from_secs(1));
    let mut stream = dial_from(MALLORY, scene.pair.hbone).unwrap();
    stream.write_all(&hello(&scene)).unwrap();
    assert!(until_end(stream) < Duration::from_secs(8));
    wait_for(&scene.pair.server, failed_with(Reason::TlsHandshakeFailed));
    scene.victim_is_well();
}

/// From many addresses, each within its own bound: the bound of all is reached, those beyond it are
/// refused with a reason, and who was there already is served. Then so many are shown out, earlier than
/// they would be on a quiet day, that newcomers are served again.
#[test]
fn strangers_from_everywhere_are_bounded_in_all() {
    const ADDRESSES: u8 = 12;
    const EACH: usize = 60;
    // Longer than the test: only the hurry ends them.
    let scene = Scene::with(|config| config.connect_timeout = Duration::from_secs(60));
    let mut silent = Vec::new();
    for address in 0..ADDRESSES {
        let from = IpAddr::V4(Ipv4Addr::new(127, 0, 5, 1 + address));
        for _ in 0..EACH {
            silent.push(dial_from(from, scene.pair.hbone).unwrap());
        }
    }
    // The 512 of MAX_HALF_OPEN, and the others refused.
    let beyond = (usize::from(ADDRESSES) * EACH - 512) as u64;
    eventually("those beyond the bound are refused", || {
        failed(&scene, Reason::ResourceLimit) >= beyond
    });
    assert_eq!(failed(&scene, Reason::ResourceLimit), beyond);
    scene.victim_is_well();
    eventually("half of them are shown out", || {
        failed(&scene, Reason::TlsHandshakeFailed) >= 256
    });
    let svid = scene.pair.authority.svid(CLIENT_ID);
    let mut newcomer = Client::connect_from(MALLORY, scene.pair.hbone, &svid);
    newcomer.open(scene.app());
    newcomer.send(&[]);
    newcomer.wait_status(200);
    scene.victim_is_well();
    drop(silent);
}

/// Connect, say hello, hang up, and again: what a handshake costs is gone with it.
#[test]
fn handshakes_that_are_hung_up_leave_nothing() {
    let scene = Scene::new();
    let wire = hello(&scene);
    const ROUNDS: u64 = 500;
    for round in 0..ROUNDS {
        let mut stream = dial_from(MALLORY, scene.pair.hbone).unwrap();
        stream.write_all(&wire).unwrap();
        if round % 2 == 0 {
            // By FIN after our flight; else by RST at once.
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            until_end(stream);
        }
        if round % 100 == 99 {
            scene.victim_is_well();
        }
    }
    eventually("every one was counted", || {
        failed(&scene, Reason::TlsHandshakeFailed) + failed(&scene, Reason::ResourceLimit) == ROUNDS
    });
    // None is still counted as half-open: as many as one address may have come in.
    let svid = scene.pair.authority.svid(CLIENT_ID);
    for _ in 0..64 {
        Client::connect_from(MALLORY, scene.pair.hbone, &svid);
    }
    scene.victim_is_well();
}
