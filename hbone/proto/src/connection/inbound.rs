// SPDX-License-Identifier: Apache-2.0
//! What received frames mean.
//!
//! Violations end the connection even where the RFC would let a stream error do: mesh peers do not
//! make them, and resetting on demand is an attack (CVE-2025-8671). Streams alone end for malformed
//! messages and overflowed windows.

use crate::error::{ConnectionError, ErrorCode};
use crate::frame::{Header, flag, kind};
use crate::reader::Piece;
use crate::stream::{Half, StreamKey};
use crate::time::Millis;

use super::{Core, Event, Role};

/// The DATA frame that is being received.
#[derive(Debug, Default)]
pub(super) struct CurrentData {
    /// `None`: its stream is dead, the bytes are dropped.
    key: Option<StreamKey>,
    end: bool,
}

pub(super) type Done = Result<(), ConnectionError>;

impl Core {
    pub(super) fn piece(&mut self, now: Millis, piece: Piece<'_>, events: &mut Vec<Event>) -> Done {
        match piece {
            Piece::Chunk { range, last } => {
                self.on_chunk(range, last, events);
                Ok(())
            }
            Piece::Begin {
                stream,
                flow,
                data,
                end,
            } => self.on_data(now, stream, flow, data, end),
            Piece::Frame { header, payload } => self.on_frame(now, header, payload, events),
            Piece::Headers { stream, end, block } => match self.role {
                Role::Server => self.on_request(now, stream, end, block, events),
                Role::Client => self.on_response(now, stream, end, block, events),
            },
            Piece::Fragment => Ok(()),
            Piece::Unknown => self.glitch(now),
        }
    }

    fn on_frame(
        &mut self,
        now: Millis,
        header: Header,
        payload: &[u8],
        events: &mut Vec<Event>,
    ) -> Done {
        let word = |at: usize| {
            payload[at..]
                .first_chunk()
                .map_or(0, |b| u32::from_be_bytes(*b))
        };
        match header.kind {
            kind::WINDOW_UPDATE => {
                self.on_window_update(now, header.stream, word(0) & 0x7fff_ffff, events)
            }
            kind::RST_STREAM => self.on_reset(now, header.stream, ErrorCode(word(0)), events),
            kind::SETTINGS if header.has(flag::ACK) => self.on_settings_ack(now),
            kind::SETTINGS => self.on_settings(now, payload, events),
            kind::PING => self.on_ping(now, header.has(flag::ACK), payload),
            kind::GOAWAY => self.on_go_away(now, word(0) & 0x7fff_ffff, ErrorCode(word(4)), events),
            // PRIORITY is deprecated (RFC 9113 section 5.3.2).
            _ => self.glitch(now),
        }
    }

    pub(super) fn glitch(&mut self, now: Millis) -> Done {
        self.buckets.glitches.take(now, "too_many_glitches")
    }

    /// Nobody opened this stream yet (RFC 9113 section 5.1). Servers open none here.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        id.is_multiple_of(2) || id >= self.next_id
    }

    fn on_data(&mut self, now: Millis, id: u32, flow: u32, data: u32, end: bool) -> Done {
        if self.is_idle(id) {
            return Err(ConnectionError::protocol("data_on_idle_stream"));
        }
        if data == 0 && !end {
            self.buckets.empty_data.take(now, "too_many_empty_frames")?;
        }
        self.recv_window
            .charge(flow)
            .map_err(|_| flow_error("connection_window_exceeded"))?;
        self.data = CurrentData {
            key: self.streams.find(id),
            end,
        };
        let Some(stream) = self.data.key.and_then(|key| self.streams.get_mut(key)) else {
            self.credit_connection(flow);
            return Ok(());
        };
        match stream.recv {
            Half::Flowing => {}
            Half::Expecting => return Err(ConnectionError::protocol("data_before_headers")),
            Half::Ended => {
                return Err(ConnectionError::broke(
                    ErrorCode::STREAM_CLOSED,
                    "data_after_end",
                ));
            }
        }
        stream
            .recv_window
            .charge(flow)
            .map_err(|_| flow_error("stream_window_exceeded"))?;
        stream.held += data;
        let padding = flow - data;
        if padding > 0 {
            let increment = stream.recv_window.credit(padding);
            if let Some(increment) = increment.filter(|_| !end) {
                self.control.window_update(id, increment);
            }
            self.credit_connection(padding);
        }
        Ok(())
    }

    fn on_chunk(&mut self, range: std::ops::Range<usize>, last: bool, events: &mut Vec<Event>) {
        let Some(key) = self.data.key else { return };
        let end = last && self.data.end;
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if end || !range.is_empty() {
            events.push(Event::Data {
                stream: key,
                user: stream.user,
                range,
                end,
            });
        }
        if end {
            self.end_half(key, false, true);
        }
    }

    fn on_reset(&mut self, now: Millis, id: u32, code: ErrorCode, events: &mut Vec<Event>) -> Done {
        if self.is_idle(id) {
            return Err(ConnectionError::protocol("reset_on_idle_stream"));
        }
        let key = self.streams.find(id);
        let Some((key, stream)) = key.and_then(|k| Some((k, self.streams.get(k)?))) else {
            // Dead here already, or both sides reset at once.
            return self.buckets.resets.take(now, "too_many_resets");
        };
        let unanswered = stream.send == Half::Expecting;
        let user = stream.user;
        let unprocessed = code == ErrorCode::REFUSED_STREAM;
        let was_closed = stream.is_closed();
        let complete = stream.recv == Half::Ended;
        if complete && stream.held > 0 {
            // The app may still take its bytes, within the window's bound.
            self.end_half(key, true, false);
        } else {
            self.remove(key);
        }
        if !was_closed {
            events.push(Event::Reset {
                stream: key,
                user,
                code,
                unprocessed,
                complete,
            });
        }
        match (self.role, unanswered) {
            (Role::Client, _) => Ok(()),
            (Role::Server, false) => self.buckets.resets.take(now, "too_many_resets"),
            (Role::Server, true) => self
                .buckets
                .resets_unanswered
                .take(now, "too_many_unanswered_resets"),
        }
    }

    fn on_window_update(
        &mut self,
        now: Millis,
        id: u32,
        increment: u32,
        events: &mut Vec<Event>,
    ) -> Done {
        if increment == 0 {
            return Err(ConnectionError::protocol("window_update_zero"));
        }
        let delta = i64::from(increment);
        if id == 0 {
            self.stall.credited(increment);
            return self
                .send_window
                .shift(delta)
                .map_err(|_| flow_error("window_overflow"));
        }
        if self.is_idle(id) {
            return Err(ConnectionError::protocol("window_update_on_idle_stream"));
        }
        let Some(key) = self.streams.find(id) else {
            return Ok(());
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        if stream.send_window.shift(delta).is_err() {
            return self.break_stream(now, key, ErrorCode::FLOW_CONTROL_ERROR, events);
        }
        self.unpark(key);
        Ok(())
    }

    fn on_settings(&mut self, now: Millis, payload: &[u8], events: &mut Vec<Event>) -> Done {
        self.buckets.settings.take(now, "too_many_settings")?;
        let before = (self.peer.initial_window, self.peer.header_table_size);
        self.peer.apply(payload)?;
        self.shrink_table |= self.peer.header_table_size < before.1;
        let delta = i64::from(self.peer.initial_window) - i64::from(before.0);
        if delta != 0 {
            let mut opened = Vec::new();
            for (key, stream) in self.streams.iter_mut() {
                stream
                    .send_window
                    .shift(delta)
                    .map_err(|_| flow_error("settings_window_overflow"))?;
                opened.push(key);
            }
            opened.into_iter().for_each(|key| self.unpark(key));
        }
        self.control.settings_ack()?;
        events.push(Event::SettingsChanged);
        Ok(())
    }

    /// From now on a window smaller than the RFC's is in force for every stream.
    fn on_settings_ack(&mut self, now: Millis) -> Done {
        if self.settings_due.take().is_none() {
            return self.glitch(now);
        }
        let window = self.config.stream_window;
        if window < self.stream_window {
            self.stream_window = window;
            for (key, stream) in self.streams.iter_mut() {
                let increment = stream.recv_window.resize(window);
                if let Some(increment) = increment.filter(|_| stream.recv != Half::Ended) {
                    self.control.window_update(key.id, increment);
                }
            }
        }
        Ok(())
    }
}

fn flow_error(token: &'static str) -> ConnectionError {
    ConnectionError::broke(ErrorCode::FLOW_CONTROL_ERROR, token)
}
