// SPDX-License-Identifier: Apache-2.0
//! Opening, answering, ending halves, sending in turn.

use super::*;

const END: u8 = flag::END_STREAM;

#[test]
fn greetings() {
    let mut client = Connection::new(Role::Client, Config::client(), NOW);
    assert!(client.control().starts_with(PREFACE));
    let frames = sent(&mut client);
    assert_eq!(frames.len(), 2);
    let wire = [(2, 0), (4, 4 << 20), (5, 1 << 20), (6, 16 << 10)];
    assert_eq!(frames[0].1, settings::encode(&wire));
    assert_eq!(
        (frames[1].0.kind, frames[1].0.stream),
        (kind::WINDOW_UPDATE, 0)
    );
    assert_eq!(frames[1].1, ((16u32 << 20) - 65_535).to_be_bytes());
    let mut server = Connection::new(Role::Server, Config::server(), NOW);
    let wire = [(3, 200), (4, 4 << 20), (5, 1 << 20), (6, 64 << 10)];
    assert_eq!(sent(&mut server)[0].1, settings::encode(&wire));
}

#[test]
fn a_connect_and_its_answer() {
    let mut client = client();
    let key = client.open(&request(), 42).unwrap();
    let headers = client.control().to_vec();
    client.control_taken(headers.len());
    let mut server = server();
    let events = feed(&mut server, &headers).unwrap();
    let [
        Event::Opened {
            stream,
            request: got,
            end: false,
        },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(**got, request());
    assert_eq!(server.capacity(*stream), 0, "not before the answer");
    assert_eq!(
        server.data_header(*stream, 1, false),
        Err(SendError::NotNow)
    );
    server.respond(*stream, &ok()).unwrap();
    assert_eq!(server.respond(*stream, &ok()), Err(SendError::NotNow));
    assert_eq!(server.capacity(*stream), 16_375);
    let answer = server.control().to_vec();
    let response = Box::new(ok());
    let expected = Event::Response {
        stream: key,
        user: 42,
        response,
        end: false,
    };
    assert_eq!(feed(&mut client, &answer).unwrap(), [expected]);
}

#[test]
fn a_refusal_ends_the_stream_both_ways() {
    let mut server = server();
    let key = opened(&mut server, 1);
    let denied = ConnectResponse {
        status: 401,
        baggage: None,
    };
    feed(&mut server, &data(1, 0, b"early")).unwrap();
    server.respond(key, &denied).unwrap();
    let frames = sent(&mut server);
    assert_eq!(frames[0].0.flags, flag::END_HEADERS | END);
    assert_eq!(
        (frames[1].0.kind, &frames[1].1[..]),
        (kind::RST_STREAM, &[0; 4][..])
    );
    assert_eq!(server.streams(), 0);
    server.assert_invariants();

    let mut client = client();
    let key = client.open(&request(), 0).unwrap();
    let mut bytes = frame(
        kind::HEADERS,
        flag::END_HEADERS | END,
        1,
        &[0x08, 3, b'4', b'0', b'1'],
    );
    bytes.extend(reset_frame(1, ErrorCode::NO_ERROR));
    let events = feed(&mut client, &bytes).unwrap();
    let [
        Event::Response {
            response,
            end: true,
            ..
        },
        reset,
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(response.status, 401);
    let code = ErrorCode::NO_ERROR;
    assert_eq!(
        *reset,
        Event::Reset {
            stream: key,
            user: 0,
            code,
            unprocessed: false,
            complete: true
        }
    );
    assert_eq!(client.streams(), 0);
}

#[test]
fn halves_end_apart() {
    let mut server = server();
    let key = flowing(&mut server, 1);
    let events = feed(&mut server, &data(1, END, b"hello")).unwrap();
    assert_eq!(
        events,
        [Event::Data {
            stream: key,
            user: 0,
            range: 9..14,
            end: true
        }]
    );
    assert_eq!(
        server.data_header(key, 3, false).unwrap()[..5],
        [0, 0, 3, 0, 0]
    );
    assert_eq!(server.data_header(key, 0, false), Err(SendError::Empty));
    assert_eq!(
        server.data_header(key, 0, true).unwrap(),
        [0, 0, 0, 0, 1, 0, 0, 0, 1]
    );
    assert_eq!(server.data_header(key, 1, true), Err(SendError::Gone));
    assert!(server.is_live(key), "the app has not taken the bytes");
    server.assert_invariants();
    server.consumed(key, 5);
    assert!(!server.is_live(key));
    assert_eq!(sent_kinds(&mut server), [], "nobody is told");
    server.assert_invariants();
}

#[test]
fn trailers_end_a_half() {
    let mut server = server();
    let key = flowing(&mut server, 1);
    let trailers = frame(
        kind::HEADERS,
        flag::END_HEADERS | END,
        1,
        &[0, 1, b'a', 1, b'b'],
    );
    let events = feed(&mut server, &trailers).unwrap();
    assert_eq!(
        events,
        [Event::Data {
            stream: key,
            user: 0,
            range: 0..0,
            end: true
        }]
    );
}

#[test]
fn interim_answers_are_passed_over() {
    let mut client = client();
    client.open(&request(), 0).unwrap();
    let interim = frame(
        kind::HEADERS,
        flag::END_HEADERS,
        1,
        &[0x08, 3, b'1', b'0', b'3'],
    );
    assert_eq!(feed(&mut client, &interim).unwrap(), []);
    let events = feed(&mut client, &answer(1, 0)).unwrap();
    assert!(matches!(&events[..], [Event::Response { response, .. }] if response.status == 200));
}

#[test]
fn padding_counts_and_is_not_delivered() {
    let mut server = server();
    let key = flowing(&mut server, 1);
    let bytes = data(1, END | flag::PADDED, &[3, b'h', b'i', 0, 0, 0]);
    let events = feed(&mut server, &bytes).unwrap();
    let range = 10..12;
    let all = [Event::Data {
        stream: key,
        user: 0,
        range,
        end: true,
    }];
    assert_eq!(events, all);
    server.assert_invariants();
}

#[test]
fn settings_move_the_windows_of_open_streams() {
    let mut server = server();
    let key = flowing(&mut server, 1);
    server.data_header(key, 10_000, false).unwrap();
    feed(&mut server, &settings_frame(&[(4, 9_999)])).unwrap();
    assert_eq!(server.capacity(key), 0);
    assert_eq!(server.pop_writable(), None);
    feed(&mut server, &update(1, 1)).unwrap();
    assert_eq!(server.pop_writable(), None, "the window is at 0");
    feed(&mut server, &settings_frame(&[(4, 10_004)])).unwrap();
    assert_eq!(server.pop_writable(), Some((key, 0)));
    assert_eq!(server.capacity(key), 5);
    assert_eq!(
        server.data_header(key, 6, false),
        Err(SendError::NoCapacity)
    );
    server.data_header(key, 5, true).unwrap();
    assert_eq!(server.capacity(key), 0);
}

#[test]
fn a_lowered_table_is_acknowledged_in_the_next_block() {
    let mut client = client();
    feed(&mut client, &settings_frame(&[(1, 0)])).unwrap();
    sent(&mut client);
    client.open(&request(), 0).unwrap();
    client.open(&request(), 0).unwrap();
    let frames = sent(&mut client);
    assert_eq!((frames[0].1[0], frames[1].1[0]), (0x20, 2));
}

#[test]
fn blocked_streams_take_turns() {
    let mut server = server();
    let keys: Vec<_> = [1, 3, 5].map(|id| flowing(&mut server, id)).to_vec();
    // The connection has 65,535 bytes: four full frames and a rest.
    for _ in 0..4 {
        server.data_header(keys[0], 16_375, false).unwrap();
    }
    server.data_header(keys[0], 35, false).unwrap();
    for &key in &keys {
        assert_eq!(server.capacity(key), 0);
        assert_eq!(server.capacity(key), 0, "asking twice queues once");
    }
    assert!(server.is_congested());
    assert_eq!(server.pop_writable(), None);
    feed(&mut server, &update(0, 100)).unwrap();
    // The first has no window of its own and is passed over.
    for &key in &keys[1..] {
        assert_eq!(server.pop_writable(), Some((key, 0)));
        server.queue_writable(key);
    }
    assert_eq!(server.pop_writable(), Some((keys[1], 0)), "in turn");
    feed(&mut server, &update(1, 7)).unwrap();
    assert_eq!(server.pop_writable(), Some((keys[2], 0)));
    assert_eq!(server.pop_writable(), Some((keys[0], 0)));
    assert_eq!(server.pop_writable(), None);
    assert_eq!(server.capacity(keys[0]), 7);
    server.assert_invariants();
}

#[test]
fn the_client_keeps_to_both_limits() {
    let mut client = client();
    assert_eq!(client.max_streams(), 100);
    feed(&mut client, &settings_frame(&[(3, 2)])).unwrap();
    let first = client.open(&request(), 1).unwrap();
    client.open(&request(), 2).unwrap();
    assert_eq!(client.open(&request(), 3), Err(OpenError::Full));
    assert!(!client.is_open());
    client.reset(first, ErrorCode::CANCEL);
    assert_eq!(client.open(&request(), 3).unwrap().id(), 5);
    assert_eq!(server().open(&request(), 0), Err(OpenError::NotClient));
    feed(&mut client, &settings_frame(&[(3, 9), (6, 100)])).unwrap();
    assert_eq!(client.open(&request(), 3), Err(OpenError::TooLarge));
}

#[test]
fn stream_ids_run_out() {
    let mut client = client();
    client.core.next_id = outbound::LAST_ID;
    assert_eq!(client.open(&request(), 0).unwrap().id(), 0x7fff_ffff);
    assert_eq!(client.open(&request(), 0), Err(OpenError::Exhausted));
}
