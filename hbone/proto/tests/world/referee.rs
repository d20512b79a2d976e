// SPDX-License-Identifier: Apache-2.0
//! Keeps the flow control of one sender by RFC 9113 alone, from the frames on the wire. It shares no
//! code with the crate but the frame header.

use std::collections::HashMap;

use hbone_proto::frame::{HEADER_LEN, Header, PREFACE, flag, kind};

const DEFAULT_WINDOW: i64 = 65_535;
const MAX_WINDOW: i64 = 0x7fff_ffff;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Puts frames together from bytes in any split.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// Whole frames, after these bytes.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Header, &[u8])) {
        self.bytes.extend_from_slice(bytes);
        let mut at = 0;
        if self.bytes.starts_with(PREFACE) {
            at = PREFACE.len();
        } else if PREFACE.starts_with(&self.bytes) {
            return;
        }
        while let Some(head) = self.bytes[at..].first_chunk::<HEADER_LEN>() {
            let header = Header::decode(head);
            let end = at + HEADER_LEN + header.length as usize;
            let Some(payload) = self.bytes.get(at + HEADER_LEN..end) else {
                break;
            };
            each(header, payload);
            at = end;
        }
        self.bytes.drain(..at);
    }
}

/// The windows of one direction.
#[derive(Debug)]
pub struct Referee {
    sent: Frames,
    granted: Frames,
    books: Books,
}

#[derive(Debug)]
struct Books {
    connection: i64,
    initial: i64,
    streams: HashMap<u32, i64>,
    /// Largest sizes the receiver configured: beyond them it never grants.
    most_connection: i64,
    most_stream: i64,
}

impl Referee {
    /// The receiver's configured windows bound what it may grant.
    pub fn new(stream_window: u32, connection_window: u32) -> Self {
        let books = Books {
            connection: DEFAULT_WINDOW,
            initial: DEFAULT_WINDOW,
            streams: HashMap::new(),
            most_connection: i64::from(connection_window).max(DEFAULT_WINDOW),
            most_stream: i64::from(stream_window).max(DEFAULT_WINDOW),
        };
        Self {
            sent: Frames::default(),
            granted: Frames::default(),
            books,
        }
    }

    /// The sender put these bytes on the wire.
    pub fn sends(&mut self, bytes: &[u8]) {
        let books = &mut self.books;
        self.sent.feed(bytes, |header, _| match header.kind {
            kind::DATA => {
                let length = i64::from(header.length);
                assert!(
                    length > 0 || header.has(flag::END_STREAM),
                    "an empty frame that ends nothing"
                );
                let window = books.stream(header.stream);
                *window -= length;
                let left = *window;
                books.connection -= length;
                assert!(length == 0 || left >= 0, "stream {} overrun", header.stream);
                assert!(
                    length == 0 || books.connection >= 0,
                    "the connection's window overrun"
                );
            }
            kind::HEADERS => drop(books.stream(header.stream)),
            _ => {}
        });
    }

    /// The sender received these bytes.
    pub fn receives(&mut self, bytes: &[u8]) {
        let books = &mut self.books;
        self.granted
            .feed(bytes, |header, payload| match header.kind {
                kind::WINDOW_UPDATE => books.credit(header.stream, word(payload)),
                kind::SETTINGS if !header.has(flag::ACK) => books.settings(payload),
                kind::HEADERS => drop(books.stream(header.stream)),
                _ => {}
            });
    }

    /// What the sender may still send over all streams.
    pub fn connection_window(&self) -> i64 {
        self.books.connection
    }

    /// What the sender may still send on a stream.
    pub fn stream_window(&self, id: u32) -> i64 {
        *self.books.streams.get(&id).unwrap_or(&self.books.initial)
    }
}

impl Books {
    fn stream(&mut self, id: u32) -> &mut i64 {
        self.streams.entry(id).or_insert(self.initial)
    }

    fn credit(&mut self, id: u32, increment: i64) {
        assert_ne!(increment, 0);
        let (window, most) = if id == 0 {
            (&mut self.connection, self.most_connection)
        } else {
            let most = self.most_stream;
            (self.stream(id), most)
        };
        *window += increment;
        assert!(*window <= most, "{window} granted on {id}, {most} set");
    }

    fn settings(&mut self, payload: &[u8]) {
        for entry in payload.chunks(6) {
            if u16::from_be_bytes([entry[0], entry[1]]) == INITIAL_WINDOW_SIZE {
                let value = word(&entry[2..]);
                let change = value - self.initial;
                self.initial = value;
                for window in self.streams.values_mut() {
                    *window += change;
                    assert!(*window <= MAX_WINDOW);
                }
            }
        }
    }
}

fn word(bytes: &[u8]) -> i64 {
    i64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) & MAX_WINDOW as u32)
}
