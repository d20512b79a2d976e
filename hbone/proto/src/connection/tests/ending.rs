// SPDX-License-Identifier: Apache-2.0
//! GOAWAY both ways, resets, keepalive.

use super::*;
use crate::error::Blame;
use crate::reason::Reason;

fn go_away(last: u32, code: ErrorCode) -> Vec<u8> {
    let payload = [last.to_be_bytes(), code.0.to_be_bytes()].concat();
    frame(kind::GOAWAY, 0, 0, &[&payload[..], b"why it ends"].concat())
}

fn last_id(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

#[test]
fn a_server_warns_before_it_refuses() {
    let mut server = server();
    let first = flowing(&mut server, 1);
    server.drain(NOW);
    server.drain(NOW);
    let frames = sent(&mut server);
    assert_eq!(frames.len(), 2);
    assert_eq!(
        (frames[0].0.kind, last_id(&frames[0].1)),
        (kind::GOAWAY, 0x7fff_ffff)
    );
    assert_eq!(frames[1].0.kind, kind::PING);
    let on_its_way = opened(&mut server, 3);
    feed(&mut server, &frame(kind::PING, flag::ACK, 0, &frames[1].1)).unwrap();
    let frames = sent(&mut server);
    assert_eq!((frames[0].0.kind, last_id(&frames[0].1)), (kind::GOAWAY, 3));
    // Too late: refused, and the frames behind it do no harm.
    let late = [connect(5), data(5, 0, b"x"), update(5, 9)].concat();
    assert_eq!(feed(&mut server, &late).unwrap(), []);
    assert_eq!(sent_kinds(&mut server), [kind::RST_STREAM]);
    assert!(!server.is_finished());
    server.reset(first, ErrorCode::CANCEL);
    server.reset(on_its_way, ErrorCode::CANCEL);
    assert!(server.is_finished());
    sent(&mut server);
    feed(&mut server, &frame(kind::PUSH_PROMISE, 0, 1, b"")).unwrap_err();
    assert_eq!(
        last_id(&sent(&mut server)[0].1),
        3,
        "the last id never rises"
    );
}

#[test]
fn a_server_does_not_wait_for_ever_for_the_ping() {
    let mut server = server();
    server.drain(NOW);
    sent(&mut server);
    let deadline = server.next_deadline().unwrap();
    assert_eq!(deadline, NOW + Millis::seconds(1));
    server.on_time(deadline).unwrap();
    assert_eq!(last_id(&sent(&mut server)[0].1), 0);
    assert!(server.is_finished());
}

#[test]
fn a_draining_client_opens_nothing() {
    let mut client = client();
    let key = client.open(&request(), 0).unwrap();
    sent(&mut client);
    client.drain(NOW);
    assert_eq!(last_id(&sent(&mut client)[0].1), 0);
    assert_eq!(client.open(&request(), 0), Err(OpenError::Closing));
    assert!(!client.is_finished());
    client.reset(key, ErrorCode::CANCEL);
    assert!(client.is_finished());
}

#[test]
fn goaway_gives_back_what_was_not_processed() {
    let mut client = client();
    let first = client.open(&request(), 1).unwrap();
    let second = client.open(&request(), 2).unwrap();
    let warned = feed(&mut client, &go_away(0x7fff_ffff, ErrorCode::NO_ERROR)).unwrap();
    assert_eq!(
        warned,
        [Event::GoAway {
            code: ErrorCode::NO_ERROR
        }]
    );
    assert!(!client.is_open());
    let events = feed(&mut client, &go_away(1, ErrorCode::NO_ERROR)).unwrap();
    let code = ErrorCode::REFUSED_STREAM;
    let lost = Event::Reset {
        stream: second,
        user: 2,
        code,
        unprocessed: true,
        complete: false,
    };
    assert_eq!(
        events,
        [
            lost,
            Event::GoAway {
                code: ErrorCode::NO_ERROR
            }
        ]
    );
    assert!(client.is_live(first) && !client.is_live(second));
    client.assert_invariants();
}

#[test]
fn resets_tell_what_happened() {
    let mut client = client();
    let key = client.open(&request(), 5).unwrap();
    let code = ErrorCode::REFUSED_STREAM;
    let events = feed(&mut client, &reset_frame(1, code)).unwrap();
    assert_eq!(
        events,
        [Event::Reset {
            stream: key,
            user: 5,
            code,
            unprocessed: true,
            complete: false
        }]
    );
    assert_eq!(Reason::from_reset(code), Reason::StreamReset);
    assert_eq!(client.data_header(key, 1, false), Err(SendError::Gone));
    // Both reset at once: silence.
    assert_eq!(feed(&mut client, &reset_frame(1, code)).unwrap(), []);
}

#[test]
fn a_reset_behind_an_orderly_end_leaves_the_bytes() {
    let mut client = client();
    let key = client.open(&request(), 0).unwrap();
    let mut bytes = answer(1, 0);
    bytes.extend(data(1, flag::END_STREAM, b"all of it"));
    bytes.extend(reset_frame(1, ErrorCode::NO_ERROR));
    assert_eq!(feed(&mut client, &bytes).unwrap().len(), 3);
    assert!(client.is_live(key));
    assert_eq!(client.capacity(key), 0);
    client.assert_invariants();
    client.consumed(key, 9);
    assert!(!client.is_live(key));
    client.assert_invariants();
}

#[test]
fn silence_is_asked_and_then_ends_the_connection() {
    let mut client = client();
    assert_eq!(client.next_deadline(), Some(NOW + Millis::seconds(10)));
    client.on_time(NOW + Millis(9_999)).unwrap();
    assert_eq!(sent_kinds(&mut client), []);
    let asked = NOW + Millis::seconds(10);
    client.on_time(asked).unwrap();
    let frames = sent(&mut client);
    assert_eq!((frames[0].0.kind, frames[0].0.flags), (kind::PING, 0));
    client
        .recv(
            asked + Millis(1),
            &frame(kind::PING, 1, 0, &frames[0].1),
            &mut vec![],
        )
        .unwrap();
    client.on_time(asked + Millis::seconds(20)).unwrap();
    let error = client.on_time(asked + Millis::seconds(40)).unwrap_err();
    assert_eq!(
        (error.blame, error.token),
        (Blame::Path, "keepalive_timeout")
    );
    assert_eq!(Reason::from(&error), Reason::TunnelLost);
    assert!(!client.is_open());
}

#[test]
fn a_ping_is_answered_with_its_payload() {
    let mut server = server();
    feed(&mut server, &frame(kind::PING, 0, 0, b"12345678")).unwrap();
    let frames = sent(&mut server);
    assert_eq!(
        (frames[0].0.flags, &frames[0].1[..]),
        (flag::ACK, &b"12345678"[..])
    );
}

#[test]
fn after_an_error_the_streams_are_given_up() {
    let mut server = server();
    let key = flowing(&mut server, 1);
    server.set_user(key, 77);
    feed(&mut server, &update(0, 0)).unwrap_err();
    assert_eq!(server.capacity(key), 0);
    assert_eq!(server.pop_writable(), None);
    assert_eq!(server.take_streams(), [(key, 77)]);
    assert!(!server.is_live(key));
}
