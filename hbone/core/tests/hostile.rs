// SPDX-License-Identifier: Apache-2.0
//! Peers with a valid certificate that attack: each ends itself, and the victim's connection, which
//! shares the worker with them, goes on.

mod common;
#[path = "common/raw.rs"]
#[allow(dead_code, reason = "shared with the orderly peer")]
mod raw;

use common::*;
use hbone_core::{Event, EventKind};
use hbone_proto::{ErrorCode, Reason};
use hbone_sys::socket;
use raw::{Client, dial_from, h2_frame};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Where attackers come from.
const MALLORY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

mod kind {
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// A pair with one worker each, so that nobody is spared by chance, and a connection to watch.
struct Scene {
    pair: Pair,
    victim: (TcpStream, TcpStream),
}

impl Scene {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl Fn(&mut hbone_core::Config)) -> Self {
        let pair = Pair::with(|config| {
            config.workers = 1;
            change(config);
        });
        let victim = pair.connect();
        let scene = Self { pair, victim };
        scene.victim_is_well();
        scene
    }

    fn attacker(&self) -> Client {
        let svid = self.pair.authority.svid(CLIENT_ID);
        Client::connect_from(MALLORY, self.pair.hbone, &svid)
    }

    fn app(&self) -> SocketAddr {
        self.pair.app.local_addr().unwrap()
    }

    /// Bytes still pass both ways, and soon.
    fn victim_is_well(&self) {
        let (mut near, mut far) = (&self.victim.0, &self.victim.1);
        let (began, mut block) = (Instant::now(), [0; 64]);
        near.write_all(&[1; 64]).unwrap();
        far.read_exact(&mut block).unwrap();
        far.write_all(&block).unwrap();
        near.read_exact(&mut block).unwrap();
        let took = began.elapsed();
        assert!(took < Duration::from_secs(1), "the victim waited {took:?}");
    }

    /// A new connection of the victim's pod comes through as well.
    fn newcomers_are_well(&self) {
        let (mut near, mut far) = self.pair.connect();
        near.write_all(b"hello").unwrap();
        far.read_exact(&mut [0; 5]).unwrap();
    }

    fn wait_tunnel_closed(&self, reason: Reason) -> Event {
        wait_for(&self.pair.server, |event| {
            event.kind == EventKind::TunnelClosed && is_reason(event, reason)
        })
    }
}

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
    scene.wait_tunnel_closed(Reason::TunnelLost);
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

#[test]
fn what_came_whole_is_delivered_whole_despite_a_reset() {
    const LENGTH: usize = 3 << 20;
    let scene = Scene::new();
    let mut client = scene.attacker();
    let key = client.open(scene.app());
    client.send(&[]);
    let (mut app, _) = scene.pair.app.accept().unwrap();
    app.set_read_timeout(Some(PATIENCE)).unwrap();
    // Nobody will take this; it must not keep the rest from the application either.
    app.write_all(&[1; 1000]).unwrap();
    client.wait_status(200);
    let sent = noise(LENGTH, 8);
    let mut pieces = sent.chunks(16_000).peekable();
    while let Some(piece) = pieces.next() {
        let frame = client.frame(key, piece, pieces.peek().is_none());
        client.send(&frame);
    }
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
    let key = client.open(scene.app());
    client.send(&[]);
    let (mut app, _) = scene.pair.app.accept().unwrap();
    app.set_read_timeout(Some(PATIENCE)).unwrap();
    client.wait_status(200);
    let sent = noise(LENGTH, 9);
    let mut pieces = sent.chunks(16_000).peekable();
    while let Some(piece) = pieces.next() {
        let frame = client.frame(key, piece, pieces.peek().is_none());
        client.send(&frame);
    }
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
    let key = client.open(scene.app());
    client.send(&[]);
    let (mut app, _) = scene.pair.app.accept().unwrap();
    app.set_read_timeout(Some(PATIENCE)).unwrap();
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
