// SPDX-License-Identifier: Apache-2.0
//! Peers with a valid certificate that attack: each ends itself, and the victim's connection, which
//! shares the worker with them, goes on.

mod common;
#[path = "common/raw.rs"]
#[allow(dead_code, reason = "shared with the orderly peer")]
mod raw;
#[path = "common/scene.rs"]
#[allow(dead_code, reason = "shared by the tests of attacks and of held bytes")]
mod scene;

use common::*;
use hbone_core::{Event, EventKind};
use hbone_proto::{ErrorCode, Reason};
use hbone_sys::socket;
use raw::{Client, dial_from, h2_frame};
use scene::{MALLORY, Scene, kind};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn rapid_reset() {
    let scene = Scene::new();
    let mut attacker = scene.attacker();
    for _ in 0..200 {
        let mut wire = Vec::new();
        for _ in 0..50 {
            let key = attacker.open(scene.app());
            wire.extend_from_slice(attacker.h2.control());
            attacker.h2.control_taken(attacker.h2.control().len());
            attacker.h2.reset(key, ErrorCode::CANCEL);
        }
        if !attacker.blurt(&wire) {
            break;
        }
    }
    attacker.wait_end();
    scene.wait_tunnel_closed(Reason::H2ProtocolError);
    scene.victim_is_well();
    assert!(scene.pair.server.stats().unwrap().connections <= 2);
}

#[test]
fn floods_of_pings_and_settings() {
    let scene = Scene::new();
    for frame in [
        h2_frame(kind::PING, 0, 0, b"flooding"),
        h2_frame(kind::SETTINGS, 0, 0, &[]),
    ] {
        let mut attacker = scene.attacker();
        attacker.send(&[]);
        let many = frame.repeat(900);
        while attacker.blurt(&many) {}
        scene.wait_tunnel_closed(Reason::H2ProtocolError);
        scene.victim_is_well();
    }
}

#[test]
fn requests_whose_answers_nobody_reads_are_bounded() {
    let scene = Scene::new();
    let svid = scene.pair.authority.svid(CLIENT_ID);
    let narrow = socket::tcp(scene.pair.hbone).unwrap();
    socket::set_receive_buffer(&narrow, 4096).unwrap();
    socket::start_connect(&narrow, scene.pair.hbone).unwrap();
    let narrow = TcpStream::from(narrow);
    narrow.set_nonblocking(false).unwrap();
    let mut attacker = Client::over(narrow, &svid);
    attacker.send(&[]);
    // Refused with 400, which costs us an answer each and no stream.
    let elsewhere = SocketAddr::new(MALLORY, 80);
    let mut closed = false;
    for _ in 0..20_000 {
        // Each refusal is an event; the queue must have room for the one that matters.
        closed |= scene.pair.server.drain_events().iter().any(|event| {
            event.kind == EventKind::TunnelClosed && is_reason(event, Reason::H2ProtocolError)
        });
        let mut wire = Vec::new();
        for _ in 0..50 {
            let key = attacker.open(elsewhere);
            wire.extend_from_slice(attacker.h2.control());
            attacker.h2.control_taken(attacker.h2.control().len());
            attacker.h2.reset(key, ErrorCode::CANCEL);
            attacker.h2.control_taken(attacker.h2.control().len());
        }
        if !attacker.blurt(&wire) {
            break;
        }
    }
    if !closed {
        scene.wait_tunnel_closed(Reason::H2ProtocolError);
    }
    scene.victim_is_well();
}

#[test]
fn windows_of_one_byte_and_windows_that_never_open() {
    let scene = Scene::new();
    let mut attacker = scene.attacker();
    // SETTINGS_INITIAL_WINDOW_SIZE = 1.
    let tiny = h2_frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]);
    attacker.send(&tiny);
    attacker.open(scene.app());
    attacker.send(&[]);
    let (mut app, _) = scene.pair.app.accept().unwrap();
    app.set_nonblocking(true).unwrap();
    while app.write(&[7; 65_536]).is_ok() {}
    attacker.wait_status(200);
    for _ in 0..50 {
        attacker.blurt(&h2_frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
    }
    thread::sleep(Duration::from_millis(200));
    scene.victim_is_well();
    let held = scene.pair.server.stats().unwrap().buffers_bytes;
    assert!(held < 4 << 20, "{held} bytes are held");
    // Too much credit at last.
    let overflow = h2_frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]);
    attacker.blurt(&overflow.repeat(2));
    assert_eq!(attacker.wait_end(), Some(ErrorCode::FLOW_CONTROL_ERROR));
    scene.wait_tunnel_closed(Reason::H2ProtocolError);
    scene.victim_is_well();
}

#[test]
fn garbage_after_the_handshake() {
    let scene = Scene::new();
    let mut sealed = scene.attacker();
    sealed.blurt(&noise(10_000, 5));
    sealed.wait_end();
    scene.wait_tunnel_closed(Reason::H2ProtocolError);
    let mut bare = scene.attacker();
    bare.send(&[]);
    bare.socket.write_all(&noise(10_000, 6)).unwrap();
    bare.wait_end();
    scene.wait_tunnel_closed(Reason::TlsProtocolError);
    scene.victim_is_well();
}

#[test]
fn headers_without_end_or_measure() {
    let scene = Scene::new();
    let mut endless = scene.attacker();
    endless.send(&h2_frame(kind::HEADERS, 0, 1, &[0x82; 100]));
    let more = h2_frame(kind::CONTINUATION, 0, 1, &[0x82; 100]);
    for _ in 0..40 {
        endless.blurt(&more);
    }
    endless.wait_end();
    scene.wait_tunnel_closed(Reason::H2ProtocolError);
    let mut large = scene.attacker();
    large.send(&h2_frame(kind::HEADERS, 0, 1, &[0x82; 16_000]));
    for _ in 0..5 {
        large.blurt(&h2_frame(kind::CONTINUATION, 0, 1, &[0x82; 16_000]));
    }
    large.wait_end();
    scene.wait_tunnel_closed(Reason::H2ProtocolError);
    scene.victim_is_well();
}

#[test]
fn slow_handshakes_are_bounded_in_number_for_each_address_and_in_time() {
    const TRIED: usize = 300;
    let scene = Scene::with(|config| config.connect_timeout = Duration::from_secs(2));
    let silent: Vec<_> = (0..TRIED)
        .map(|_| dial_from(MALLORY, scene.pair.hbone).unwrap())
        .collect();
    let refused = |event: &Event| {
        event.kind == EventKind::HandshakeFailed && is_reason(event, Reason::ResourceLimit)
    };
    wait_for(&scene.pair.server, refused);
    scene.victim_is_well();
    // Others still come in: a client whose first tunnel this is.
    let svid = scene.pair.authority.svid(CLIENT_ID);
    let mut other = Client::connect_from("127.0.0.8".parse().unwrap(), scene.pair.hbone, &svid);
    other.open(scene.app());
    other.send(&[]);
    other.wait_status(200);
    for mut stream in silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let failed = scene.pair.server.stats().unwrap().handshakes_failed;
    let by = |reason: Reason| failed.get(&reason.number()).copied().unwrap_or(0);
    assert_eq!(
        by(Reason::ResourceLimit) + by(Reason::TlsHandshakeFailed),
        TRIED as u64
    );
    assert!(by(Reason::TlsHandshakeFailed) <= 64, "{failed:?}");
}

#[test]
fn peers_that_never_read_starve_nobody() {
    // As many as there are buffers of unsent bytes in a worker, and some.
    const ATTACKERS: usize = 270;
    let scene = Scene::new();
    let svid = scene.pair.authority.svid(CLIENT_ID);
    let mut held = Vec::new();
    for _ in 0..ATTACKERS {
        let narrow = socket::tcp(scene.pair.hbone).unwrap();
        socket::set_receive_buffer(&narrow, 4096).unwrap();
        socket::bind_address(&narrow, MALLORY).unwrap();
        socket::start_connect(&narrow, scene.pair.hbone).unwrap();
        let narrow = TcpStream::from(narrow);
        narrow.set_nonblocking(false).unwrap();
        let mut attacker = Client::over(narrow, &svid);
        attacker.open(scene.app());
        attacker.send(&[]);
        let (mut app, _) = scene.pair.app.accept().unwrap();
        app.set_nonblocking(true).unwrap();
        held.push((attacker, app.try_clone().unwrap()));
        let until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < until {
            while app.write(&[7; 65_536]).is_ok() {}
            thread::sleep(Duration::from_millis(2));
        }
        scene.victim_is_well();
    }
    scene.newcomers_are_well();
    scene.victim_is_well();
}

#[test]
fn ten_thousand_streams_over_one_tunnel_leave_nothing() {
    const ROUNDS: usize = 100;
    let scene = Scene::new();
    let mut client = scene.attacker();
    let app = scene.pair.app.try_clone().unwrap();
    let serving = thread::spawn(move || {
        for _ in 0..ROUNDS * 100 {
            drop(app.accept().unwrap());
        }
    });
    for _ in 0..ROUNDS {
        let keys: Vec<_> = (0..100).map(|_| client.open(scene.app())).collect();
        client.send(&[]);
        for _ in &keys {
            client.wait_status(200);
        }
        let mut ends = Vec::new();
        for key in keys {
            // It may have ended both ways already.
            if let Ok(header) = client.h2.data_header(key, 0, true) {
                ends.extend_from_slice(&header);
            }
        }
        client.send(&ends);
        client.wait_idle();
    }
    serving.join().unwrap();
    eventually("only the victim is left", || {
        scene.pair.server.stats().unwrap().connections == 1
    });
    scene.victim_is_well();
}
