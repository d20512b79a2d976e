// SPDX-License-Identifier: Apache-2.0
//! Streams of which one end is gone while the other still has something coming.
//!
//! TCP gives a reader what came before a reset; so do we. And a peer that had ended its half in order
//! has said all it had to say: that its tunnel broke afterwards, or that it does not want our bytes,
//! takes nothing back.

use super::Worker;
use super::stream::Phase;
use super::token::Token;
use crate::model::Direction;
use crate::slab::Handle;
use hbone_proto::{ErrorCode, Reason};
use hbone_sys::{Errno, socket};

/// Turns at a socket that has failed: its receive queue is passed on as far as the tunnel takes it.
const LAST_TURNS: usize = 4;

/// Reads thrown away in one turn.
const DISCARDS_PER_TURN: usize = 64;

impl Worker {
    /// The application's socket has failed: passes on what came before that, then resets the stream.
    pub(super) fn app_lost(&mut self, handle: Handle) {
        if let Some(stream) = self.streams.get_mut(handle) {
            stream.doomed = Some(Reason::AppReset);
            stream.readable = true;
        }
        for _ in 0..LAST_TURNS {
            self.pump(handle);
        }
        let cut_off = self.streams.get(handle).and_then(|stream| stream.cut_off);
        self.end_stream(handle, cut_off.unwrap_or(Reason::AppReset));
    }

    /// The peer will neither send nor take any more.
    pub(super) fn cut_off(&mut self, handle: Handle, reason: Reason) {
        let Some(stream) = self.streams.get_mut(handle) else {
            return;
        };
        if !stream.remote_ended || stream.phase != Phase::Open {
            if stream.arrived.is_empty() {
                self.end_stream(handle, reason);
            } else {
                stream.doomed = Some(reason);
            }
            return;
        }
        stream.cut_off = Some(reason);
        stream.local_ended = true;
        stream.deadline = Some(self.now + self.config.half_close_idle);
        if stream.write_shut {
            self.begin_discarding(handle);
        } else {
            self.finish_writing(handle);
        }
    }

    /// All is written. Closing now would answer the application's next bytes with RST, and that would
    /// drop what its kernel has not taken: until it has, they are read away.
    pub(super) fn begin_discarding(&mut self, handle: Handle) {
        self.release_carrier(handle);
        self.discard(handle);
    }

    pub(super) fn discard(&mut self, handle: Handle) {
        let Some(stream) = self.streams.get_mut(handle) else {
            return;
        };
        let reason = stream.cut_off.unwrap_or(Reason::None);
        let mut scratch = [0; 16 * 1024];
        for _ in 0..DISCARDS_PER_TURN {
            match socket::receive(&stream.fd, &mut scratch) {
                Ok(count) if count > 0 && !socket::has_delivered_all(&stream.fd) => {}
                Err(Errno::AGAIN) if !socket::has_delivered_all(&stream.fd) => return,
                _ => return self.end_stream(handle, reason),
            }
        }
        let token = Token::Stream(handle).encode();
        if self.epoll.rearm_socket(&stream.fd, token).is_err() {
            self.end_stream(handle, reason);
        }
    }

    /// The stream's place in its tunnel is free again.
    pub(super) fn release_carrier(&mut self, handle: Handle) {
        let carrier = self
            .streams
            .get_mut(handle)
            .and_then(|stream| stream.carrier.take());
        if let Some((tunnel, key)) = carrier {
            self.leave_tunnel(tunnel, key, ErrorCode::CANCEL);
        }
    }

    pub(super) fn leave_tunnel(
        &mut self,
        handle: Handle,
        key: hbone_proto::StreamKey,
        code: ErrorCode,
    ) {
        let Some(tunnel) = self.tunnels.get_mut(handle) else {
            return;
        };
        let direction = tunnel.direction;
        if let Some(open) = tunnel.open_mut()
            && open.h2.is_live(key)
        {
            open.h2.reset(key, code);
        }
        self.mark_dirty(handle);
        if direction == Direction::Outbound {
            let id = Token::Tunnel(handle).encode();
            if let Some(waiter) = self.pool.stream_ended(self.millis(), id) {
                self.open_on(id, waiter);
            }
        }
    }
}
