// SPDX-License-Identifier: Apache-2.0
//! Connections that must not come about: the application hears RST, the agent a reason.

mod common;

use common::*;
use hbone_core::EventKind;
use hbone_proto::Reason;
use hbone_sys::flow::FLOW_POISONED;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Dials, and asserts the reset and its reason in an event of this kind.
fn refused(pair: &Pair, kind: EventKind, reason: Reason) {
    // The reset may come so soon that connect() itself reports it.
    if let Ok(mut stream) = TcpStream::connect(pair.capture) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_reset(&mut stream);
    }
    let event = wait_for(&pair.client, |event| event.kind == kind);
    assert!(is_reason(&event, reason), "{event:?}");
}

#[test]
fn no_record_or_a_poisoned_one_is_never_guessed() {
    let pair = Pair::new();
    let mut record = record(pair.app.local_addr().unwrap(), SERVER);
    record.flags = FLOW_POISONED;
    pair.records.set(Some(record));
    refused(&pair, EventKind::CaptureRefused, Reason::FlowRecordPoisoned);
    pair.records.set(None);
    refused(&pair, EventKind::CaptureRefused, Reason::NoFlowRecord);
    let stats = pair.client.stats().unwrap();
    let counted: Vec<_> = stats.capture_refused.into_iter().collect();
    assert_eq!(counted, [(10, 1), (11, 1)]);
    assert_eq!(stats.tunnels_opened, 0);
}

#[test]
fn an_upstream_must_be_a_known_workload_at_its_own_address() {
    let pair = Pair::new();
    let app = pair.app.local_addr().unwrap();
    pair.records.set(Some(record(app, 99)));
    refused(&pair, EventKind::ConnectionClosed, Reason::UpstreamUnknown);
    pair.records.set(Some(record(
        SocketAddr::new("127.0.0.9".parse().unwrap(), 80),
        SERVER,
    )));
    refused(&pair, EventKind::ConnectionClosed, Reason::UpstreamUnknown);
}

#[test]
fn an_application_that_refuses_is_503() {
    let pair = Pair::new();
    let free = TcpListener::bind(SocketAddr::new(SERVER_IP, 0)).unwrap();
    let closed = free.local_addr().unwrap();
    drop(free);
    pair.records.set(Some(record(closed, SERVER)));
    refused(
        &pair,
        EventKind::ConnectionClosed,
        Reason::ConnectUnavailable,
    );
    assert!(is_reason(
        &wait_closed(&pair.server),
        Reason::AppConnectFailed
    ));
    // The tunnel lives on.
    pair.records
        .set(Some(record(pair.app.local_addr().unwrap(), SERVER)));
    drop(pair.connect());
    assert_eq!(pair.client.stats().unwrap().tunnels_opened, 1);
}

#[test]
fn a_tunnel_does_not_end_at_the_hbone_port() {
    let pair = Pair::new();
    pair.records.set(Some(record(pair.hbone, SERVER)));
    refused(
        &pair,
        EventKind::ConnectionClosed,
        Reason::ConnectBadRequest,
    );
    assert!(is_reason(&wait_closed(&pair.server), Reason::BadAuthority));
}

#[test]
fn whoever_proves_another_identity_gets_nothing() {
    let pair = Pair::new();
    pair.client
        .put_peers(vec![peer(SERVER, SERVER_IP, CLIENT_ID)])
        .unwrap();
    refused(
        &pair,
        EventKind::ConnectionClosed,
        Reason::PeerIdentityMismatch,
    );
    let stats = pair.client.stats().unwrap();
    assert_eq!(
        stats
            .handshakes_failed
            .get(&Reason::PeerIdentityMismatch.number()),
        Some(&1)
    );
    let failed = |event: &hbone_core::Event| event.kind == EventKind::HandshakeFailed;
    assert!(is_reason(
        &wait_for(&pair.server, failed),
        Reason::TlsHandshakeFailed
    ));
}

#[test]
fn a_certificate_is_worth_nothing_at_another_pods_address() {
    let pair = Pair::new();
    pair.server
        .put_peers(vec![peer(
            CLIENT,
            CLIENT_IP,
            "spiffe://cluster.local/ns/shop/sa/else",
        )])
        .unwrap();
    refused(&pair, EventKind::ConnectionClosed, Reason::ConnectDenied);
    let closed = wait_for(&pair.server, |event| {
        event.kind == EventKind::ConnectionClosed
    });
    assert!(
        is_reason(&closed, Reason::PeerIdentityMismatch),
        "{closed:?}"
    );
}

#[test]
fn a_foreign_authority_is_not_trusted() {
    let pair = Pair::new();
    pair.server
        .put_svid(SERVER_ID, &Authority::new().svid(SERVER_ID))
        .unwrap();
    refused(
        &pair,
        EventKind::ConnectionClosed,
        Reason::TlsHandshakeFailed,
    );
}

#[test]
fn without_an_svid_nothing_is_dialled() {
    let pair = Pair::new();
    pair.client.remove_svid(CLIENT_ID).unwrap();
    refused(&pair, EventKind::ConnectionClosed, Reason::NoSvid);
    pair.client
        .put_svid(CLIENT_ID, &pair.authority.svid(CLIENT_ID))
        .unwrap();
    drop(pair.connect());
}

#[test]
fn a_silent_hbone_port_is_given_up_in_time() {
    let pair = Pair::with(|config| config.connect_timeout = Duration::from_millis(300));
    // Takes the TCP connection and says nothing.
    let at: SocketAddr = SocketAddr::new("127.0.0.3".parse().unwrap(), pair.hbone.port());
    let silent = TcpListener::bind(at).unwrap();
    pair.client
        .put_peers(vec![peer(3, at.ip(), SERVER_ID)])
        .unwrap();
    pair.records
        .set(Some(record(SocketAddr::new(at.ip(), 80), 3)));
    refused(
        &pair,
        EventKind::ConnectionClosed,
        Reason::TlsHandshakeFailed,
    );
    drop(silent);
    refused(
        &pair,
        EventKind::ConnectionClosed,
        Reason::UpstreamConnectFailed,
    );
}

#[test]
fn strangers_at_the_hbone_port_are_shown_out() {
    let pair = Pair::with(|config| config.connect_timeout = Duration::from_millis(300));
    let mut plain = TcpStream::connect(pair.hbone).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let silent = TcpStream::connect(pair.hbone).unwrap();
    for mut stranger in [plain, silent] {
        stranger.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        // An alert, then the end or a reset; never a wait.
        if let Err(error) = stranger.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
    }
    let failed = &pair.server.stats().unwrap().handshakes_failed;
    assert_eq!(failed.get(&Reason::TlsHandshakeFailed.number()), Some(&2));
}

#[test]
fn a_server_that_refuses_our_certificate_is_a_failed_handshake() {
    let pair = Pair::new();
    let foreign = Authority::new().svid_that_also_trusts(CLIENT_ID, &[&pair.authority]);
    pair.client.put_svid(CLIENT_ID, &foreign).unwrap();
    for _ in 0..20 {
        refused(
            &pair,
            EventKind::ConnectionClosed,
            Reason::TlsHandshakeFailed,
        );
    }
    let failed = pair.client.stats().unwrap().handshakes_failed;
    assert!(
        failed.get(&Reason::TlsHandshakeFailed.number()) >= Some(&1),
        "{failed:?}"
    );
}

#[test]
fn a_peer_that_hangs_up_is_told_from_one_that_refuses() {
    let pair = Pair::new();
    let at: SocketAddr = SocketAddr::new("127.0.0.4".parse().unwrap(), pair.hbone.port());
    let listener = TcpListener::bind(at).unwrap();
    let hangs_up = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 4096];
        assert_ne!(stream.read(&mut hello).unwrap(), 0);
    });
    pair.client
        .put_peers(vec![peer(3, at.ip(), SERVER_ID)])
        .unwrap();
    pair.records
        .set(Some(record(SocketAddr::new(at.ip(), 80), 3)));
    let mut near = pair.dial();
    assert_reset(&mut near);
    hangs_up.join().unwrap();
    let event = wait_for(&pair.client, |event| {
        event.kind == EventKind::HandshakeFailed
    });
    assert!(
        event.detail.contains("closed the connection in the middle"),
        "{event:?}"
    );
}

#[test]
fn an_application_that_hangs_up_at_once_was_there() {
    let pair = Pair::new();
    let app = pair.app.try_clone().unwrap();
    let resets = std::thread::spawn(move || {
        for _ in 0..50 {
            hbone_sys::socket::set_abort_on_close(app.accept().unwrap().0);
        }
    });
    for _ in 0..50 {
        refused(&pair, EventKind::ConnectionClosed, Reason::StreamReset);
    }
    resets.join().unwrap();
}

/// Passes bytes on after a while, as a slow network would.
fn slow_way(at: SocketAddr, to: SocketAddr, delay: Duration) {
    let listener = TcpListener::bind(at).unwrap();
    std::thread::spawn(move || {
        while let Ok((here, _)) = listener.accept() {
            std::thread::sleep(delay);
            let there = TcpStream::connect(to).unwrap();
            let copy = |mut from: TcpStream, mut into: TcpStream| {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut into);
                    let _ = into.shutdown(std::net::Shutdown::Write);
                });
            };
            copy(here.try_clone().unwrap(), there.try_clone().unwrap());
            copy(there, here);
        }
    });
}

#[test]
fn nobody_waits_for_a_peer_that_moved_while_it_was_dialled() {
    // More than one tunnel takes.
    const WAITING: usize = 130;
    let pair = Pair::new();
    let at: SocketAddr = SocketAddr::new("127.0.0.5".parse().unwrap(), pair.hbone.port());
    slow_way(at, pair.hbone, Duration::from_millis(400));
    pair.client
        .put_peers(vec![peer(3, at.ip(), SERVER_ID)])
        .unwrap();
    pair.records
        .set(Some(record(SocketAddr::new(at.ip(), 80), 3)));
    let waiting: Vec<TcpStream> = (0..WAITING).map(|_| pair.dial()).collect();
    eventually("all have been accepted", || {
        pair.client.stats().unwrap().connections == WAITING
    });
    pair.client
        .put_peers(vec![peer(3, "127.0.0.6".parse().unwrap(), CLIENT_ID)])
        .unwrap();
    for mut near in waiting {
        assert_reset(&mut near);
    }
    assert_eq!(pair.client.stats().unwrap().connections, 0);
}
