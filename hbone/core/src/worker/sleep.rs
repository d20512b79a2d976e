// SPDX-License-Identifier: Apache-2.0
//! Waiting for events: how long, and what wakes a worker when nothing comes.
//!
//! Deadlines are looked at by a periodic timer and not by a timeout of each wait: the kernel would
//! start and cancel a timer for every sleep, 0.25 us each, and a request has four.

use super::Worker;
use crate::config::TICK;

impl Worker {
    /// Nothing has a deadline: nobody asks until somebody comes.
    pub(super) fn is_idle(&self) -> bool {
        self.tunnels.len() == 0
            && self.streams.len() == 0
            && self.draining.is_none()
            && !self.is_accepting_paused()
    }

    /// Ticks come while there is something whose deadline may pass; an idle worker sleeps.
    pub(super) fn set_alarm(&mut self, is_wanted: bool) -> std::io::Result<()> {
        if is_wanted != self.is_alarm_set {
            self.alarm.set(is_wanted.then_some(TICK))?;
            self.is_alarm_set = is_wanted;
        }
        Ok(())
    }

    /// Silences the alarm; the look at the deadlines follows in this wake.
    pub(super) fn alarmed(&mut self) {
        self.alarm.reset();
        self.next_tick = self.now;
    }
}
