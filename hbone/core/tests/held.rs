// SPDX-License-Identifier: Apache-2.0
//! Bytes that applications have not taken yet: delivered whole where they came whole, bounded over all.

mod common;
#[path = "common/raw.rs"]
#[allow(dead_code, reason = "shared with the orderly peer")]
mod raw;
#[path = "common/scene.rs"]
#[allow(dead_code, reason = "shared by the tests of attacks and of held bytes")]
mod scene;

use common::*;
use hbone_core::EventKind;
use hbone_proto::{ErrorCode, Reason, StreamKey};
use hbone_sys::socket;
use raw::{Client, h2_frame};
use scene::{Scene, kind};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// A stream of the attacker's, and the application's end of it; not answered yet.
fn open(scene: &Scene, client: &mut Client) -> (StreamKey, TcpStream) {
    let key = client.open(scene.app());
    client.send(&[]);
    let (app, _) = scene.pair.app.accept().unwrap();
    app.set_read_timeout(Some(PATIENCE)).unwrap();
    (key, app)
}

/// All of it, and the end of the stream in order.
fn send_whole(client: &mut Client, key: StreamKey, bytes: &[u8]) {
    let mut pieces = bytes.chunks(16_000).peekable();
    while let Some(piece) = pieces.next() {
        let frame = client.frame(key, piece, pieces.peek().is_none());
        client.send(&frame);
    }
}

#[test]
fn what_came_whole_is_delivered_whole_despite_a_reset() {
    const LENGTH: usize = 3 << 20;
    let scene = Scene::new();
    let mut client = scene.attacker();
    let (key, mut app) = open(&scene, &mut client);
    // Nobody will take this; it must not keep the rest from the application either.
    app.write_all(&[1; 1000]).unwrap();
    client.wait_status(200);
    let sent = noise(LENGTH, 8);
    send_whole(&mut client, key, &sent);
    let code = ErrorCode::CONNECT_ERROR.0.to_be_bytes();
    client.blurt(&h2_frame(kind::RST_STREAM, 0, 1, &code));
    thread::sleep(Duration::from_millis(300));
    app.write_all(&[1; 1000]).unwrap();
    let mut received = Vec::new();
    app.read_to_end(&mut received).unwrap();
    assert!(received == sent, "{} of {LENGTH} bytes", received.len());
    drop(app);
    let closed = wait_for(&scene.pair.server, |event| {
        event.kind == EventKind::ConnectionClosed
    });
    assert!(is_reason(&closed, Reason::StreamReset), "{closed:?}");
    scene.victim_is_well();
}

#[test]
fn a_tunnel_that_breaks_does_not_take_back_what_came_whole() {
    const LENGTH: usize = 3 << 20;
    let scene = Scene::new();
    let mut client = scene.attacker();
    let (key, mut app) = open(&scene, &mut client);
    client.wait_status(200);
    let sent = noise(LENGTH, 9);
    send_whole(&mut client, key, &sent);
    eventually("all has come", || {
        let open = scene.pair.server.connections().unwrap();
        open.iter().any(|c| c.bytes_received == LENGTH as u64)
    });
    drop(client);
    scene.wait_tunnel_closed(Reason::TunnelLost);
    let mut received = Vec::new();
    app.read_to_end(&mut received).unwrap();
    assert!(received == sent, "{} of {LENGTH} bytes", received.len());
}

#[test]
fn bytes_before_a_reset_reach_the_application() {
    let scene = Scene::new();
    let mut client = scene.attacker();
    let (key, mut app) = open(&scene, &mut client);
    client.wait_status(200);
    let mut wire = client.frame(key, b"last words", false);
    let code = ErrorCode::CONNECT_ERROR.0.to_be_bytes();
    wire.extend(h2_frame(kind::RST_STREAM, 0, 1, &code));
    client.blurt(&wire);
    let mut words = [0; 10];
    app.read_exact(&mut words).unwrap();
    assert_eq!(&words, b"last words");
    assert_reset(&mut app);
}

#[test]
fn held_bytes_are_bounded_over_all_and_the_one_who_holds_most_pays() {
    // Each stream brings 4 MiB that its application does not take.
    const STREAMS: usize = 100;
    const LIMIT: usize = 64 << 20;
    let scene = Scene::with(|config| config.pending_limit = LIMIT);
    socket::set_receive_buffer(&scene.pair.app, 4096).unwrap();
    let block = [7; 16_000];
    let (mut held, mut attackers) = (Vec::new(), Vec::new());
    for _ in 0..STREAMS / 4 {
        let mut client = scene.attacker();
        let keys: Vec<_> = (0..4).map(|_| client.open(scene.app())).collect();
        client.send(&[]);
        for _ in &keys {
            held.push(scene.pair.app.accept().map(|(app, _)| app).unwrap());
            client.wait_status(200);
        }
        for key in keys {
            loop {
                let room = client.h2.capacity(key).min(block.len());
                if room == 0 {
                    break;
                }
                let frame = client.frame(key, &block[..room], false);
                client.send(&frame);
            }
        }
        scene.victim_is_well();
        attackers.push(client);
    }
    eventually("streams were given up", || {
        let stats = scene.pair.server.stats().unwrap();
        assert!(stats.buffers_bytes < LIMIT + (8 << 20), "{stats:?}");
        stats.connections < STREAMS
    });
    scene.victim_is_well();
    scene.newcomers_are_well();
}
