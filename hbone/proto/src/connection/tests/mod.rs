// SPDX-License-Identifier: Apache-2.0
//! A connection against a scripted peer (`rules`, `flows`, `windows`, `ending`, `timers`), in any split (`splits`), and
//! against another connection in virtual time (`pair`).

mod ending;
mod flows;
mod pair;
mod rules;
mod splits;
mod timers;
mod windows;

use super::*;
use crate::connect::{Authority, Forwarded};
use crate::frame::{Header, flag, kind};
use crate::hpack::Encoder;

const NOW: Millis = Millis(1_000_000);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    crate::frame::put(&mut out, kind, flags, stream, payload);
    out
}

fn settings_frame(entries: &[(u16, u32)]) -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &settings::encode(entries))
}

fn update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

fn reset_frame(stream: u32, code: ErrorCode) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes())
}

fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, payload)
}

fn request() -> ConnectRequest {
    ConnectRequest {
        authority: "10.1.2.3:80".parse::<Authority>().unwrap(),
        baggage: Some("k8s.namespace.name=shop".into()),
        forwarded: Forwarded {
            source: Some("10.0.0.1:5".parse().unwrap()),
            host: None,
        },
        traceparent: None,
    }
}

fn ok() -> ConnectResponse {
    ConnectResponse {
        status: 200,
        baggage: Some("a=b".into()),
    }
}

fn request_block() -> Vec<u8> {
    let mut block = Vec::new();
    request().encode(&mut Encoder::new(&mut block, false));
    block
}

/// HEADERS of a whole CONNECT.
fn connect(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, &request_block())
}

fn answer(stream: u32, flags: u8) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | flags, stream, &[0x88])
}

/// Everything queued, frame by frame.
fn sent(connection: &mut Connection) -> Vec<(Header, Vec<u8>)> {
    let bytes = connection.control().to_vec();
    connection.control_taken(bytes.len());
    let mut rest = bytes.strip_prefix(&PREFACE[..]).unwrap_or(&bytes);
    let mut frames = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<9>() {
        let header = Header::decode(head);
        let (payload, tail) = tail.split_at(header.length as usize);
        frames.push((header, payload.to_vec()));
        rest = tail;
    }
    frames
}

fn sent_kinds(connection: &mut Connection) -> Vec<u8> {
    sent(connection)
        .iter()
        .map(|(header, _)| header.kind)
        .collect()
}

fn feed(connection: &mut Connection, bytes: &[u8]) -> Result<Vec<Event>, ConnectionError> {
    let mut events = Vec::new();
    connection.recv(NOW, bytes, &mut events).map(|()| events)
}

/// A server that has greeted and been greeted, with nothing queued.
fn server_with(config: Config) -> Connection {
    let mut server = Connection::new(Role::Server, config, NOW);
    let mut hello = PREFACE.to_vec();
    hello.extend(settings_frame(&[]));
    hello.extend(frame(kind::SETTINGS, flag::ACK, 0, &[]));
    assert_eq!(feed(&mut server, &hello).unwrap(), [Event::SettingsChanged]);
    sent(&mut server);
    server
}

fn server() -> Connection {
    server_with(Config::server())
}

fn client_with(config: Config) -> Connection {
    let mut client = Connection::new(Role::Client, config, NOW);
    let mut hello = settings_frame(&[]);
    hello.extend(frame(kind::SETTINGS, flag::ACK, 0, &[]));
    feed(&mut client, &hello).unwrap();
    sent(&mut client);
    client
}

fn client() -> Connection {
    client_with(Config::client())
}

/// Feeds a CONNECT and gives the key of its stream.
fn opened(server: &mut Connection, id: u32) -> StreamKey {
    match &feed(server, &connect(id)).unwrap()[..] {
        [
            Event::Opened {
                stream,
                request: got,
                end: false,
            },
        ] => {
            assert_eq!(**got, request());
            *stream
        }
        other => panic!("{other:?}"),
    }
}

/// Opens and answers.
fn flowing(server: &mut Connection, id: u32) -> StreamKey {
    let key = opened(server, id);
    server.respond(key, &ok()).unwrap();
    sent(server);
    key
}
