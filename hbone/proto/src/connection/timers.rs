// SPDX-License-Identifier: Apache-2.0
//! What happens because time passes.

use crate::error::{Blame, ConnectionError, ErrorCode};
use crate::limits::STALL_CREDIT;
use crate::stream::Stream;
use crate::time::Millis;

use super::Core;
use super::keepalive::KEEPALIVE;

/// Watches the connection's own send window while streams wait for it.
///
/// A stream whose own window alone is shut does not count: that is a slow app, which TCP lets be slow
/// for ever and which harms nobody else. The connection's window shut harms every stream, and no
/// honest peer leaves it so: it costs a hostile one nothing to hold all our sockets that way, or to
/// make us send records of one byte.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stall {
    /// The latest time the caller told: waiting begins in calls that bring none.
    clock: Millis,
    /// Since when streams wait and the peer gave less than [`STALL_CREDIT`].
    since: Option<Millis>,
    credit: u32,
}

impl Stall {
    pub fn new(now: Millis) -> Self {
        Self {
            clock: now,
            since: None,
            credit: 0,
        }
    }

    pub fn tell(&mut self, now: Millis) {
        self.clock = self.clock.max(now);
    }

    /// A stream waits for the connection's window.
    pub fn waits(&mut self) {
        if self.since.is_none() {
            self.since = Some(self.clock);
            self.credit = 0;
        }
    }

    /// Nobody waits any more.
    pub fn over(&mut self) {
        self.since = None;
    }

    /// The peer opened the connection's window.
    pub fn credited(&mut self, increment: u32) {
        if let Some(since) = &mut self.since {
            self.credit = self.credit.saturating_add(increment);
            if self.credit >= STALL_CREDIT {
                self.credit = 0;
                *since = self.clock;
            }
        }
    }
}

impl Core {
    pub(super) fn next_deadline(&self) -> Option<Millis> {
        if self.failed.is_some() {
            return None;
        }
        let stall = self.stall.since.map(|at| at + self.config.stall_timeout);
        let due = [
            self.settings_due,
            self.closing.warned_until(),
            stall,
            Some(self.keepalive.deadline()),
        ];
        due.into_iter().flatten().min()
    }

    pub(super) fn on_time(&mut self, now: Millis) -> Result<(), ConnectionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.stall.tell(now);
        let outcome = self.timers(now);
        if let Err(error) = outcome {
            self.fail(error);
        }
        outcome
    }

    fn timers(&mut self, now: Millis) -> Result<(), ConnectionError> {
        // First: who is not there at all has not stalled.
        if self.keepalive.on_time(now)? {
            self.control.ping(KEEPALIVE);
        }
        if self
            .closing
            .warned_until()
            .is_some_and(|until| now >= until)
        {
            self.go_away_finally();
        }
        if self.settings_due.is_some_and(|due| now >= due) {
            return Err(ConnectionError::broke(
                ErrorCode::SETTINGS_TIMEOUT,
                "settings_timeout",
            ));
        }
        self.check_stall(now)
    }

    fn check_stall(&mut self, now: Millis) -> Result<(), ConnectionError> {
        let Some(since) = self.stall.since else {
            return Ok(());
        };
        if now < since + self.config.stall_timeout {
            return Ok(());
        }
        // Those that waited may be gone, or have ended: that needs no room.
        let waits = |key| self.streams.get(key).is_some_and(Stream::may_send);
        if !self.parked.iter().any(|&key| waits(key)) {
            self.stall.over();
            return Ok(());
        }
        Err(ConnectionError {
            code: ErrorCode::ENHANCE_YOUR_CALM,
            token: "stalled",
            blame: Blame::PeerFlooded,
        })
    }
}
