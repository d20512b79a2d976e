// SPDX-License-Identifier: Apache-2.0
//! What the caller may send.

use crate::connect::{ConnectRequest, ConnectResponse};
use crate::error::{ErrorCode, OpenError, SendError};
use crate::frame::{Header, flag, kind};
use crate::hpack::Encoder;
use crate::stream::{Half, Parked, Stream, StreamKey};

use super::{Core, Role};

/// Stream ids end here (RFC 9113 section 5.1.1).
pub(super) const LAST_ID: u32 = 0x7fff_ffff;

impl Core {
    pub(super) fn may_open(&self) -> Result<(), OpenError> {
        if self.role != Role::Client {
            return Err(OpenError::NotClient);
        }
        if self.failed.is_some() || self.closing.is_closing() {
            return Err(OpenError::Closing);
        }
        if self.next_id > LAST_ID {
            return Err(OpenError::Exhausted);
        }
        if self.active >= self.max_streams() as usize {
            return Err(OpenError::Full);
        }
        Ok(())
    }

    pub(super) fn open(
        &mut self,
        request: &ConnectRequest,
        user: u64,
    ) -> Result<StreamKey, OpenError> {
        self.may_open()?;
        let mut encoder = Encoder::new(&mut self.block, self.shrink_table);
        request.encode(&mut encoder);
        if encoder.list_size() > self.peer.max_header_list as usize {
            return Err(OpenError::TooLarge);
        }
        let id = self.next_id;
        self.next_id += 2;
        self.send_block(id, false);
        let window = self.peer.initial_window;
        Ok(self.insert(Stream::requested(id, user, window, self.stream_window)))
    }

    pub(super) fn respond(
        &mut self,
        key: StreamKey,
        response: &ConnectResponse,
    ) -> Result<(), SendError> {
        let stream = self.streams.get_mut(key).ok_or(SendError::Gone)?;
        if self.failed.is_some() {
            return Err(SendError::Gone);
        }
        if stream.send != Half::Expecting {
            return Err(SendError::NotNow);
        }
        let heard_all = stream.recv == Half::Ended;
        let end = !response.is_success();
        if !end {
            stream.send = Half::Flowing;
        }
        self.send_response(key.id, response, end);
        if end {
            self.remove(key);
            if !heard_all {
                self.stop_request(key.id);
            }
        }
        Ok(())
    }

    /// After a complete answer: the rest of the request is not wanted (RFC 9113 section 8.1).
    pub(super) fn stop_request(&mut self, id: u32) {
        self.control.reset(id, ErrorCode::NO_ERROR);
    }

    /// Attributes that the peer would find too large are left out: they only inform.
    pub(super) fn send_response(&mut self, id: u32, response: &ConnectResponse, end: bool) {
        let mut encoder = Encoder::new(&mut self.block, self.shrink_table);
        response.encode(&mut encoder);
        if encoder.list_size() > self.peer.max_header_list as usize {
            let bare = ConnectResponse {
                status: response.status,
                baggage: None,
            };
            bare.encode(&mut Encoder::new(&mut self.block, self.shrink_table));
        }
        self.send_block(id, end);
    }

    fn send_block(&mut self, id: u32, end: bool) {
        self.shrink_table = false;
        self.control
            .headers(id, end, &self.block, self.peer.max_frame as usize);
    }

    pub(super) fn capacity(&mut self, key: StreamKey) -> usize {
        let Some(stream) = self.streams.get_mut(key) else {
            return 0;
        };
        if !stream.may_send() || self.failed.is_some() {
            return 0;
        }
        let own = stream.send_window.available();
        let room = own
            .min(self.send_window.available())
            .min(self.config.max_send);
        if room > 0 || stream.parked == Parked::Queued {
            return room;
        }
        if own == 0 {
            stream.parked = Parked::Shut;
        } else {
            self.stall.waits();
            self.queue_writable(key);
        }
        0
    }

    pub(super) fn queue_writable(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.parked == Parked::Queued {
            return;
        }
        stream.parked = Parked::Queued;
        // Dead keys leave when popped; while the window is shut nothing pops.
        if self.parked.len() > 2 * self.streams.len() + 64 {
            let streams = &self.streams;
            self.parked.retain(|&key| streams.get(key).is_some());
        }
        self.parked.push_back(key);
    }

    pub(super) fn pop_writable(&mut self) -> Option<(StreamKey, u64)> {
        if self.failed.is_some() {
            return None;
        }
        while self.send_window.available() > 0 {
            let Some(key) = self.parked.pop_front() else {
                self.stall.over();
                return None;
            };
            let Some(stream) = self.streams.get_mut(key) else {
                continue;
            };
            if stream.send_window.available() == 0 {
                stream.parked = Parked::Shut;
                continue;
            }
            stream.parked = Parked::No;
            if stream.may_send() {
                return Some((key, stream.user));
            }
        }
        if !self.parked.is_empty() {
            self.stall.waits();
        }
        None
    }

    pub(super) fn data_header(
        &mut self,
        key: StreamKey,
        len: usize,
        end: bool,
    ) -> Result<[u8; 9], SendError> {
        if self.failed.is_some() {
            return Err(SendError::Gone);
        }
        let stream = self.streams.get_mut(key).ok_or(SendError::Gone)?;
        match stream.send {
            Half::Flowing => {}
            Half::Expecting => return Err(SendError::NotNow),
            Half::Ended => return Err(SendError::Gone),
        }
        if len == 0 && !end {
            return Err(SendError::Empty);
        }
        let room = stream
            .send_window
            .available()
            .min(self.send_window.available());
        if len > room.min(self.config.max_send) {
            return Err(SendError::NoCapacity);
        }
        stream.send_window.take(len);
        self.send_window.take(len);
        if end {
            self.end_half(key, true, false);
        }
        let flags = if end { flag::END_STREAM } else { 0 };
        Ok(Header {
            length: len as u32,
            kind: kind::DATA,
            flags,
            stream: key.id,
        }
        .encode())
    }

    pub(super) fn consumed(&mut self, key: StreamKey, n: usize) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        debug_assert!(n <= stream.held as usize, "consumed more than was received");
        let n = stream.held.min(u32::try_from(n).unwrap_or(u32::MAX));
        stream.held -= n;
        let credited = stream.set_aside.min(n);
        stream.set_aside -= credited;
        if stream.recv == Half::Ended {
            if stream.held == 0 && stream.is_closed() {
                self.streams.remove(key);
            }
        } else if let Some(increment) = stream.recv_window.credit(n) {
            self.control.window_update(key.id, increment);
        }
        self.credit_connection(n - credited);
    }

    pub(super) fn set_aside(&mut self, key: StreamKey, n: usize) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let n = u32::try_from(n)
            .unwrap_or(u32::MAX)
            .min(stream.held - stream.set_aside);
        stream.set_aside += n;
        self.credit_connection(n);
    }

    pub(super) fn reset(&mut self, key: StreamKey, code: ErrorCode) {
        if let Some(stream) = self.remove(key)
            && !stream.is_closed()
        {
            self.control.reset(key.id, code);
        }
    }
}
