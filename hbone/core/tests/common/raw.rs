// SPDX-License-Identifier: Apache-2.0
//! A client of our own making at the HBONE port: what ours would not do, others may.

use crate::common::{CLIENT_ID, PATIENCE, Pair, SERVER_ID};
use hbone_proto::{
    Authority, Config, ConnectRequest, ConnectResponse, Connection, ErrorCode, Event, Forwarded,
    Millis, Role, StreamKey,
};
use hbone_sys::socket;
use hbone_tls::{
    ExpectedPeers, HEADER_LEN, Handshake, OVERHEAD, Opened, Session, Svid, record_body_len,
};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

pub struct Client {
    pub socket: TcpStream,
    pub session: Session,
    pub h2: Connection,
    events: Vec<Event>,
    /// Bytes of DATA, in order.
    pub data: Vec<u8>,
}

impl Client {
    pub fn connect(pair: &Pair) -> Self {
        let socket = TcpStream::connect(pair.hbone).unwrap();
        Self::over(socket, &pair.authority.svid(CLIENT_ID))
    }

    /// From an address of its own, so that limits count it apart from the victim.
    pub fn connect_from(source: IpAddr, to: SocketAddr, svid: &Svid) -> Self {
        Self::over(dial_from(source, to).unwrap(), svid)
    }

    pub fn over(mut socket: TcpStream, svid: &Svid) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        let expected = ExpectedPeers::any_of([SERVER_ID.parse().unwrap()]);
        let mut handshake = Handshake::client(svid, &expected).unwrap();
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

    pub fn open(&mut self, authority: SocketAddr) -> StreamKey {
        let request = ConnectRequest {
            authority: Authority::Address(authority),
            baggage: None,
            forwarded: Forwarded::default(),
            traceparent: None,
        };
        self.h2.open(&request, 1).unwrap()
    }

    /// Everything queued, and these bytes after it, in one record.
    pub fn send(&mut self, more: &[u8]) {
        let content = [self.h2.control(), more].concat();
        self.h2.control_taken(self.h2.control().len());
        let mut record = vec![0; content.len() + OVERHEAD];
        record[HEADER_LEN..HEADER_LEN + content.len()].copy_from_slice(&content);
        self.session.seal(&mut record).unwrap();
        self.socket.write_all(&record).unwrap();
    }

    /// These bytes as one record, and nothing of the protocol core's; false once the peer is gone.
    pub fn blurt(&mut self, content: &[u8]) -> bool {
        let mut record = vec![0; content.len() + OVERHEAD];
        record[HEADER_LEN..HEADER_LEN + content.len()].copy_from_slice(content);
        self.session.seal(&mut record).unwrap();
        self.socket.write_all(&record).is_ok()
    }

    pub fn frame(&mut self, key: StreamKey, data: &[u8], end: bool) -> Vec<u8> {
        let header = self.h2.data_header(key, data.len(), end).unwrap();
        [&header[..], data].concat()
    }

    /// Reads until an event matches; DATA is collected on the way.
    pub fn wait(&mut self, matches: impl Fn(&Event) -> bool) {
        loop {
            if let Some(at) = self.events.iter().position(&matches) {
                self.events.drain(..=at);
                return;
            }
            let Some(body) = self.record().unwrap() else {
                continue;
            };
            let mut events = Vec::new();
            self.h2.recv(Millis(0), &body, &mut events).unwrap();
            for event in &events {
                if let Event::Data { range, .. } = event {
                    self.data.extend_from_slice(&body[range.clone()]);
                }
            }
            self.events.extend(events);
        }
    }

    pub fn wait_status(&mut self, wanted: u16) {
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

    /// Takes one record in, DATA collected; true if TLS itself had something to say.
    pub fn read_one(&mut self) -> bool {
        let Some(body) = self.record().unwrap() else {
            return true;
        };
        let mut events = Vec::new();
        self.h2.recv(Millis(0), &body, &mut events).unwrap();
        for event in &events {
            if let Event::Data { range, .. } = event {
                self.data.extend_from_slice(&body[range.clone()]);
            }
        }
        false
    }

    /// The next record's content; `None` if TLS itself had something to say.
    fn record(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut header = [0; HEADER_LEN];
        self.socket.read_exact(&mut header)?;
        let mut body = vec![0; record_body_len(header).unwrap()];
        self.socket.read_exact(&mut body)?;
        match self.session.open(header, &mut body) {
            Ok(Opened::Data(count)) => {
                body.truncate(count);
                Ok(Some(body))
            }
            Ok(Opened::Control) => Ok(None),
            Ok(Opened::Close) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }

    /// Reads until every stream has ended both ways.
    pub fn wait_idle(&mut self) {
        let mut events = Vec::new();
        while self.h2.streams() > 0 {
            let Some(body) = self.record().unwrap() else {
                continue;
            };
            self.h2.recv(Millis(0), &body, &mut events).unwrap();
        }
        self.events.clear();
    }

    /// Reads until the peer ends the connection; the code of its GOAWAY, if it sent one.
    pub fn wait_end(&mut self) -> Option<ErrorCode> {
        let mut all = Vec::new();
        while let Ok(content) = self.record() {
            all.extend(content.unwrap_or_default());
        }
        last_go_away(&all)
    }
}

/// A connection from an address of the loopback network.
pub fn dial_from(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let fd = socket::tcp(to)?;
    socket::bind_address(&fd, source)?;
    socket::start_connect(&fd, to)?;
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// One HTTP/2 frame.
pub fn h2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Walks whole frames; what was cut off in the middle is no GOAWAY.
fn last_go_away(mut bytes: &[u8]) -> Option<ErrorCode> {
    let mut found = None;
    while let Some(head) = bytes.first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = bytes.get(9..9 + length)?;
        if head[3] == 7 {
            found = payload[4..]
                .first_chunk()
                .map(|code| ErrorCode(u32::from_be_bytes(*code)));
        }
        bytes = &bytes[9 + length..];
    }
    found
}
