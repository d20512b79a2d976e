// SPDX-License-Identifier: Apache-2.0
//! Whether the peer is still there.
//!
//! Any byte proves it, not only the answer to a PING: a busy tunnel sends none.

use crate::error::{Blame, ConnectionError, ErrorCode};
use crate::time::Millis;

/// Payload of a keepalive PING.
pub(super) const KEEPALIVE: [u8; 8] = *b"nm-alive";

#[derive(Debug)]
pub(super) struct Keepalive {
    interval: Millis,
    timeout: Millis,
    heard: Millis,
    asked: Option<Millis>,
}

impl Keepalive {
    pub fn new(interval: Millis, timeout: Millis, now: Millis) -> Self {
        Self {
            interval,
            timeout,
            heard: now,
            asked: None,
        }
    }

    pub fn heard(&mut self, now: Millis) {
        self.heard = now;
        self.asked = None;
    }

    pub fn deadline(&self) -> Millis {
        match self.asked {
            Some(asked) => asked + self.timeout,
            None => self.heard + self.interval,
        }
    }

    /// True: send a PING now.
    pub fn on_time(&mut self, now: Millis) -> Result<bool, ConnectionError> {
        if now < self.deadline() {
            return Ok(false);
        }
        if self.asked.is_some() {
            return Err(ConnectionError {
                code: ErrorCode::NO_ERROR,
                token: "keepalive_timeout",
                blame: Blame::Path,
            });
        }
        self.asked = Some(now);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_after_silence_and_gives_up_after_more() {
        let mut alive = Keepalive::new(Millis(10), Millis(20), Millis(0));
        assert!(!alive.on_time(Millis(9)).unwrap());
        assert!(alive.on_time(Millis(10)).unwrap());
        assert!(!alive.on_time(Millis(29)).unwrap());
        assert_eq!(
            alive.on_time(Millis(30)).unwrap_err().token,
            "keepalive_timeout"
        );
        alive.heard(Millis(29));
        assert_eq!(alive.deadline(), Millis(39));
    }
}
