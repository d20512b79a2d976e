// SPDX-License-Identifier: Apache-2.0
//! A client of our own making at the HBONE port: what ours would not do, others may.

mod common;

use common::*;
use hbone_proto::{
    Authority, Config, ConnectRequest, ConnectResponse, Connection, ErrorCode, Event, Forwarded,
    Millis, Role, StreamKey,
};
use hbone_tls::{ExpectedPeers, HEADER_LEN, Handshake, OVERHEAD, Opened, Session, record_body_len};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

struct Client {
    socket: TcpStream,
    session: Session,
    h2: Connection,
    events: Vec<Event>,
    /// Bytes of DATA, in order.
    data: Vec<u8>,
}

impl Client {
    fn connect(pair: &Pair) -> Self {
        let mut socket = TcpStream::connect(pair.hbone).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let expected = ExpectedPeers::any_of([SERVER_ID.parse().unwrap()]);
        let mut handshake = Handshake::client(&pair.authority.svid(CLIENT_ID), &expected).unwrap();
        let mut input = Vec::new();
        loop {
            let mut out = Vec::new();
            let step = handshake.step(&mut input, &mut out).unwrap();
            input.drain(..step.consumed);
            socket.write_all(&out).unwrap();
            if step.done {
                break;
            }
            let mut chunk = [0; 4096];
            let count = socket.read(&mut chunk).unwrap();
            assert_ne!(count, 0, "the handshake was cut off");
            input.extend_from_slice(&chunk[..count]);
        }
        assert!(input.is_empty(), "our server speaks only when spoken to");
        let session = handshake.finish().unwrap();
        let h2 = Connection::new(Role::Client, Config::client(), Millis(0));
        Self {
            socket,
            session,
            h2,
            events: Vec::new(),
            data: Vec::new(),
        }
    }

    fn open(&mut self, authority: SocketAddr) -> StreamKey {
        let request = ConnectRequest {
            authority: Authority::Address(authority),
            baggage: None,
            forwarded: Forwarded::default(),
            traceparent: None,
        };
        self.h2.open(&request, 1).unwrap()
    }

    /// Everything queued, and these bytes after it, in one record.
    fn send(&mut self, more: &[u8]) {
        let content = [self.h2.control(), more].concat();
        self.h2.control_taken(self.h2.control().len());
        let mut record = vec![0; content.len() + OVERHEAD];
        record[HEADER_LEN..HEADER_LEN + content.len()].copy_from_slice(&content);
        self.session.seal(&mut record).unwrap();
        self.socket.write_all(&record).unwrap();
    }

    fn frame(&mut self, key: StreamKey, data: &[u8], end: bool) -> Vec<u8> {
        let header = self.h2.data_header(key, data.len(), end).unwrap();
        [&header[..], data].concat()
    }

    /// Reads until an event matches; DATA is collected on the way.
    fn wait(&mut self, matches: impl Fn(&Event) -> bool) {
        loop {
            if let Some(at) = self.events.iter().position(&matches) {
                self.events.drain(..=at);
                return;
            }
            let mut header = [0; HEADER_LEN];
            self.socket.read_exact(&mut header).unwrap();
            let mut body = vec![0; record_body_len(header).unwrap()];
            self.socket.read_exact(&mut body).unwrap();
            let Opened::Data(count) = self.session.open(header, &mut body).unwrap() else {
                continue;
            };
            let mut events = Vec::new();
            self.h2
                .recv(Millis(0), &body[..count], &mut events)
                .unwrap();
            for event in &events {
                if let Event::Data { range, .. } = event {
                    self.data.extend_from_slice(&body[range.clone()]);
                }
            }
            self.events.extend(events);
        }
    }

    fn wait_status(&mut self, wanted: u16) {
        self.wait(|event| match event {
            Event::Response {
                response: answer, ..
            } => {
                let ConnectResponse { status, .. } = **answer;
                assert_eq!(status, wanted);
                true
            }
            _ => false,
        });
    }
}

#[test]
fn data_may_come_in_the_record_of_its_connect() {
    let pair = Pair::new();
    let mut client = Client::connect(&pair);
    let key = client.open(pair.app.local_addr().unwrap());
    let early = client.frame(key, b"early, and all of it", true);
    client.send(&early);
    let (mut far, _) = pair.app.accept().unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    far.read_to_string(&mut text).unwrap();
    assert_eq!(text, "early, and all of it");
    far.write_all(b"thanks").unwrap();
    drop(far);
    client.wait_status(200);
    client.wait(|event| matches!(event, Event::Data { end: true, .. }));
    assert_eq!(client.data, b"thanks");
    assert_eq!(wait_closed(&pair.server).bytes_received, 20);
}

#[test]
fn a_connect_that_is_reset_in_its_own_record_dials_nobody() {
    let pair = Pair::new();
    let mut client = Client::connect(&pair);
    let first = client.open(pair.app.local_addr().unwrap());
    let early = client.frame(first, b"never mind", false);
    // RST_STREAM comes behind the DATA.
    let mut wire = [client.h2.control(), &early].concat();
    client.h2.control_taken(client.h2.control().len());
    client.h2.reset(first, ErrorCode::CANCEL);
    wire.extend_from_slice(client.h2.control());
    client.h2.control_taken(client.h2.control().len());
    client.send(&wire);
    // The next is served as if nothing had been.
    client.open(pair.app.local_addr().unwrap());
    client.send(&[]);
    client.wait_status(200);
    assert_eq!(pair.server.connections().unwrap().len(), 1);
    pair.app.accept().unwrap();
    pair.app.set_nonblocking(true).unwrap();
    assert!(pair.app.accept().is_err(), "the first was dialled");
}

#[test]
fn an_authority_must_be_the_address_that_was_dialled() {
    let pair = Pair::new();
    let mut client = Client::connect(&pair);
    let port = pair.app.local_addr().unwrap().port();
    client.open(SocketAddr::new(CLIENT_IP, port));
    client.send(&[]);
    client.wait_status(400);
    client.open(SocketAddr::new(SERVER_IP, port));
    client.send(&[]);
    client.wait_status(200);
}
