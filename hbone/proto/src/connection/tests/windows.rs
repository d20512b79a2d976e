// SPDX-License-Identifier: Apache-2.0
//! Windows towards us: when credit goes back, and to whom.

use super::*;

#[test]
fn credit_goes_back_when_the_app_took_the_bytes() {
    let mut server = server();
    let key = flowing(&mut server, 1);
    let chunk = vec![0; 1 << 20];
    for _ in 0..4 {
        feed(&mut server, &data(1, 0, &chunk)).unwrap();
    }
    assert_eq!(
        sent_kinds(&mut server),
        [],
        "no credit for what nobody took"
    );
    server.consumed(key, (2 << 20) - 1);
    assert_eq!(sent_kinds(&mut server), []);
    server.consumed(key, 1);
    let frames = sent(&mut server);
    assert_eq!(
        (frames[0].0.stream, &frames[0].1[..]),
        (1, &(2u32 << 20).to_be_bytes()[..])
    );
    feed(&mut server, &data(1, 0, &chunk)).unwrap();
    feed(&mut server, &data(1, 0, &chunk)).unwrap();
    let error = feed(&mut server, &data(1, 0, b"x")).unwrap_err();
    assert_eq!(error.token, "stream_window_exceeded");
}

#[test]
fn bytes_of_dead_streams_are_credited_to_the_connection() {
    let config = Config {
        connection_window: 65_535,
        ..Config::server()
    };
    let mut server = server_with(config);
    let chunk = vec![0; 40_000];
    for id in (1..2001).step_by(2) {
        let key = flowing(&mut server, id);
        feed(&mut server, &data(id, 0, &chunk)).unwrap();
        match id % 3 {
            0 => server.reset(key, ErrorCode::CANCEL),
            1 => drop(feed(&mut server, &reset_frame(id, ErrorCode::CANCEL)).unwrap()),
            _ => {
                server.reset(key, ErrorCode::CANCEL);
                server.consumed(key, 40_000); // A late word about a dead key.
            }
        }
        feed(&mut server, &data(id, 0, &chunk[..20_000])).unwrap();
        server.assert_invariants();
    }
}

#[test]
fn bytes_set_aside_are_credited_once() {
    let config = Config {
        stream_window: 65_535,
        connection_window: 65_535,
        ..Config::server()
    };
    let mut server = server_with(config);
    let slow = flowing(&mut server, 1);
    let other = flowing(&mut server, 3);
    feed(&mut server, &data(1, 0, &[0; 60_000])).unwrap();
    server.set_aside(slow, 60_000);
    server.assert_invariants();
    let frames = sent(&mut server);
    assert_eq!(
        (frames.len(), frames[0].0.stream),
        (1, 0),
        "the connection's, not the stream's"
    );
    feed(&mut server, &data(3, 0, &[0; 60_000])).unwrap();
    server.set_aside(slow, 1);
    server.assert_invariants();
    server.consumed(slow, 10_000);
    server.assert_invariants();
    server.reset(slow, ErrorCode::CANCEL);
    server.assert_invariants();
    server.consumed(other, 60_000);
    server.assert_invariants();
}

#[test]
fn a_stream_that_dies_inside_a_frame() {
    let mut server = server();
    let key = flowing(&mut server, 1);
    let bytes = data(1, flag::END_STREAM, &[0; 100]);
    assert_eq!(feed(&mut server, &bytes[..50]).unwrap().len(), 1);
    server.reset(key, ErrorCode::CANCEL);
    assert_eq!(feed(&mut server, &bytes[50..]).unwrap(), []);
    server.assert_invariants();
}

#[test]
fn all_windows_of_the_connection_are_shared() {
    let config = Config {
        stream_window: 1 << 20,
        connection_window: 1 << 20,
        ..Config::server()
    };
    let mut server = server_with(config);
    flowing(&mut server, 1);
    flowing(&mut server, 3);
    feed(&mut server, &data(1, 0, &vec![0; 1 << 20])).unwrap();
    let error = feed(&mut server, &data(3, 0, b"x")).unwrap_err();
    assert_eq!(error.token, "connection_window_exceeded");
}

#[test]
fn a_small_window_is_in_force_once_acknowledged() {
    let config = Config {
        stream_window: 100,
        ..Config::server()
    };
    let mut server = Connection::new(Role::Server, config, NOW);
    feed(&mut server, &[&PREFACE[..], &settings_frame(&[])].concat()).unwrap();
    let key = opened(&mut server, 1);
    let early = feed(&mut server, &data(1, 0, &[0; 1000])).unwrap();
    assert_eq!(early.len(), 1, "the peer could not know better");
    sent(&mut server);
    server.consumed(key, 1000);
    feed(&mut server, &frame(kind::SETTINGS, flag::ACK, 0, &[])).unwrap();
    let frames = sent(&mut server);
    assert_eq!(
        (frames[0].0.stream, &frames[0].1[..]),
        (1, &1000u32.to_be_bytes()[..])
    );
    server.assert_invariants();
    let error = feed(&mut server, &data(1, 0, &[0; 101])).unwrap_err();
    assert_eq!(error.token, "stream_window_exceeded");
}
