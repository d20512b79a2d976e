// SPDX-License-Identifier: Apache-2.0
//! HBONE without sockets: HTTP/2 as far as CONNECT tunnels need it, the tunnel pool, the reasons.
//!
//! The caller (a worker of `hbone-core`) brings bytes, time and buffers; this crate brings meaning.
//! It owns no socket, clock, thread, lock, logger or source of randomness, so every behaviour can be
//! tested in virtual time.
//!
//! ```text
//!  decrypted record ──▶ Connection::recv ──▶ Vec<Event>   (DATA as ranges into that record)
//!                                     │
//!  control bytes    ◀── Connection::control     HEADERS, SETTINGS, WINDOW_UPDATE, RST_STREAM, ...
//!  9-byte header    ◀── Connection::data_header  the app's bytes are read where they are sealed
//!  next timer       ◀── Connection::next_deadline / on_time
//!
//!  which tunnel     ◀── Pool::acquire     one tunnel, one dial or one wait per new stream
//! ```
//!
//! # One turn of a worker
//! 1. For each decrypted record: [`Connection::recv`], then handle the events **in order**. A
//!    [`Event::Data`] range is only valid for the record just given. Call
//!    [`Connection::consumed`] when (and only when) the app took the bytes;
//!    [`Connection::set_aside`] for what waits for a slow app.
//! 2. Pop blocked streams with [`Connection::pop_writable`] while there is room for output, and pump
//!    each: [`Connection::capacity`], read at most that much from the app behind 9 free bytes, then
//!    [`Connection::data_header`].
//! 3. Always move [`Connection::control`] to the output **before** the next DATA frame (HEADERS of a
//!    stream must precede its DATA). While the output is full, leave it but read on (two ends that
//!    both waited for the other to read would wait for ever): answers that wait in `control` are
//!    counted against a peer that does not read, and the caller bounds its length.
//! 4. On an `Err` from `recv` or `on_time`: the GOAWAY is already in `control`; flush it, end every
//!    stream of [`Connection::take_streams`], close the socket.
//!
//! Rules: RFC 9113 (HTTP/2), RFC 7541 (HPACK), RFC 7239 (Forwarded), W3C Trace Context and Baggage.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod connect;
pub mod connection;
pub mod error;
pub mod flow;
pub mod frame;
pub mod hpack;
pub mod limits;
pub mod placement;
pub mod pool;
mod reader;
pub mod reason;
pub mod settings;
mod slab;
pub mod stream;
mod time;

pub use connect::{Authority, ConnectRequest, ConnectResponse, Forwarded, TraceParent};
pub use connection::{Config, Connection, Event, Role};
pub use error::{Blame, ConnectionError, ErrorCode, OpenError, SendError};
pub use pool::{Acquire, Next, Pool, PoolConfig, PoolKey, TunnelId};
pub use reason::Reason;
pub use stream::StreamKey;
pub use time::Millis;
