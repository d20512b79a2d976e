// SPDX-License-Identifier: Apache-2.0
//! What the protocol core says about a record, turned into deeds.

use super::Worker;
use super::stream::Phase;
use super::token::Token;
use crate::slab::Handle;
use hbone_proto::{ConnectResponse, ErrorCode, Event, Reason, StreamKey};
use std::ops::Range;

impl Worker {
    /// In the order in which things happened. `base` is where the record's content begins in the
    /// receive buffer: DATA stays there until it is delivered.
    pub(super) fn take_arrivals(&mut self, tunnel: Handle, base: usize) {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        for event in arrivals.drain(..) {
            if self.tunnels.get(tunnel).is_none() {
                break;
            }
            self.take_arrival(tunnel, base, event);
        }
        self.arrivals = arrivals;
    }

    fn take_arrival(&mut self, tunnel: Handle, base: usize, event: Event) {
        match event {
            Event::Data {
                stream: key,
                user,
                range,
                end,
            } => {
                let range = Range {
                    start: base + range.start,
                    end: base + range.end,
                };
                // In the record of its own CONNECT it came before we could mark the stream.
                let user = if user == 0 {
                    self.mark_of(tunnel, key)
                } else {
                    user
                };
                if let Some(stream) = stream_of(user) {
                    self.arrived(stream, range, end);
                }
            }
            Event::Opened {
                stream: key,
                request,
                end,
            } => {
                // Reset later in the same record: there is nobody to dial for.
                if self.tunnels[tunnel]
                    .open_ref()
                    .is_some_and(|open| open.h2.is_live(key))
                {
                    self.requested(tunnel, key, &request, end);
                }
            }
            Event::Response {
                user,
                response,
                end,
                ..
            } => {
                if let Some(stream) = stream_of(user) {
                    self.answered(stream, &response, end);
                }
            }
            Event::Reset {
                user,
                code,
                unprocessed,
                complete,
                ..
            } => {
                if let Some(stream) = stream_of(user) {
                    self.stream_reset(stream, code, unprocessed, complete);
                }
            }
            Event::Refused { reason, .. } => self.request_refused(tunnel, reason),
            Event::GoAway { .. } => self.pool.retire(Token::Tunnel(tunnel).encode()),
            Event::SettingsChanged => {
                if let Some(open) = self.tunnels[tunnel].open_ref() {
                    let streams = open.h2.max_streams();
                    self.pool.set_limit(Token::Tunnel(tunnel).encode(), streams);
                }
            }
        }
    }

    fn mark_of(&self, tunnel: Handle, key: StreamKey) -> u64 {
        self.tunnels[tunnel]
            .open_ref()
            .and_then(|open| open.h2.user(key))
            .unwrap_or(0)
    }

    /// The far agent's answer to our CONNECT.
    fn answered(&mut self, handle: Handle, response: &ConnectResponse, end: bool) {
        let Some(stream) = self.streams.get_mut(handle) else {
            return;
        };
        if stream.phase != Phase::Requested {
            return;
        }
        if response.status / 100 != 2 {
            return self.end_stream(handle, Reason::from_status(response.status));
        }
        stream.phase = Phase::Open;
        stream.deadline = None;
        stream.connect_us = (self.now - stream.began).as_micros() as u64;
        self.count_opened(handle);
        if end {
            self.arrived(handle, 0..0, true);
        }
        self.pump(handle);
    }

    fn stream_reset(&mut self, handle: Handle, code: ErrorCode, unprocessed: bool, complete: bool) {
        let Some(stream) = self.streams.get_mut(handle) else {
            return;
        };
        let again = unprocessed && stream.phase == Phase::Requested && !stream.retried;
        if !again {
            let reason = match Reason::from_reset(code) {
                // An order to forget the stream; bytes may be missing, so the application must
                // not take it for the end.
                Reason::None if !complete => Reason::StreamReset,
                reason => reason,
            };
            return self.cut_off(handle, reason);
        }
        // The peer did nothing with it (RFC 9113 section 8.7): another tunnel may carry it.
        if let Some((tunnel, _)) = stream.wait_again() {
            let id = Token::Tunnel(tunnel).encode();
            // Beyond the peer's limit is no fault of the tunnel.
            if !self.pool.is_over_limit(id) {
                self.retire(id);
            }
            if let Some(waiter) = self.pool.stream_ended(self.millis(), id) {
                self.open_on(id, waiter);
            }
        }
        self.acquire(handle);
    }

    /// The tunnel broke under a request that nobody has answered: the application was told nothing
    /// and none of its bytes were sent, so another tunnel may carry it. Pools cannot know of a pod
    /// that went without a word until they use its tunnel; its successor at the same address answers
    /// with RST. Returns whether the stream goes on.
    pub(super) fn try_elsewhere(&mut self, handle: Handle) -> bool {
        let Some(stream) = self.streams.get_mut(handle) else {
            return false;
        };
        if stream.phase != Phase::Requested || stream.retried {
            return false;
        }
        stream.wait_again();
        self.acquire(handle);
        true
    }
}

fn stream_of(user: u64) -> Option<Handle> {
    match Token::decode(user) {
        Token::Stream(handle) => Some(handle),
        _ => None,
    }
}
