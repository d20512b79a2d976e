// SPDX-License-Identifier: Apache-2.0
//! One HTTP/2 connection that carries CONNECT streams.
//!
//! `inbound` and `messages` say what received frames mean, `outbound` what the caller may send, `closing` how a
//! connection ends. All share `Core`; the byte reader stands beside it so that a piece may borrow
//! from the one while the other changes.

mod closing;
mod config;
mod control;
mod event;
mod inbound;
mod invariants;
mod keepalive;
mod messages;
mod outbound;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::VecDeque;

pub use config::{Config, Role};
pub use event::Event;

use crate::connect::{ConnectRequest, ConnectResponse};
use crate::error::{ConnectionError, ErrorCode, OpenError, SendError};
use crate::flow::{RecvWindow, SendWindow};
use crate::frame::PREFACE;
use crate::hpack::Decoder;
use crate::limits::Buckets;
use crate::reader::Reader;
use crate::settings::{self, DEFAULT_TABLE_SIZE, DEFAULT_WINDOW, PeerSettings, id};
use crate::slab::Slab;
use crate::stream::{Half, Parked, Stream, StreamKey};
use crate::time::Millis;
use closing::Closing;
use control::Control;
use inbound::CurrentData;
use keepalive::Keepalive;
use timers::Stall;

/// See the crate's documentation for one turn of a worker.
#[derive(Debug)]
pub struct Connection {
    reader: Reader,
    core: Core,
}

#[derive(Debug)]
struct Core {
    role: Role,
    config: Config,
    peer: PeerSettings,
    streams: Slab,
    /// Streams with a half that has not ended: what the limits of concurrency count.
    active: usize,
    /// The next stream we open (client), or one above the highest the peer opened (server).
    next_id: u32,
    send_window: SendWindow,
    recv_window: RecvWindow,
    /// The window of new streams towards us: the RFC's until the peer acknowledged a smaller one.
    stream_window: u32,
    /// When the peer must have acknowledged our SETTINGS; `None` once it has.
    settings_due: Option<Millis>,
    control: Control,
    decoder: Decoder,
    /// Scratch of our encoder.
    block: Vec<u8>,
    /// The peer lowered its table size since our last header block.
    shrink_table: bool,
    data: CurrentData,
    parked: VecDeque<StreamKey>,
    keepalive: Keepalive,
    stall: Stall,
    closing: Closing,
    buckets: Buckets,
    failed: Option<ConnectionError>,
}

impl Connection {
    /// A connection whose TLS handshake is done. The preface, SETTINGS and WINDOW_UPDATE are queued.
    pub fn new(role: Role, config: Config, now: Millis) -> Self {
        let reader = Reader::new(
            role == Role::Server,
            config.max_frame,
            config.max_header_list as usize,
        );
        Self {
            reader,
            core: Core::new(role, config, now),
        }
    }

    /// Takes the next received bytes, in any split, and appends what they mean to `events`.
    ///
    /// # Errors
    /// The connection is lost; its GOAWAY is queued. Events before the error are valid.
    pub fn recv(
        &mut self,
        now: Millis,
        bytes: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        let Self { reader, core } = self;
        if let Some(error) = core.failed {
            return Err(error);
        }
        if !bytes.is_empty() {
            core.keepalive.heard(now);
            core.stall.tell(now);
        }
        let mut at = 0;
        loop {
            let outcome = match reader.next(bytes, &mut at) {
                Ok(Some(piece)) => core.piece(now, piece, events),
                Ok(None) => return Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                core.fail(error);
                return Err(error);
            }
        }
    }

    /// Bytes to send before any further DATA frame.
    pub fn control(&self) -> &[u8] {
        self.core.control.bytes()
    }

    /// The first `n` bytes of [`Connection::control`] were moved to the output. Take all if you can:
    /// a rest is moved.
    pub fn control_taken(&mut self, n: usize) {
        self.core.control.taken(n);
    }

    /// Client: queues a CONNECT. DATA may be sent at once, ahead of the answer.
    ///
    /// # Errors
    /// If this connection takes no (more) streams, or not this one.
    pub fn open(&mut self, request: &ConnectRequest, user: u64) -> Result<StreamKey, OpenError> {
        self.core.open(request, user)
    }

    /// Server: answers. With a status other than 2xx the stream ends at once: its key is dead after.
    ///
    /// # Errors
    /// [`SendError::Gone`], or [`SendError::NotNow`] if it was answered before.
    pub fn respond(
        &mut self,
        stream: StreamKey,
        response: &ConnectResponse,
    ) -> Result<(), SendError> {
        self.core.respond(stream, response)
    }

    /// Most bytes the next DATA frame of the stream may carry; at most one TLS record with its frame
    /// header. At 0 for want of window the stream is remembered, and [`Connection::pop_writable`]
    /// gives it once it may go on. 0 also for a stream that may not send (dead, ended, not answered).
    #[inline]
    pub fn capacity(&mut self, stream: StreamKey) -> usize {
        self.core.capacity(stream)
    }

    /// The frame header to put before `len` bytes of DATA; takes them from the windows. `end` ends
    /// our half (`len` may then be 0).
    ///
    /// # Errors
    /// See [`SendError`]; nothing has changed then.
    #[inline]
    pub fn data_header(
        &mut self,
        stream: StreamKey,
        len: usize,
        end: bool,
    ) -> Result<[u8; 9], SendError> {
        self.core.data_header(stream, len, end)
    }

    /// A stream that had no capacity and now has some, fairly in turn.
    pub fn pop_writable(&mut self) -> Option<(StreamKey, u64)> {
        self.core.pop_writable()
    }

    /// The worker stops pumping a stream for its own reasons (budget, output full): its turn comes
    /// again by [`Connection::pop_writable`], behind the others.
    pub fn queue_writable(&mut self, stream: StreamKey) {
        self.core.queue_writable(stream);
    }

    /// The app took `n` bytes of the stream. Credit is given back at half a window. Ignored for dead
    /// keys: their bytes were credited when they died.
    #[inline]
    pub fn consumed(&mut self, stream: StreamKey, n: usize) {
        self.core.consumed(stream, n);
    }

    /// The worker keeps `n` received bytes of the stream in memory of its own until the app takes
    /// them: the connection's window has them back now, the stream's only by
    /// [`Connection::consumed`]. So a few slow apps (a stream window each) do not shut the window of
    /// all; how much is kept over all streams is the worker's to bound.
    #[inline]
    pub fn set_aside(&mut self, stream: StreamKey, n: usize) {
        self.core.set_aside(stream, n);
    }

    /// Ends the stream at once; its key is dead after. Also to be called when the app is gone: a
    /// stream that ended both ways lives until its bytes are consumed, and is then only forgotten.
    pub fn reset(&mut self, stream: StreamKey, code: ErrorCode) {
        self.core.reset(stream, code);
    }

    /// True while the key names a live stream.
    pub fn is_live(&self, stream: StreamKey) -> bool {
        self.core.streams.get(stream).is_some()
    }

    /// The caller's mark of a live stream; 0 until set.
    pub fn user(&self, stream: StreamKey) -> Option<u64> {
        self.core.streams.get(stream).map(|s| s.user)
    }

    /// Sets the caller's mark.
    pub fn set_user(&mut self, stream: StreamKey, user: u64) {
        if let Some(stream) = self.core.streams.get_mut(stream) {
            stream.user = user;
        }
    }

    /// Takes no new streams and tells the peer. A server first warns (GOAWAY with the largest id and
    /// a PING) and says the true last id when the PING returns or after a timeout, so that requests
    /// on their way are not lost (RFC 9113 section 6.8). Safe to call twice.
    pub fn drain(&mut self, now: Millis) {
        self.core.drain(now);
    }

    /// True once draining (or told GOAWAY) and no stream is left: flush [`Connection::control`] and
    /// close.
    pub fn is_finished(&self) -> bool {
        self.core.is_finished()
    }

    /// True if [`Connection::open`] could work now: not closing, and a slot is free.
    pub fn is_open(&self) -> bool {
        self.core.may_open().is_ok()
    }

    /// True while the connection's own send window is shut: another tunnel would be faster.
    pub fn is_congested(&self) -> bool {
        self.core.send_window.available() == 0
    }

    /// Live streams.
    pub fn streams(&self) -> usize {
        self.core.streams.len()
    }

    /// How many streams may be open at once: the smaller of our limit and the peer's.
    pub fn max_streams(&self) -> u32 {
        self.core.max_streams()
    }

    /// After an error or before closing: every live stream and its mark. All keys are dead after.
    pub fn take_streams(&mut self) -> Vec<(StreamKey, u64)> {
        self.core.take_streams()
    }

    /// When [`Connection::on_time`] must be called next. `drain`, and a stream that finds the
    /// connection's window shut, may bring it forward.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.core.next_deadline()
    }

    /// Timers: keepalive PING and its timeout, the second step of a drain, SETTINGS that nobody
    /// acknowledges, a peer that keeps the connection's window shut while streams wait for it.
    ///
    /// # Errors
    /// The peer was not heard of, or did not do its part, for too long. The GOAWAY is queued.
    pub fn on_time(&mut self, now: Millis) -> Result<(), ConnectionError> {
        self.core.on_time(now)
    }
}

impl Core {
    fn new(role: Role, config: Config, now: Millis) -> Self {
        // The RFC has no way to shrink the connection window.
        let connection_window = config.connection_window.max(DEFAULT_WINDOW);
        let mut core = Self {
            role,
            peer: PeerSettings::default(),
            streams: Slab::default(),
            active: 0,
            next_id: 1,
            send_window: SendWindow::new(DEFAULT_WINDOW),
            recv_window: RecvWindow::new(connection_window),
            stream_window: config.stream_window.max(DEFAULT_WINDOW),
            settings_due: Some(now + config.settings_timeout),
            control: Control::default(),
            decoder: Decoder::new(DEFAULT_TABLE_SIZE as usize),
            block: Vec::new(),
            shrink_table: false,
            data: CurrentData::default(),
            parked: VecDeque::new(),
            keepalive: Keepalive::new(config.keepalive_interval, config.keepalive_timeout, now),
            stall: Stall::new(now),
            closing: Closing::default(),
            buckets: Buckets::new(&config.limits, now),
            failed: None,
            config,
        };
        core.greet(connection_window);
        core
    }

    fn greet(&mut self, connection_window: u32) {
        let config = &self.config;
        let own = match self.role {
            Role::Client => {
                self.control.raw(PREFACE);
                (id::ENABLE_PUSH, 0)
            }
            Role::Server => (id::MAX_CONCURRENT_STREAMS, config.max_streams),
        };
        self.control.settings(&settings::encode(&[
            own,
            (id::INITIAL_WINDOW_SIZE, config.stream_window),
            (id::MAX_FRAME_SIZE, config.max_frame),
            (id::MAX_HEADER_LIST_SIZE, config.max_header_list),
        ]));
        if connection_window > DEFAULT_WINDOW {
            self.control
                .window_update(0, connection_window - DEFAULT_WINDOW);
        }
    }

    /// Bytes of the connection's window are done with.
    fn credit_connection(&mut self, n: u32) {
        if let Some(increment) = self.recv_window.credit(n) {
            self.control.window_update(0, increment);
        }
    }

    fn insert(&mut self, stream: Stream) -> StreamKey {
        self.active += 1;
        self.streams.insert(stream)
    }

    /// Forgets a stream; what the app did not take is credited to the connection.
    fn remove(&mut self, key: StreamKey) -> Option<Stream> {
        let stream = self.streams.remove(key)?;
        if !stream.is_closed() {
            self.active -= 1;
        }
        self.credit_connection(stream.held - stream.set_aside);
        Some(stream)
    }

    /// Ends halves of a stream. A closed one stays while the app has bytes to take.
    fn end_half(&mut self, key: StreamKey, send: bool, recv: bool) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let was_closed = stream.is_closed();
        if send {
            stream.send = Half::Ended;
        }
        if recv {
            stream.recv = Half::Ended;
        }
        if stream.is_closed() && !was_closed {
            self.active -= 1;
            if stream.held == 0 {
                self.streams.remove(key);
            }
        }
    }

    /// A stream's own window opened: it waits for the connection's now, if it waits at all.
    fn unpark(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key)
            && stream.parked == Parked::Shut
            && stream.send_window.available() > 0
        {
            stream.parked = Parked::Queued;
            self.parked.push_back(key);
        }
    }

    fn max_streams(&self) -> u32 {
        self.peer
            .max_concurrent_streams
            .unwrap_or(u32::MAX)
            .min(self.config.max_streams)
    }
}
