// SPDX-License-Identifier: Apache-2.0
//! Whether to look again for a while before going to sleep.
//!
//! Going to sleep and being woken costs a few microseconds on bare metal and tens of them on a
//! virtual machine, more than a request takes on its way. Whoever asks for it
//! (`Config::spin`) trades CPU for that. It is spent only where it pays: each look in vain
//! costs credit, and credit comes back from sleeps that turn out to have been short.

use std::time::Duration;

/// Turns in vain in a row before it stops.
const MOST_CREDIT: u8 = 8;

#[derive(Debug)]
pub(crate) struct Spin {
    limit: Duration,
    credit: u8,
}

impl Spin {
    pub fn new(limit: Duration) -> Self {
        Self { limit, credit: 0 }
    }

    /// Whether somebody asked for it at all.
    pub fn is_wanted(&self) -> bool {
        !self.limit.is_zero()
    }

    /// How long to look; `None` to sleep at once.
    pub fn time(&self) -> Option<Duration> {
        (self.credit > 0).then_some(self.limit)
    }

    /// A sleep of this length has ended with something to do.
    pub fn slept(&mut self, length: Duration) {
        if length <= self.limit {
            self.credit = (self.credit + 1).min(MOST_CREDIT);
        }
    }

    /// Looking has found something, or nothing.
    pub fn looked(&mut self, found: bool) {
        self.credit = if found {
            (self.credit + 1).min(MOST_CREDIT)
        } else {
            self.credit.saturating_sub(1)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    #[test]
    fn off_it_never_looks() {
        let mut spin = Spin::new(Duration::ZERO);
        spin.slept(Duration::from_micros(1));
        assert_eq!((spin.is_wanted(), spin.time()), (false, None));
    }

    #[test]
    fn short_sleeps_start_it_and_vain_looks_stop_it() {
        let mut spin = Spin::new(LIMIT);
        assert_eq!(spin.time(), None);
        spin.slept(Duration::from_millis(1));
        assert_eq!(spin.time(), None);
        for _ in 0..100 {
            spin.slept(LIMIT);
        }
        let mut in_vain = 0;
        while spin.time() == Some(LIMIT) {
            spin.looked(false);
            in_vain += 1;
        }
        assert_eq!(in_vain, MOST_CREDIT);
    }
}
