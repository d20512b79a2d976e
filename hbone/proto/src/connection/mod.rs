// SPDX-License-Identifier: Apache-2.0
//! One HTTP/2 connection that carries CONNECT streams.

use std::ops::Range;

use crate::connect::{ConnectRequest, ConnectResponse};
use crate::error::{ConnectionError, ErrorCode, OpenError, SendError};
use crate::reason::Reason;
use crate::stream::StreamKey;
use crate::time::Millis;

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens streams.
    Client,
    /// Answers them.
    Server,
}

/// Windows, sizes and times of one connection. Start from [`Config::client`] or [`Config::server`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes a peer may send on one stream before the app takes any.
    pub stream_window: u32,
    /// The same over all streams of the connection.
    pub connection_window: u32,
}

impl Config {
    /// What a client uses, equal to ztunnel's values on the wire.
    pub fn client() -> Self {
        todo!()
    }
    /// What a server uses.
    pub fn server() -> Self {
        todo!()
    }
}

/// Something that happened, in the order it happened. `user` is the caller's mark of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Server: a CONNECT arrived. Give it a mark with [`Connection::set_user`] and answer it with
    /// [`Connection::respond`]. DATA may follow before the answer.
    Opened {
        /// The new stream.
        stream: StreamKey,
        /// What it asks for.
        request: Box<ConnectRequest>,
        /// The client has already ended its half.
        end: bool,
    },
    /// Server: a request was answered with an error here, before it became a stream of the caller
    /// (not CONNECT, bad authority, limits). For counters only.
    Refused {
        /// What was answered.
        status: u16,
        /// Why.
        reason: Reason,
    },
    /// Client: the answer to a CONNECT.
    Response {
        /// The stream.
        stream: StreamKey,
        /// The caller's mark.
        user: u64,
        /// The answer.
        response: Box<ConnectResponse>,
        /// The server has already ended its half.
        end: bool,
    },
    /// Bytes for the app: `range` of the slice given to this `recv`. May be empty if `end`.
    Data {
        /// The stream.
        stream: StreamKey,
        /// The caller's mark.
        user: u64,
        /// Where the bytes are.
        range: Range<usize>,
        /// The peer ends its half after these bytes.
        end: bool,
    },
    /// The stream is gone and its key dead: reset by the peer, or by us because the peer broke the
    /// rules of the stream. Bytes not yet consumed were credited already.
    Reset {
        /// The stream.
        stream: StreamKey,
        /// The caller's mark.
        user: u64,
        /// The code of RST_STREAM.
        code: ErrorCode,
        /// The peer says that it did nothing with the request: it may be sent again elsewhere.
        unprocessed: bool,
    },
    /// The peer takes no new streams. Streams that it will not process were reset before this.
    GoAway {
        /// Its code.
        code: ErrorCode,
    },
    /// The peer's SETTINGS arrived: [`Connection::max_streams`] may have changed.
    SettingsChanged,
}

/// See the crate's documentation for one turn of a worker.
#[derive(Debug)]
pub struct Connection {}

#[allow(unused_variables)]
impl Connection {
    /// A connection whose TLS handshake is done. The preface, SETTINGS and WINDOW_UPDATE are queued.
    pub fn new(role: Role, config: Config, now: Millis) -> Self {
        todo!()
    }
    /// Takes the next received bytes, in any split, and appends what they mean to `events`.
    pub fn recv(
        &mut self,
        now: Millis,
        bytes: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        todo!()
    }
    /// Bytes to send before any further DATA frame.
    pub fn control(&self) -> &[u8] {
        todo!()
    }
    /// The first `n` bytes of `control` were moved to the output.
    pub fn control_taken(&mut self, n: usize) {
        todo!()
    }
    /// Client: queues a CONNECT. DATA may be sent at once.
    pub fn open(&mut self, request: &ConnectRequest, user: u64) -> Result<StreamKey, OpenError> {
        todo!()
    }
    /// Server: answers. With a status other than 2xx the stream ends at once (its key is dead after).
    pub fn respond(
        &mut self,
        stream: StreamKey,
        response: &ConnectResponse,
    ) -> Result<(), SendError> {
        todo!()
    }
    /// Most bytes the next DATA frame of the stream may carry; at most one TLS record with its frame
    /// header. At 0 the stream is remembered, and [`Connection::pop_writable`] gives it once it may
    /// go on.
    pub fn capacity(&mut self, stream: StreamKey) -> usize {
        todo!()
    }
    /// The frame header to put before `len` bytes of DATA; takes them from the windows. `end` ends
    /// our half (`len` may then be 0).
    pub fn data_header(
        &mut self,
        stream: StreamKey,
        len: usize,
        end: bool,
    ) -> Result<[u8; 9], SendError> {
        todo!()
    }
    /// A stream that had no capacity and now has some, fairly in turn.
    pub fn pop_writable(&mut self) -> Option<(StreamKey, u64)> {
        todo!()
    }
    /// The worker stops pumping a stream for its own reasons (budget, output full): its turn comes
    /// again by `pop_writable`, behind the others.
    pub fn queue_writable(&mut self, stream: StreamKey) {
        todo!()
    }
    /// The app took `n` bytes of the stream. Credit is given back at half a window. Ignored for dead
    /// keys: their bytes were credited when they died.
    pub fn consumed(&mut self, stream: StreamKey, n: usize) {
        todo!()
    }
    /// Ends the stream at once; its key is dead after. Also to be called when the app is gone and
    /// the stream had ended both ways but bytes were not consumed.
    pub fn reset(&mut self, stream: StreamKey, code: ErrorCode) {
        todo!()
    }
    /// True while the key names a live stream.
    pub fn is_live(&self, stream: StreamKey) -> bool {
        todo!()
    }
    /// The caller's mark of a live stream.
    pub fn user(&self, stream: StreamKey) -> Option<u64> {
        todo!()
    }
    /// Sets the caller's mark.
    pub fn set_user(&mut self, stream: StreamKey, user: u64) {
        todo!()
    }
    /// Takes no new streams and tells the peer: the server first warns (GOAWAY with the largest id
    /// and a PING), and gives the true last id when the PING returns or after a timeout.
    pub fn drain(&mut self, now: Millis) {
        todo!()
    }
    /// True once draining (or told GOAWAY) and no stream is left: flush `control` and close.
    pub fn is_finished(&self) -> bool {
        todo!()
    }
    /// True if `open` could work now.
    pub fn is_open(&self) -> bool {
        todo!()
    }
    /// Streams alive.
    pub fn streams(&self) -> usize {
        todo!()
    }
    /// How many streams the peer lets us have at once.
    pub fn max_streams(&self) -> u32 {
        todo!()
    }
    /// After an error or before closing: every live stream's mark. All keys are dead after.
    pub fn take_streams(&mut self) -> Vec<(StreamKey, u64)> {
        todo!()
    }
    /// When `on_time` must be called next.
    pub fn next_deadline(&self) -> Option<Millis> {
        todo!()
    }
    /// Timers: keepalive PING and its timeout, the second step of a drain.
    pub fn on_time(&mut self, now: Millis) -> Result<(), ConnectionError> {
        todo!()
    }
}
