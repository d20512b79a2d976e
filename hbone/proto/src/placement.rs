// SPDX-License-Identifier: Apache-2.0
//! Which worker has the tunnels of a pool key: the decision, without the threads.
//!
//! ```text
//!  nobody ──first connection──▶ the least busy worker owns it
//!    ▲                              │ every member saturated, another worker idle
//!    │ last connection              ▼
//!    └─ and tunnel gone ──── owner and a further member, new connections by their headroom
//!                                   │ the members together need no more than half a core
//!                                   └──────────▶ the owner alone
//! ```
//! Keys that hash alike share a [`Slot`]: one word, so that workers agree on it by compare and swap.

/// A worker's share of time that it did not sleep, in thousandths, from which on it is saturated. A
/// worker has nothing in reserve then for a burst, though its socket buffers may still hide it.
pub const SATURATED: u32 = 850;

/// How much less busy, in thousandths, another worker must be to be worth a change.
pub const GAP: u32 = 300;

/// Members that need no more than this together (thousandths of a worker) become one again.
pub const CALM: u32 = 500;

/// Ticks of a quarter second that a slot stays as it is after a change: longer than the smoothed
/// load needs to show what the change has brought.
pub const SETTLE: u8 = 8;

/// Differences smaller than this are noise: the number of things placed decides then.
pub const BAND: u32 = 200;

/// Workers that one key may have: four cores' worth of one pair of pods.
pub const MEMBERS: usize = 4;

/// Most workers that a slot can name.
pub const MAX_WORKERS: usize = 255;

/// What is known of a worker from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Smoothed share of time not asleep, in thousandths.
    pub busy: u32,
    /// Slots and inbound tunnels placed there.
    pub placed: u32,
}

/// The least busy of some workers; ties go to whoever has the fewest things placed.
pub fn least_busy(
    workers: impl Iterator<Item = usize>,
    load: impl Fn(usize) -> Load,
) -> Option<usize> {
    workers.min_by_key(|&worker| {
        let load = load(worker);
        (load.busy / BAND, load.placed)
    })
}

/// Who owns the keys of one hash: `[4 x 8 bits member + 1][8 bits tick of change][24 bits holds]`,
/// members from the lowest byte of the upper half, the owner first. A hold is a connection or a
/// tunnel; 2^24 are more than a process may have descriptors by default (2^20).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot(pub u64);

const HOLDS: u64 = (1 << 24) - 1;

impl Slot {
    /// Connections and tunnels.
    pub fn holds(self) -> u64 {
        self.0 & HOLDS
    }

    fn changed(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// The workers that new connections go to; the owner first.
    pub fn members(self) -> impl Iterator<Item = usize> + Clone {
        let byte = move |place| (self.0 >> (32 + 8 * place)) as u8;
        (0..MEMBERS)
            .map(byte)
            .take_while(|&byte| byte != 0)
            .map(|byte| usize::from(byte) - 1)
    }

    /// Whether new connections may go to `worker`.
    pub fn has(self, worker: usize) -> bool {
        self.members().any(|member| member == worker)
    }

    fn with_member(self, place: usize, worker: usize) -> Self {
        let shift = 32 + 8 * place;
        Self(self.0 & !(0xff << shift) | (worker as u64 + 1) << shift)
    }

    fn changed_at(self, tick: u8) -> Self {
        Self(self.0 & !(0xff << 24) | u64::from(tick) << 24)
    }

    /// A new connection: which worker serves it, and the slot afterwards, with its hold.
    #[must_use]
    pub fn route(
        self,
        workers: usize,
        load: impl Fn(usize) -> Load + Copy,
        tick: u8,
        random: u64,
    ) -> (Self, usize) {
        let slot = self.revised(workers, load, tick);
        let held = Self(slot.0 + 1);
        (held, slot.pick(load, random))
    }

    /// One connection or tunnel more.
    #[must_use]
    pub fn hold(self) -> Self {
        debug_assert!(self.holds() > 0 && self.holds() < HOLDS, "nobody's slot");
        Self(self.0 + 1)
    }

    /// One less; the last one leaves it nobody's.
    #[must_use]
    pub fn release(self) -> Self {
        debug_assert!(self.holds() > 0, "more was released than held");
        if self.holds() <= 1 {
            Self::default()
        } else {
            Self(self.0 - 1)
        }
    }

    /// A tunnel has moved: so do new connections.
    #[must_use]
    pub fn moved(self, from: usize, to: usize, tick: u8) -> Self {
        match self.members().position(|member| member == from) {
            Some(place) if !self.has(to) => self.with_member(place, to).changed_at(tick),
            _ => self,
        }
    }

    fn revised(self, workers: usize, load: impl Fn(usize) -> Load + Copy, tick: u8) -> Self {
        let count = self.members().count();
        if self.holds() == 0 || count == 0 {
            let owner = least_busy(0..workers, load).unwrap_or(0);
            return Self::default().with_member(0, owner).changed_at(tick);
        }
        if tick.wrapping_sub(self.changed()) < SETTLE {
            return self;
        }
        let busy = |worker: usize| load(worker).busy;
        let idlest = self.members().map(busy).min().unwrap_or(0);
        if idlest >= SATURATED && count < MEMBERS {
            let others = (0..workers).filter(|&worker| !self.has(worker));
            return match least_busy(others, load) {
                Some(other) if busy(other) + GAP <= idlest => {
                    self.with_member(count, other).changed_at(tick)
                }
                _ => self,
            };
        }
        if count > 1 && self.members().map(busy).sum::<u32>() <= CALM {
            let owner = self.members().next().unwrap_or(0);
            let alone = Self(self.0 & u64::from(u32::MAX));
            return alone.with_member(0, owner).changed_at(tick);
        }
        self
    }

    /// Each member as likely as it has headroom: the least busy one gets most, and none gets all
    /// until the next time that loads are published.
    fn pick(self, load: impl Fn(usize) -> Load, random: u64) -> usize {
        let room = |worker: usize| u64::from(1050 - load(worker).busy.min(1000));
        let total: u64 = self.members().map(room).sum();
        let mut left = random % total.max(1);
        for member in self.members() {
            let room = room(member);
            if left < room {
                return member;
            }
            left -= room;
        }
        self.members().next().unwrap_or(0)
    }
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
