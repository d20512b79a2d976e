// SPDX-License-Identifier: Apache-2.0
//! What applications see of each other through the tunnel.

mod common;

use common::*;
use hbone_core::{Direction, EventKind};
use hbone_proto::Reason;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_connection_is_told_and_counted_on_both_sides() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.connect();
    let source = near.local_addr().unwrap();
    let upstream = pair.app.local_addr().unwrap();
    near.write_all(b"ping").unwrap();
    let mut buffer = [0; 16];
    assert_eq!(far.read(&mut buffer).unwrap(), 4);
    far.write_all(b"pong!").unwrap();
    assert_eq!(near.read(&mut buffer).unwrap(), 5);
    let open = pair.client.connections().unwrap();
    assert_eq!(
        (open.len(), open[0].bytes_sent, open[0].source),
        (1, 4, source)
    );
    drop(near);
    assert_eq!(far.read(&mut buffer).unwrap(), 0);
    drop(far);

    let event = wait_closed(&pair.client);
    assert_eq!(event.direction, Some(Direction::Outbound));
    assert_eq!(
        (event.source, event.destination),
        (Some(source), Some(upstream))
    );
    let dialled: SocketAddr = "10.96.0.10:80".parse().unwrap();
    assert_eq!(event.original_destination, Some(dialled));
    assert_eq!(event.source_identity.as_deref(), Some(CLIENT_ID));
    assert_eq!(event.destination_identity.as_deref(), Some(SERVER_ID));
    assert_eq!(
        (event.bytes_sent, event.bytes_received, event.reason),
        (4, 5, 0)
    );
    let other = wait_closed(&pair.server);
    assert_eq!(other.direction, Some(Direction::Inbound));
    assert_eq!(
        (other.source, other.destination),
        (Some(source), Some(upstream))
    );
    assert_eq!(other.source_identity.as_deref(), Some(CLIENT_ID));
    assert_eq!(
        (other.peer_workload_id, other.service_id),
        (CLIENT, SERVICE)
    );
    assert_eq!((other.bytes_sent, other.bytes_received), (5, 4));
    assert_eq!(other.trace_id, event.trace_id);

    let counters = pair.client.counters().unwrap();
    let (key, counter) = counters.iter().next().unwrap();
    assert_eq!(
        (key.workload_id, key.peer_workload_id, key.service_id),
        (CLIENT, SERVER, SERVICE)
    );
    assert_eq!((counter.opened, counter.closed), (1, 1));
    assert_eq!((counter.bytes_sent, counter.bytes_received), (4, 5));
    pair.client.forget_counters(vec![SERVER]).unwrap();
    assert!(pair.client.counters().unwrap().is_empty());
}

#[test]
fn ipv6_all_the_way() {
    let loopback = Ipv6Addr::LOCALHOST.into();
    let pair = Pair::at(loopback, loopback, |_| {});
    // There is one such address for both pods: for the server it is the client's.
    pair.server.remove_peers(vec![SERVER]).unwrap();
    pair.server
        .put_peers(vec![peer(CLIENT, loopback, CLIENT_ID)])
        .unwrap();
    let (mut near, mut far) = pair.connect();
    assert!(near.local_addr().unwrap().is_ipv6() && far.peer_addr().unwrap().is_ipv6());
    near.write_all(b"six").unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    far.read_to_string(&mut text).unwrap();
    assert_eq!(text, "six");
    assert!(pair.client.tunnels().unwrap()[0].remote.is_ipv6());
}

#[test]
fn bytes_arrive_unchanged_both_ways_at_once() {
    const LENGTH: usize = 24 << 20;
    let pair = Pair::new();
    let (near, far) = pair.connect();
    let exchange = |mut stream: TcpStream, sent: Vec<u8>, expected: Vec<u8>| {
        let mut writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        writing.join().unwrap();
        assert!(received == expected, "{} bytes, changed", received.len());
    };
    let (up, down) = (noise(LENGTH, 1), noise(LENGTH, 2));
    let (up_too, down_too) = (up.clone(), down.clone());
    let other = thread::spawn(move || exchange(far, down_too, up_too));
    exchange(near, up, down);
    other.join().unwrap();
    assert!(is_reason(&wait_closed(&pair.client), Reason::None));
}

#[test]
fn each_half_closes_on_its_own() {
    let pair = Pair::new();
    for swap in [false, true] {
        let (near, far) = pair.connect();
        let (mut first, mut second) = if swap { (far, near) } else { (near, far) };
        let mut text = String::new();
        first.write_all(b"question").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        second.read_to_string(&mut text).unwrap();
        second.write_all(b" and answer").unwrap();
        drop(second);
        first.read_to_string(&mut text).unwrap();
        assert_eq!(text, "question and answer");
        drop(first);
        assert!(is_reason(&wait_closed(&pair.client), Reason::None));
        assert!(is_reason(&wait_closed(&pair.server), Reason::None));
    }
}

#[test]
fn a_half_closed_connection_may_not_stay_silent_for_ever() {
    let pair = Pair::with(|config| config.half_close_idle = Duration::from_millis(1500));
    let (mut near, mut far) = pair.connect();
    near.shutdown(Shutdown::Write).unwrap();
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
    let began = Instant::now();
    for _ in 0..6 {
        // As long as the other half speaks, it may.
        thread::sleep(Duration::from_millis(300));
        far.write_all(b".").unwrap();
        assert_eq!(near.read(&mut [0]).unwrap(), 1);
    }
    assert!(began.elapsed() > Duration::from_millis(1700));
    assert_reset(&mut near);
}

#[test]
fn a_reset_is_a_reset_at_the_other_end() {
    let pair = Pair::new();
    for from_client in [true, false] {
        let (near, mut far) = pair.connect();
        // Open at both ends: a reset before the 200 is a refusal instead.
        far.write_all(b".").unwrap();
        (&near).read_exact(&mut [0]).unwrap();
        let (gone, mut left) = if from_client {
            (near, far)
        } else {
            (far, near)
        };
        hbone_sys::socket::set_abort_on_close(&gone);
        drop(gone);
        assert_reset(&mut left);
        let (here, there) = if from_client {
            (&pair.client, &pair.server)
        } else {
            (&pair.server, &pair.client)
        };
        assert!(is_reason(&wait_closed(here), Reason::AppReset));
        assert!(is_reason(&wait_closed(there), Reason::StreamReset));
    }
}

#[test]
fn slow_applications_hold_bounded_memory_and_nobody_else() {
    // Five, since four stream windows fill the window of a tunnel.
    const SLOW: usize = 5;
    let pair = Pair::new();
    let block = noise(1 << 20, 3);
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let (mut near, far) = pair.connect();
        near.set_nonblocking(true).unwrap();
        let (mut sent, mut last) = (0_usize, Instant::now());
        while last.elapsed() < Duration::from_millis(300) {
            match near.write(&block[sent % block.len()..]) {
                Ok(count) => (sent, last) = (sent + count, Instant::now()),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
            assert!(sent < 64 << 20, "nothing holds the sender back");
        }
        slow.push((near, far, sent));
    }
    assert_eq!(pair.client.tunnels().unwrap().len(), 1);
    let held = pair.server.stats().unwrap().buffers_bytes;
    assert!(held < (SLOW + 3) * (4 << 20), "{held} bytes are held");

    let (mut near, mut far) = pair.connect();
    near.write_all(b"not behind them").unwrap();
    let mut buffer = [0; 32];
    assert_eq!(far.read(&mut buffer).unwrap(), 15);

    for (near, mut far, sent) in slow {
        near.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        far.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), sent);
        assert!(
            received
                .iter()
                .zip(block.iter().cycle())
                .all(|(a, b)| a == b)
        );
    }
    eventually("the buffers are given back", || {
        pair.server.stats().unwrap().buffers_bytes < 4 << 20
    });
}

#[test]
fn many_connections_share_tunnels_up_to_their_limit() {
    const CONNECTIONS: usize = 250;
    let pair = Pair::new();
    let mut open: Vec<_> = (0..CONNECTIONS).map(|_| pair.dial()).collect();
    let mut far: Vec<_> = (0..CONNECTIONS)
        .map(|_| pair.app.accept().unwrap().0)
        .collect();
    for (index, near) in open.iter_mut().enumerate() {
        near.write_all(&(index as u32).to_be_bytes()).unwrap();
    }
    for stream in &mut far {
        let mut number = [0; 4];
        stream.read_exact(&mut number).unwrap();
        stream.write_all(&number).unwrap();
    }
    for (index, near) in open.iter_mut().enumerate() {
        let mut number = [0; 4];
        near.read_exact(&mut number).unwrap();
        assert_eq!(u32::from_be_bytes(number), index as u32);
    }
    let tunnels = pair.client.tunnels().unwrap();
    assert_eq!(tunnels.len(), 3);
    assert!(tunnels.iter().all(|tunnel| tunnel.streams <= 100));
    assert_eq!(
        tunnels.iter().map(|tunnel| tunnel.streams).sum::<usize>(),
        CONNECTIONS
    );
    drop((open, far));
    eventually("all have ended", || {
        let connections = |core: &hbone_core::Core| core.stats().unwrap().connections;
        connections(&pair.client) + connections(&pair.server) == 0
    });
}

#[test]
fn what_does_not_fit_the_event_queue_is_counted() {
    let pair = Pair::with(|config| config.max_events = 3);
    for _ in 0..5 {
        drop(pair.connect());
    }
    eventually("events were dropped", || {
        pair.client.stats().unwrap().events_dropped >= 3
    });
    let kept = pair.client.drain_events();
    assert_eq!(kept.len(), 3);
    assert_eq!(kept[0].kind, EventKind::TunnelOpened);
}
