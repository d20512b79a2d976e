// SPDX-License-Identifier: Apache-2.0
//! Tunnels, certificates, workloads and the core itself come and go.

mod common;

use common::*;
use hbone_core::{Config, Core, EventKind, Listeners};
use hbone_proto::Reason;
use hbone_sys::flow::{FlowKey, FlowRecord, FlowRecords};
use hbone_sys::socket;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn echoes(near: &mut TcpStream, far: &mut TcpStream) {
    let mut byte = [0];
    near.write_all(b"?").unwrap();
    far.read_exact(&mut byte).unwrap();
    far.write_all(b"!").unwrap();
    near.read_exact(&mut byte).unwrap();
}

#[test]
fn a_lost_tunnel_resets_its_connections_at_once() {
    let pair = Pair::new();
    let (mut near, far) = pair.connect();
    let began = Instant::now();
    pair.server.stop();
    assert_reset(&mut near);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(is_reason(&wait_closed(&pair.client), Reason::TunnelLost));
    drop(far);
}

#[test]
fn a_new_svid_is_for_new_handshakes_only() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.connect();
    pair.client
        .put_svid(CLIENT_ID, &pair.authority.svid(CLIENT_ID))
        .unwrap();
    pair.server
        .put_svid(SERVER_ID, &pair.authority.svid(SERVER_ID))
        .unwrap();
    echoes(&mut near, &mut far);
    drop(pair.connect());
    assert_eq!(pair.client.stats().unwrap().handshakes, 1);
}

#[test]
fn a_peer_with_new_identities_gets_a_new_tunnel() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.connect();
    let mut both = peer(SERVER, SERVER_IP, SERVER_ID);
    let ids = [SERVER_ID, CLIENT_ID].map(|id| id.parse().unwrap());
    both.expected = hbone_tls::ExpectedPeers::any_of(ids);
    pair.client.put_peers(vec![both.clone()]).unwrap();
    echoes(&mut near, &mut far);
    let (mut other_near, mut other_far) = pair.connect();
    echoes(&mut other_near, &mut other_far);
    assert_eq!(pair.client.stats().unwrap().handshakes, 2);
    // The same again changes nothing.
    pair.client.put_peers(vec![both]).unwrap();
    drop(pair.connect());
    assert_eq!(pair.client.stats().unwrap().handshakes, 2);
    drop((near, far));
    eventually("the old tunnel closes after its last stream", || {
        pair.client.tunnels().unwrap().len() == 1
    });
}

#[test]
fn a_removed_peer_is_cut_off() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.connect();
    // Answered: a request without an answer would look for another tunnel, and find no peer.
    echoes(&mut near, &mut far);
    pair.client.remove_peers(vec![SERVER]).unwrap();
    assert_reset(&mut near);
    assert!(is_reason(&wait_closed(&pair.client), Reason::TunnelLost));
    assert_reset(&mut pair.dial());
    assert!(is_reason(
        &wait_closed(&pair.client),
        Reason::UpstreamUnknown
    ));
}

#[test]
fn an_idle_tunnel_is_released() {
    let pair = Pair::with(|config| config.pool_idle = Duration::from_millis(300));
    drop(pair.connect());
    eventually("the tunnel is gone at both ends", || {
        pair.client.tunnels().unwrap().is_empty() && pair.server.tunnels().unwrap().is_empty()
    });
    let (mut near, mut far) = pair.connect();
    echoes(&mut near, &mut far);
}

#[test]
fn a_removed_workload_drains_until_its_deadline() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.connect();
    let (mut late, _far) = pair.connect();
    pair.server
        .remove_workload(SERVER, Duration::from_millis(500))
        .unwrap();
    let began = Instant::now();
    echoes(&mut near, &mut far);
    drop((near, far));
    assert!(is_reason(&wait_closed(&pair.client), Reason::None));
    assert_reset(&mut late);
    assert!(began.elapsed() > Duration::from_millis(450));
    let closed = |event: &hbone_core::Event| event.kind == EventKind::TunnelClosed;
    assert!(is_reason(&wait_for(&pair.server, closed), Reason::Draining));
}

#[test]
fn drain_waits_for_what_is_open_and_takes_nothing_new() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.connect();
    let finishing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(400));
        echoes(&mut near, &mut far);
    });
    let began = Instant::now();
    pair.client.drain(PATIENCE).unwrap();
    let took = began.elapsed();
    finishing.join().unwrap();
    assert!(
        took > Duration::from_millis(390) && took < Duration::from_secs(5),
        "{took:?}"
    );
    assert!(is_reason(&wait_closed(&pair.client), Reason::None));
    assert!(pair.client.tunnels().unwrap().is_empty());
}

#[test]
fn who_comes_during_a_drain_is_refused_at_once_at_both_ends() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.connect();
    std::thread::scope(|scope| {
        scope.spawn(|| pair.client.drain(PATIENCE).unwrap());
        eventually("the client drains", || {
            // One that came before the drain hears nothing: its application says nothing.
            let mut late = pair.dial();
            socket::set_abort_on_close(&late);
            late.set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            matches!(late.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
        });
        assert_reset(&mut pair.dial());
        let refused = wait_for(&pair.client, |event| is_reason(event, Reason::Draining));
        assert_eq!(refused.kind, EventKind::ConnectionClosed);
        echoes(&mut near, &mut far);
        scope.spawn(|| pair.server.drain(PATIENCE).unwrap());
        eventually("the server drains", || {
            let mut stranger = TcpStream::connect(pair.hbone).unwrap();
            stranger
                .set_read_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            let said = stranger.read(&mut [0]);
            matches!(said, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
        });
        let refused = wait_for(&pair.server, |event| {
            event.kind == EventKind::HandshakeFailed
        });
        assert!(is_reason(&refused, Reason::Draining), "{refused:?}");
        drop((near, far));
    });
}

#[test]
fn stop_ends_everything_and_may_be_called_twice() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.connect();
    pair.client.stop();
    assert!(near.read(&mut [0; 8]).is_err() || far.read(&mut [0; 8]).is_err());
    pair.client.stop();
    assert!(pair.client.stats().is_err());
}

struct Panics;

impl FlowRecords for Panics {
    fn take(&self, _: &FlowKey) -> io::Result<Option<FlowRecord>> {
        panic!("the map has gone mad")
    }
}

#[test]
fn a_worker_that_panics_stops_the_core() {
    let core = Core::start(
        Config {
            workers: 2,
            ..Config::default()
        },
        Arc::new(Panics),
    )
    .unwrap();
    let listener = socket::listen(SocketAddr::new(CLIENT_IP, 0)).unwrap();
    let capture = socket::local_address(&listener).unwrap();
    let listeners = Listeners {
        capture: vec![listener],
        inbound: vec![],
    };
    core.put_workload(pod(CLIENT, CLIENT_ID, CLIENT_IP), listeners)
        .unwrap();
    let stream = TcpStream::connect(capture);
    let event = wait_for(&core, |event| event.kind == EventKind::WorkerPanicked);
    assert_eq!(event.detail, "the map has gone mad");
    eventually("no worker answers any more", || core.stats().is_err());
    drop(stream);
}

#[test]
fn a_pod_replaced_in_place_gets_tunnels_of_its_own() {
    let pair = Pair::new();
    let (near, far) = pair.connect();
    pair.client
        .put_svid(SERVER_ID, &pair.authority.svid(SERVER_ID))
        .unwrap();
    let listener = socket::listen(SocketAddr::new(CLIENT_IP, 0)).unwrap();
    let capture = socket::local_address(&listener).unwrap();
    let listeners = Listeners {
        capture: vec![listener],
        inbound: vec![],
    };
    pair.client
        .put_workload(pod(CLIENT, SERVER_ID, CLIENT_IP), listeners)
        .unwrap();
    // Until the other node knows, the certificate is not that of the address's owner there.
    pair.server
        .put_peers(vec![peer(CLIENT, CLIENT_IP, SERVER_ID)])
        .unwrap();
    let mut other_near = TcpStream::connect(capture).unwrap();
    let (mut other_far, _) = pair.app.accept().unwrap();
    echoes(&mut other_near, &mut other_far);
    assert_eq!(pair.client.stats().unwrap().handshakes, 2);
    drop((near, far, other_near, other_far));
}

#[test]
fn a_listener_that_was_shut_down_is_let_go() {
    let core = Core::start(Config::default(), Arc::new(Panics)).unwrap();
    let listener = socket::listen(SocketAddr::new(CLIENT_IP, 0)).unwrap();
    let owners = TcpStream::from(listener.try_clone().unwrap());
    let listeners = Listeners {
        capture: vec![listener],
        inbound: vec![],
    };
    core.put_workload(pod(CLIENT, CLIENT_ID, CLIENT_IP), listeners)
        .unwrap();
    core.stats().unwrap();
    owners.shutdown(std::net::Shutdown::Both).unwrap();
    let event = wait_for(&core, |event| event.kind == EventKind::CaptureRefused);
    assert!(event.detail.contains("listener"), "{event:?}");
    assert_eq!(event.reason, Reason::WorkloadRemoved.number());
}

#[test]
fn endless_times_are_taken_for_long_ones() {
    let pair = Pair::with(|config| {
        config.half_close_idle = Duration::MAX;
        config.pool_idle = Duration::MAX;
        config.connect_timeout = Duration::MAX;
    });
    let (mut near, mut far) = pair.connect();
    echoes(&mut near, &mut far);
    pair.server.remove_workload(SERVER, Duration::MAX).unwrap();
    echoes(&mut near, &mut far);
    drop((near, far));
    pair.client.drain(Duration::MAX).unwrap();
}
