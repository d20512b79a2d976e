// SPDX-License-Identifier: Apache-2.0
//! How a connection ends: GOAWAY both ways (RFC 9113 section 6.8), silence, errors.

use crate::error::{ConnectionError, ErrorCode};
use crate::stream::StreamKey;
use crate::time::Millis;

use super::keepalive::KEEPALIVE;
use super::outbound::LAST_ID;
use super::{Core, Event, Role};

/// Payload of the PING that follows a warning.
const DRAIN: [u8; 8] = *b"nm-drain";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Ours {
    #[default]
    No,
    /// GOAWAY with the largest id was sent; new streams are still taken.
    Warned { until: Millis },
    /// The true last id was sent.
    Final,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Closing {
    ours: Ours,
    /// The last id that GOAWAY said; it must not rise again.
    last: Option<u32>,
    /// The peer sent GOAWAY.
    told: bool,
}

impl Closing {
    pub fn is_closing(self) -> bool {
        self.told || self.ours != Ours::No
    }

    /// Until when a warning waits for its PING.
    pub fn warned_until(self) -> Option<Millis> {
        match self.ours {
            Ours::Warned { until } => Some(until),
            _ => None,
        }
    }

    /// New streams of the peer are refused.
    pub fn refuses(self) -> bool {
        self.ours == Ours::Final
    }
}

impl super::Connection {
    /// True once either end has said GOAWAY, or the connection has failed.
    pub fn is_closing(&self) -> bool {
        self.core.failed.is_some() || self.core.closing.is_closing()
    }
}

impl Core {
    pub(super) fn drain(&mut self, now: Millis) {
        if self.failed.is_some() || self.closing.ours != Ours::No {
            return;
        }
        match self.role {
            Role::Client => self.go_away_finally(),
            Role::Server => {
                self.control.go_away(LAST_ID, ErrorCode::NO_ERROR);
                self.control.ping(DRAIN);
                self.closing.ours = Ours::Warned {
                    until: now + self.config.drain_timeout,
                };
            }
        }
    }

    pub(super) fn take_streams(&mut self) -> Vec<(StreamKey, u64)> {
        let streams = std::mem::take(&mut self.streams).into_marks();
        self.active = 0;
        self.parked.clear();
        streams
    }

    pub(super) fn is_finished(&self) -> bool {
        let closing = self.closing.told || self.closing.refuses();
        self.failed.is_some() || (closing && self.streams.len() == 0)
    }

    pub(super) fn go_away_finally(&mut self) {
        let last = self.last_peer_id();
        self.control.go_away(last, ErrorCode::NO_ERROR);
        self.closing.ours = Ours::Final;
        self.closing.last = Some(last);
    }

    /// The highest stream that the peer opened and that may have been processed.
    fn last_peer_id(&self) -> u32 {
        match (self.closing.last, self.role) {
            (Some(last), _) => last,
            (None, Role::Client) => 0,
            (None, Role::Server) => self.next_id.saturating_sub(2),
        }
    }

    pub(super) fn fail(&mut self, error: ConnectionError) {
        if self.failed.is_none() {
            let last = self.last_peer_id();
            self.control.go_away_because(last, error.code, error.token);
            self.failed = Some(error);
        }
    }

    pub(super) fn on_ping(
        &mut self,
        now: Millis,
        ack: bool,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        if !ack {
            self.buckets.pings.take(now, "too_many_pings")?;
            return self.control.ping_ack(payload);
        }
        if payload == DRAIN && matches!(self.closing.ours, Ours::Warned { .. }) {
            self.go_away_finally();
        } else if payload != KEEPALIVE {
            self.buckets.glitches.take(now, "too_many_glitches")?;
        }
        Ok(())
    }

    pub(super) fn on_go_away(
        &mut self,
        now: Millis,
        last: u32,
        code: ErrorCode,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        if self.closing.told {
            // An orderly end takes two, and each walks all streams.
            self.glitch(now)?;
        }
        self.closing.told = true;
        if self.role == Role::Client {
            let lost: Vec<StreamKey> = self
                .streams
                .iter_mut()
                .map(|(key, _)| key)
                .filter(|key| key.id > last)
                .collect();
            for key in lost {
                if let Some(stream) = self.remove(key) {
                    events.push(Event::Reset {
                        stream: key,
                        user: stream.user,
                        code: ErrorCode::REFUSED_STREAM,
                        unprocessed: true,
                        complete: false,
                    });
                }
            }
        }
        events.push(Event::GoAway { code });
        Ok(())
    }
}
