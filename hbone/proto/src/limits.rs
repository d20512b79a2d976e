// SPDX-License-Identifier: Apache-2.0
//! Limits against hostile peers: token buckets, because a tunnel lives for hours and a cap over its
//! life would end honest ones.
//!
//! DATA for dead streams and WINDOW_UPDATE have no bucket: honest peers send thousands in a burst
//! (everything in flight when an app resets; one update per 32 KiB at 10 Gb/s), they allocate nothing
//! and cost less to handle than to send.

use crate::error::ConnectionError;
use crate::time::Millis;

/// How much of something a peer may do: `burst` at once, `per_second` for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Most at once.
    pub burst: u32,
    /// Refill.
    pub per_second: u32,
}

impl Rate {
    const fn new(burst: u32, per_second: u32) -> Self {
        Self { burst, per_second }
    }
}

/// CONTINUATION flood (CVE-2024-27316): endless fragments of one block hold memory and CPU. 16
/// fragments of the smallest legal maximum (16 KiB) are four times our largest list.
pub const MAX_CONTINUATIONS: u32 = 16;
/// SETTINGS with endless entries: CPU. Six are defined; extensions get room (nghttp2 32, sozu 64).
pub const MAX_SETTINGS_ENTRIES: u32 = 64;
/// PING, SETTINGS or resets from a peer that reads none of our answers: memory. 1000 as nghttp2.
pub const MAX_UNSENT_REPLIES: u32 = 1000;
/// A peer that gives less room than this in [`Config::stall_timeout`](crate::Config::stall_timeout),
/// while streams wait for it, does not read: drips of a byte do not count. One frame of the smallest
/// legal maximum; sozu's number.
pub const STALL_CREDIT: u32 = 16_384;
/// Streams ended both ways whose bytes the app has not taken cost an entry each, but count for no
/// peer's limit. Beyond this many entries per allowed stream new ones are refused. A guess.
pub const ENTRIES_PER_STREAM: usize = 4;

/// Rates, all per connection. The defaults are guesses between what libraries allow over a life and
/// what a busy node does, as each says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rapid reset (CVE-2023-44487), the dear half: a CONNECT cancelled before we answered cost a
    /// dial in a pod. Honest: clients giving up on an app that does not answer. h2 allows 20 pending.
    pub resets_unanswered: Rate,
    /// Resets after the answer: apps that abort connections do this all day, at the rate of their
    /// connections.
    pub resets: Rate,
    /// MadeYouReset (CVE-2025-8671): frames that make *us* reset streams, and streams beyond the
    /// limit, refused. h2 allows 1024 in a life.
    pub forced_resets: Rate,
    /// SETTINGS: each walks all streams. Honest peers send one or two in a life.
    pub settings: Rate,
    /// PING: an answer each. Keepalive is one in seconds; a bandwidth estimator some ten a second.
    pub pings: Rate,
    /// Empty DATA that ends nothing: free of flow control, so nothing else bounds it. Honest peers
    /// send none (h2 closes at 100 in a life).
    pub empty_data: Rate,
    /// Frames without meaning: unknown types, PRIORITY, 1xx answers, stray ACKs, trailers of dead
    /// streams, GOAWAY after the first. nghttp2's glitches: 10,000 and 330 a second.
    pub glitches: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            resets_unanswered: Rate::new(1000, 200),
            resets: Rate::new(20_000, 5000),
            forced_resets: Rate::new(1000, 100),
            settings: Rate::new(100, 10),
            pings: Rate::new(1000, 100),
            empty_data: Rate::new(100, 10),
            glitches: Rate::new(5000, 330),
        }
    }
}

/// A bucket of thousandths of tokens, filled when it is asked.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    rate: Rate,
    level: u64,
    filled: Millis,
}

impl Bucket {
    /// A full bucket.
    pub const fn new(rate: Rate, now: Millis) -> Self {
        Self {
            rate,
            level: rate.burst as u64 * 1000,
            filled: now,
        }
    }

    /// Takes one token.
    ///
    /// # Errors
    /// ENHANCE_YOUR_CALM with `token` if there is none.
    pub fn take(&mut self, now: Millis, token: &'static str) -> Result<(), ConnectionError> {
        let refill = now
            .since(self.filled)
            .0
            .saturating_mul(u64::from(self.rate.per_second));
        self.filled = now;
        self.level = (self.level.saturating_add(refill)).min(u64::from(self.rate.burst) * 1000);
        match self.level.checked_sub(1000) {
            Some(level) => {
                self.level = level;
                Ok(())
            }
            None => Err(ConnectionError::flood(token)),
        }
    }
}

/// The buckets of one connection.
#[derive(Debug)]
pub(crate) struct Buckets {
    pub resets_unanswered: Bucket,
    pub resets: Bucket,
    pub forced_resets: Bucket,
    pub settings: Bucket,
    pub pings: Bucket,
    pub empty_data: Bucket,
    pub glitches: Bucket,
}

impl Buckets {
    pub fn new(limits: &Limits, now: Millis) -> Self {
        let full = |rate| Bucket::new(rate, now);
        Self {
            resets_unanswered: full(limits.resets_unanswered),
            resets: full(limits.resets),
            forced_resets: full(limits.forced_resets),
            settings: full(limits.settings),
            pings: full(limits.pings),
            empty_data: full(limits.empty_data),
            glitches: full(limits.glitches),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills() {
        let mut bucket = Bucket::new(Rate::new(2, 10), Millis(0));
        bucket.take(Millis(0), "t").unwrap();
        bucket.take(Millis(0), "t").unwrap();
        assert_eq!(bucket.take(Millis(99), "t").unwrap_err().token, "t");
        bucket.take(Millis(100), "t").unwrap();
        bucket.take(Millis(1_000_000), "t").unwrap();
        bucket.take(Millis(1_000_000), "t").unwrap();
        assert!(
            bucket.take(Millis(1_000_000), "t").is_err(),
            "never above its burst"
        );
    }
}
