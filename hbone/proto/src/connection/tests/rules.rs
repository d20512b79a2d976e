// SPDX-License-Identifier: Apache-2.0
//! What a peer may not do, and what ends for it.

use super::*;
use crate::error::Blame;
use crate::limits::{Limits, MAX_UNSENT_REPLIES, Rate};
use crate::reason::Reason;

fn refused(connection: &mut Connection, bytes: &[u8]) -> (ErrorCode, &'static str) {
    let error = feed(connection, bytes).expect_err("must be refused");
    let (header, payload) = sent(connection).pop().expect("GOAWAY is queued");
    assert_eq!(header.kind, kind::GOAWAY);
    assert_eq!(payload[4..8], error.code.0.to_be_bytes());
    assert_eq!(&payload[8..], error.token.as_bytes());
    assert_eq!(feed(connection, &[]), Err(error), "it stays failed");
    assert!(connection.is_finished() && connection.next_deadline().is_none());
    (error.code, error.token)
}

const PROTOCOL: ErrorCode = ErrorCode::PROTOCOL_ERROR;
const SIZE: ErrorCode = ErrorCode::FRAME_SIZE_ERROR;
const FLOW: ErrorCode = ErrorCode::FLOW_CONTROL_ERROR;
const CLOSED: ErrorCode = ErrorCode::STREAM_CLOSED;
const CALM: ErrorCode = ErrorCode::ENHANCE_YOUR_CALM;

#[test]
fn the_preface_and_settings_come_first() {
    for hello in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX"] {
        let mut server = Connection::new(Role::Server, Config::server(), NOW);
        assert_eq!(refused(&mut server, hello), (PROTOCOL, "preface"));
    }
    let mut server = Connection::new(Role::Server, Config::server(), NOW);
    let hello = [&PREFACE[..], &connect(1)].concat();
    assert_eq!(refused(&mut server, &hello), (PROTOCOL, "settings_first"));
    let mut client = Connection::new(Role::Client, Config::client(), NOW);
    let ack = frame(kind::SETTINGS, flag::ACK, 0, &[]);
    assert_eq!(refused(&mut client, &ack), (PROTOCOL, "settings_first"));
}

#[test]
fn frames_of_impossible_form() {
    let cases: &[(Vec<u8>, ErrorCode, &str)] = &[
        (frame(kind::PING, 0, 0, &[0; 7]), SIZE, "frame_size"),
        (frame(kind::PING, 0, 1, &[0; 8]), PROTOCOL, "stream_id_zero"),
        (frame(kind::RST_STREAM, 0, 1, &[0; 5]), SIZE, "frame_size"),
        (
            frame(kind::RST_STREAM, 0, 0, &[0; 4]),
            PROTOCOL,
            "stream_id_zero",
        ),
        (
            frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]),
            SIZE,
            "frame_size",
        ),
        (frame(kind::PRIORITY, 0, 1, &[0; 4]), SIZE, "frame_size"),
        (frame(kind::GOAWAY, 0, 0, &[0; 7]), SIZE, "frame_size"),
        (
            frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
            SIZE,
            "frame_size",
        ),
        (frame(kind::SETTINGS, 0, 0, &[0; 5]), SIZE, "settings_size"),
        (frame(kind::SETTINGS, 0, 3, &[]), PROTOCOL, "stream_id_zero"),
        (
            frame(kind::SETTINGS, 0, 0, &[0; 65 * 6]),
            CALM,
            "settings_too_many",
        ),
        (
            frame(kind::PUSH_PROMISE, 4, 1, &[0; 4]),
            PROTOCOL,
            "push_promise",
        ),
        (
            frame(kind::CONTINUATION, 4, 1, &[]),
            PROTOCOL,
            "continuation_unexpected",
        ),
        (data(0, 0, b"x"), PROTOCOL, "stream_id_zero"),
        (data(1, flag::PADDED, b""), SIZE, "frame_size"),
        (data(1, flag::PADDED, &[1]), PROTOCOL, "padding"),
        (
            frame(kind::HEADERS, 0x4 | flag::PADDED, 1, &[2, 0x88]),
            PROTOCOL,
            "padding",
        ),
        (
            frame(kind::HEADERS, 0x4 | flag::PRIORITY, 1, &[0; 4]),
            SIZE,
            "frame_size",
        ),
        (
            frame(kind::HEADERS, 0x4, 1, &[0x80]),
            ErrorCode::COMPRESSION_ERROR,
            "hpack",
        ),
        (
            vec![0x10, 0, 1, 0xff, 0, 0, 0, 0, 0],
            SIZE,
            "frame_too_large",
        ),
    ];
    for (bytes, code, token) in cases {
        assert_eq!(refused(&mut server(), bytes), (*code, *token), "{bytes:?}");
    }
}

#[test]
fn streams_in_the_wrong_state() {
    let cases: &[(Vec<u8>, ErrorCode, &str)] = &[
        (connect(2), PROTOCOL, "even_stream_id"),
        (data(3, 0, b"x"), PROTOCOL, "data_on_idle_stream"),
        (update(3, 1), PROTOCOL, "window_update_on_idle_stream"),
        (update(1, 0), PROTOCOL, "window_update_zero"),
        (update(0, 0), PROTOCOL, "window_update_zero"),
        (update(0, 0x7fff_ffff), FLOW, "window_overflow"),
        (
            reset_frame(2, ErrorCode::CANCEL),
            PROTOCOL,
            "reset_on_idle_stream",
        ),
        (
            [data(1, 1, b"x"), data(1, 0, b"x")].concat(),
            CLOSED,
            "data_after_end",
        ),
        (
            [data(1, 1, b"x"), connect(1)].concat(),
            CLOSED,
            "headers_after_end",
        ),
        (
            settings_frame(&[(4, 0x7fff_ffff)]),
            FLOW,
            "settings_window_overflow",
        ),
        (
            [
                frame(kind::HEADERS, 0, 3, &request_block()),
                frame(kind::PING, 0, 0, &[0; 8]),
            ]
            .concat(),
            PROTOCOL,
            "continuation_expected",
        ),
        (
            [
                frame(kind::HEADERS, 0, 3, b""),
                frame(kind::CONTINUATION, 4, 5, b""),
            ]
            .concat(),
            PROTOCOL,
            "continuation_expected",
        ),
    ];
    for (bytes, code, token) in cases {
        let mut server = server();
        flowing(&mut server, 1);
        feed(&mut server, &update(1, 1)).unwrap();
        assert_eq!(refused(&mut server, bytes), (*code, *token), "{bytes:?}");
    }
    let mut client = client();
    let key = client.open(&request(), 0).unwrap();
    assert_eq!(key.id(), 1);
    assert_eq!(
        refused(&mut client, &data(1, 0, b"x")),
        (PROTOCOL, "data_before_headers")
    );
    let mut other = super::client();
    assert_eq!(
        refused(&mut other, &answer(1, 0)),
        (PROTOCOL, "headers_on_idle_stream")
    );
}

#[test]
fn a_malformed_message_ends_its_stream_alone() {
    let mut server = server();
    let live = flowing(&mut server, 1);
    let bad = frame(kind::HEADERS, flag::END_HEADERS, 3, &[0x82, 0x88]);
    assert_eq!(feed(&mut server, &bad).unwrap(), []);
    let (header, payload) = sent(&mut server).remove(0);
    assert_eq!((header.kind, header.stream), (kind::RST_STREAM, 3));
    assert_eq!(payload, PROTOCOL.0.to_be_bytes());
    assert!(server.is_live(live));

    let mut client = client();
    let key = client.open(&request(), 7).unwrap();
    let events = feed(&mut client, &frame(kind::HEADERS, 0x4, 1, &[0x82])).unwrap();
    let gone = Event::Reset {
        stream: key,
        user: 7,
        code: PROTOCOL,
        unprocessed: false,
        complete: false,
    };
    assert_eq!(events, [gone]);
    assert!(!client.is_live(key));
}

#[test]
fn requests_that_are_no_connect_are_answered_here() {
    let get = [0x82, 0x84, 0x87, 0x41, 1, b'a'];
    let mut bad_authority = vec![2, 7];
    bad_authority.extend(b"CONNECT");
    bad_authority.extend([1, 1, b'a']);
    for (block, status, reason) in [
        (&get[..], 400, Reason::NotConnect),
        (&bad_authority[..], 400, Reason::BadAuthority),
    ] {
        let mut server = server();
        let events = feed(&mut server, &frame(kind::HEADERS, 0x4, 1, block)).unwrap();
        assert_eq!(events, [Event::Refused { status, reason }]);
        assert_eq!(sent_kinds(&mut server), [kind::HEADERS, kind::RST_STREAM]);
        assert_eq!(server.streams(), 0);
        // What was on its way costs nobody anything.
        assert_eq!(feed(&mut server, &data(1, 1, b"late")).unwrap(), []);
        server.assert_invariants();
    }
}

#[test]
fn header_lists_have_a_limit() {
    let long = "x".repeat(70_000);
    let mut block = Vec::new();
    let mut encoder = Encoder::new(&mut block, false);
    encoder.connect("10.1.2.3:80");
    encoder.field("a", &long);
    let mut server = server();
    let headers = frame(kind::HEADERS, flag::END_HEADERS, 1, &block);
    assert_eq!(
        refused(&mut server, &headers),
        (CALM, "header_list_way_too_large")
    );

    // Small on the wire, large when counted: 431, and the connection goes on.
    let mut block = request_block();
    block.extend([0x40, 1, b'a', 100]);
    block.extend([b'v'; 100]);
    block.extend(std::iter::repeat_n(0xbe, 1000));
    let mut server = super::server();
    let events = feed(&mut server, &frame(kind::HEADERS, 0x5, 1, &block)).unwrap();
    assert_eq!(
        events,
        [Event::Refused {
            status: 431,
            reason: Reason::ResourceLimit
        }]
    );
    opened(&mut server, 3);
}

#[test]
fn continuation_flood() {
    let mut flood = frame(kind::HEADERS, 0, 1, b"");
    for _ in 0..17 {
        flood.extend(frame(kind::CONTINUATION, 0, 1, b""));
    }
    assert_eq!(refused(&mut server(), &flood), (CALM, "continuation_flood"));
}

fn tight() -> Connection {
    let rate = Rate {
        burst: 3,
        per_second: 1,
    };
    let limits = Limits {
        resets_unanswered: rate,
        resets: rate,
        forced_resets: rate,
        settings: rate,
        pings: rate,
        empty_data: rate,
        glitches: rate,
    };
    server_with(Config {
        limits,
        ..Config::server()
    })
}

#[test]
fn floods_are_told_to_calm_down() {
    type Attack<'a> = &'a dyn Fn(u32) -> Vec<u8>;
    let cases: &[(Attack<'_>, &str)] = &[
        (
            &|n| [connect(n), reset_frame(n, ErrorCode::CANCEL)].concat(),
            "too_many_unanswered_resets",
        ),
        (&|_| frame(kind::PING, 0, 0, &[0; 8]), "too_many_pings"),
        (&|_| settings_frame(&[]), "too_many_settings"),
        (
            &|n| [connect(n), data(n, 0, b"")].concat(),
            "too_many_empty_frames",
        ),
        (
            &|n| [connect(n), data(n, flag::PADDED, &[1, 0])].concat(),
            "too_many_empty_frames",
        ),
        (&|_| frame(0xfa, 0, 9, b"grease"), "too_many_glitches"),
        (
            &|_| frame(kind::PRIORITY, 0, 1, &[0; 5]),
            "too_many_glitches",
        ),
        (
            &|_| frame(kind::PING, flag::ACK, 0, b"stranger"),
            "too_many_glitches",
        ),
        (
            &|n| [connect(n), update(n, 0x7fff_ffff)].concat(),
            "too_many_internal_resets",
        ),
        (
            &|n| frame(kind::HEADERS, 0x4, n, &[0x82, 0x88]),
            "too_many_internal_resets",
        ),
        (
            &|n| frame(kind::HEADERS, 0x4, n, &[0x82]),
            "too_many_refused_requests",
        ),
    ];
    for (attack, token) in cases {
        let mut server = tight();
        let mut id = 1;
        let error = loop {
            match feed(&mut server, &attack(id)) {
                Ok(_) => server.assert_invariants(),
                Err(error) => break error,
            }
            sent(&mut server);
            id += 2;
            assert!(id < 21, "{token} never came");
        };
        assert_eq!(
            (error.code, error.token, error.blame),
            (CALM, *token, Blame::PeerFlooded)
        );
    }
}

#[test]
fn resets_of_answered_streams_are_counted_apart() {
    let mut server = tight();
    for id in [1, 3, 5] {
        flowing(&mut server, id);
        feed(&mut server, &reset_frame(id, ErrorCode::CANCEL)).unwrap();
    }
    flowing(&mut server, 7);
    let last = reset_frame(7, ErrorCode::CANCEL);
    assert_eq!(refused(&mut server, &last), (CALM, "too_many_resets"));
}

#[test]
fn a_peer_that_does_not_read_cannot_make_us_hold_answers() {
    let limits = Limits {
        pings: Rate {
            burst: 1 << 20,
            per_second: 0,
        },
        ..Limits::default()
    };
    let mut server = server_with(Config {
        limits,
        ..Config::server()
    });
    let flood = frame(kind::PING, 0, 0, &[0; 8]).repeat(MAX_UNSENT_REPLIES as usize + 1);
    let error = feed(&mut server, &flood).unwrap_err();
    assert_eq!(error.token, "too_many_unsent_replies");
    assert!(server.control().len() < 18 * 1000);
}

#[test]
fn streams_beyond_the_limit_are_refused_and_may_be_retried() {
    let mut server = server_with(Config {
        max_streams: 2,
        ..Config::server()
    });
    flowing(&mut server, 1);
    opened(&mut server, 3);
    assert_eq!(feed(&mut server, &connect(5)).unwrap(), []);
    let frames = sent(&mut server);
    assert_eq!(
        (frames[0].0.kind, frames[0].0.stream),
        (kind::RST_STREAM, 5)
    );
    assert_eq!(frames[0].1, ErrorCode::REFUSED_STREAM.0.to_be_bytes());
    feed(&mut server, &data(5, 0, b"on its way")).unwrap();
    feed(&mut server, &reset_frame(1, ErrorCode::CANCEL)).unwrap();
    opened(&mut server, 7);
    server.assert_invariants();
}
