// SPDX-License-Identifier: Apache-2.0
//! HEADERS: requests, answers, trailers; and streams that end because of what they said.

use crate::connect::{ConnectResponse, Refusal, RequestFields, ResponseFields};
use crate::error::{ConnectionError, ErrorCode};
use crate::hpack::Outcome;
use crate::limits::ENTRIES_PER_STREAM;
use crate::reason::Reason;
use crate::stream::{Half, Stream, StreamKey};
use crate::time::Millis;

use super::inbound::Done;
use super::{Core, Event};

impl Core {
    /// A block is decoded whatever becomes of its message: the table must stay in step.
    fn decode(
        &mut self,
        block: &[u8],
        field: impl FnMut(&[u8], &[u8]),
    ) -> Result<Outcome, ConnectionError> {
        let limit = self.config.max_header_list as usize;
        self.decoder
            .decode(block, limit, field)
            .map_err(|_| ConnectionError::broke(ErrorCode::COMPRESSION_ERROR, "hpack"))
    }

    pub(super) fn on_request(
        &mut self,
        now: Millis,
        id: u32,
        end: bool,
        block: &[u8],
        events: &mut Vec<Event>,
    ) -> Done {
        let mut fields = RequestFields::default();
        let outcome = self.decode(block, |name, value| fields.field(name, value))?;
        if id.is_multiple_of(2) {
            return Err(ConnectionError::protocol("even_stream_id"));
        }
        if id < self.next_id {
            return self.on_trailers(now, id, end, events);
        }
        let full = self.active >= self.config.max_streams as usize
            || self.streams.len() >= self.config.max_streams as usize * ENTRIES_PER_STREAM;
        self.next_id = id + 2;
        if full || self.closing.refuses() {
            return self.force_reset(now, id, ErrorCode::REFUSED_STREAM);
        }
        let (status, reason) = match (outcome, fields.finish()) {
            (Outcome::TooLarge, _) => (431, Reason::ResourceLimit),
            (_, Ok(request)) => {
                let window = self.peer.initial_window;
                let stream = Stream::arrived(id, end, window, self.stream_window);
                let stream = self.insert(stream);
                events.push(Event::Opened {
                    stream,
                    request: Box::new(request),
                    end,
                });
                return Ok(());
            }
            (_, Err(Refusal::NotConnect)) => (400, Reason::NotConnect),
            (_, Err(Refusal::BadAuthority)) => (400, Reason::BadAuthority),
            (_, Err(Refusal::Malformed)) => {
                return self.force_reset(now, id, ErrorCode::PROTOCOL_ERROR);
            }
        };
        self.buckets
            .forced_resets
            .take(now, "too_many_refused_requests")?;
        self.control.reply()?;
        self.send_response(
            id,
            &ConnectResponse {
                status,
                baggage: None,
            },
            true,
        );
        if !end {
            self.stop_request(id);
        }
        events.push(Event::Refused { status, reason });
        Ok(())
    }

    pub(super) fn on_response(
        &mut self,
        now: Millis,
        id: u32,
        end: bool,
        block: &[u8],
        events: &mut Vec<Event>,
    ) -> Done {
        let mut fields = ResponseFields::default();
        let outcome = self.decode(block, |name, value| fields.field(name, value))?;
        if self.is_idle(id) {
            return Err(ConnectionError::protocol("headers_on_idle_stream"));
        }
        let Some(key) = self.streams.find(id) else {
            return self.glitch(now);
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        if stream.recv != Half::Expecting {
            return self.on_trailers(now, id, end, events);
        }
        let response = match (outcome, fields.finish()) {
            (Outcome::Complete, Ok(response)) => response,
            _ => return self.break_stream(now, key, ErrorCode::PROTOCOL_ERROR, events),
        };
        if response.status / 100 == 1 {
            // An interim answer: the final one follows (RFC 9113 section 8.1).
            if end {
                return self.break_stream(now, key, ErrorCode::PROTOCOL_ERROR, events);
            }
            return self.glitch(now);
        }
        stream.recv = Half::Flowing;
        let user = stream.user;
        events.push(Event::Response {
            stream: key,
            user,
            response: Box::new(response),
            end,
        });
        if end {
            self.end_half(key, false, true);
        }
        Ok(())
    }

    /// HEADERS on a stream that had some. Trailers say nothing to us but the end.
    fn on_trailers(&mut self, now: Millis, id: u32, end: bool, events: &mut Vec<Event>) -> Done {
        let Some(key) = self.streams.find(id) else {
            return self.glitch(now);
        };
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        if stream.recv == Half::Ended {
            return Err(ConnectionError::broke(
                ErrorCode::STREAM_CLOSED,
                "headers_after_end",
            ));
        }
        if !end {
            return self.break_stream(now, key, ErrorCode::PROTOCOL_ERROR, events);
        }
        events.push(Event::Data {
            stream: key,
            user: stream.user,
            range: 0..0,
            end: true,
        });
        self.end_half(key, false, true);
        Ok(())
    }

    /// A stream that never was the caller's is reset.
    pub(super) fn force_reset(&mut self, now: Millis, id: u32, code: ErrorCode) -> Done {
        self.buckets
            .forced_resets
            .take(now, "too_many_internal_resets")?;
        self.control.reply()?;
        self.control.reset(id, code);
        Ok(())
    }

    /// The peer broke the rules of one stream.
    pub(super) fn break_stream(
        &mut self,
        now: Millis,
        key: StreamKey,
        code: ErrorCode,
        events: &mut Vec<Event>,
    ) -> Done {
        if let Some(stream) = self.remove(key) {
            events.push(Event::Reset {
                stream: key,
                user: stream.user,
                code,
                unprocessed: false,
                complete: stream.recv == Half::Ended,
            });
        }
        self.force_reset(now, key.id, code)
    }
}
