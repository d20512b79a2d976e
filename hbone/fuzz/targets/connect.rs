// SPDX-License-Identifier: Apache-2.0
//! Requests and answers: `:authority`, `forwarded`, `baggage`, `traceparent` and all else that a
//! field can be.
//!
//! Input: lines `name: value`; a first line `answer` makes it one for a client.
//! Held: no panic; one event or one reset, never both; what was understood is printable, and says
//! the same when we write it and read it again.
#![no_main]

use hbone_fuzz::script::{NOW, connection, frame, hello};
use hbone_proto::frame::{flag, kind};
use hbone_proto::{ConnectRequest, Event, Role, StreamKey};
use libfuzzer_sys::fuzz_target;

/// Literal fields; nothing the encoder of ours would refuse to write.
fn block(lines: &[&[u8]]) -> Vec<u8> {
    let mut block = Vec::new();
    for line in lines {
        let colon = line.iter().skip(1).position(|&b| b == b':');
        let (name, value) = match colon {
            Some(at) => (&line[..=at], &line[at + 2..]),
            None => (*line, &[][..]),
        };
        block.push(0);
        string(&mut block, name);
        string(&mut block, value.strip_prefix(b" ").unwrap_or(value));
    }
    block
}

fn string(block: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text.len();
    if rest < 0x7f {
        block.push(rest as u8);
    } else {
        block.push(0x7f);
        rest -= 0x7f;
        while rest >= 0x80 {
            block.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(text);
}

fn send(role: Role, block: &[u8]) -> Vec<Event> {
    let mut to = connection(role, false);
    let mut events = Vec::new();
    to.recv(NOW, &hello(role), &mut events).expect("a hello");
    events.clear();
    let outcome = to.recv(
        NOW,
        &frame(kind::HEADERS, flag::END_HEADERS, 1, block),
        &mut events,
    );
    assert!(outcome.is_ok() || events.is_empty());
    to.assert_invariants();
    assert!(events.len() <= 1, "{events:?}");
    events
}

fn check_texts(request: &ConnectRequest) {
    let host = request.forwarded.host.as_deref();
    for text in request.baggage.as_deref().into_iter().chain(host) {
        assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{text:?}");
    }
    let authority = request.authority.to_string();
    assert_eq!(authority.parse().as_ref(), Ok(&request.authority));
    assert_ne!(request.authority.port(), 0);
}

/// Through a client of ours to a server of ours.
fn survives(request: &ConnectRequest) {
    let mut client = connection(Role::Client, false);
    client
        .recv(NOW, &hello(Role::Client), &mut Vec::new())
        .expect("a hello");
    client.control_taken(usize::MAX);
    let key: StreamKey = client.open(request, 7).expect("it fits");
    let mut server = connection(Role::Server, false);
    server
        .recv(NOW, &hello(Role::Server), &mut Vec::new())
        .expect("a hello");
    let mut events = Vec::new();
    server
        .recv(NOW, client.control(), &mut events)
        .expect("what we write");
    match &events[..] {
        [
            Event::Opened {
                stream,
                request: again,
                end: false,
            },
        ] => {
            assert_eq!(stream.id(), key.id());
            assert_eq!(**again, *request);
        }
        other => panic!("{other:?}"),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut lines: Vec<&[u8]> = data.split(|&b| b == b'\n').collect();
    if lines[0] == b"answer" {
        send(Role::Client, &block(&lines.split_off(1)));
        return;
    }
    if let [Event::Opened { request, .. }] = &send(Role::Server, &block(&lines))[..] {
        check_texts(request);
        survives(request);
    }
});
