// SPDX-License-Identifier: Apache-2.0
//! How busy this worker is, and whether one of its tunnels had better be elsewhere.

use super::Worker;
use super::tunnel::Tunnel;
use crate::config::TICK;
use crate::slab::Handle;
use hbone_proto::placement::GAP;
use hbone_sys::poll::Event;
use std::time::{Duration, Instant};

/// What a turn at a socket costs, in bytes that cost as much: a system call with what leads to it
/// takes some 2 us, a byte of bulk 0.25 ns (docs/performance.md).
pub(super) const TURN_COSTS: u64 = 8 << 10;

/// From here on (thousandths of its time) a worker looks for somebody to take a tunnel over.
const HOT: u32 = 700;

/// Ticks that it must have been so in a row: a second.
const HOT_TICKS: u8 = 4;

/// What a move must take off the busier of the two: else it is not worth a move, and might be
/// worth another one back.
const MIN_GAIN: u32 = 100;

/// A tunnel younger than this is not judged yet; nor does one that has moved move again so soon.
const SETTLED: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_secs(10);

/// Share of time not asleep, smoothed over about a second.
#[derive(Debug)]
pub(crate) struct Meter {
    since: Instant,
    asleep: Duration,
    busy: u32,
    hot: u8,
    /// Tunnels shall move, whatever the load.
    pub shuffles: bool,
}

impl Meter {
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            asleep: Duration::ZERO,
            busy: 0,
            hot: 0,
            shuffles: false,
        }
    }

    /// In thousandths.
    pub fn busy(&self) -> u32 {
        self.busy
    }

    fn slept(&mut self, time: Duration) {
        self.asleep += time;
    }

    fn tick(&mut self, now: Instant) {
        let all = now.saturating_duration_since(self.since);
        if all < TICK / 2 {
            return;
        }
        let awake = all.saturating_sub(self.asleep);
        let share = awake.as_micros() * 1000 / all.as_micros().max(1);
        self.busy = (self.busy + share as u32) / 2;
        (self.since, self.asleep) = (now, Duration::ZERO);
    }

    /// True once somebody has been less busy by [`GAP`] for [`HOT_TICKS`] in a row.
    fn is_hot_beside(&mut self, other: u32) -> bool {
        let hot = self.busy >= HOT && other + GAP <= self.busy;
        self.hot = if hot { self.hot + 1 } else { 0 };
        if self.hot < HOT_TICKS {
            return false;
        }
        self.hot = 0;
        true
    }
}

impl Worker {
    /// For the next events; sets the clock.
    pub(super) fn wait(&mut self, events: &mut Vec<Event>) -> std::io::Result<()> {
        if !self.again.is_empty() {
            self.epoll.wait(events, Some(Duration::ZERO))?;
            self.now = Instant::now();
            return Ok(());
        }
        let idle = self.is_idle();
        self.set_alarm(!idle)?;
        let began = Instant::now();
        if let Some(time) = self.spin.time() {
            self.look_for(began + time, events)?;
            if !events.is_empty() {
                self.meter.slept(self.now - began);
                return Ok(());
            }
        }
        if idle {
            // Nobody asks us until somebody comes.
            self.meter.busy = 0;
            self.shared.balance.publish(self.index, 0);
        }
        let before = Instant::now();
        self.epoll.wait(events, None)?;
        self.now = Instant::now();
        self.meter.slept(self.now - began);
        if self.spin.is_wanted() && !events.is_empty() {
            self.spin.slept(self.now - before);
        }
        Ok(())
    }

    /// Looks for events again and again; leaves the core to whoever else can run in between.
    fn look_for(&mut self, until: Instant, events: &mut Vec<Event>) -> std::io::Result<()> {
        loop {
            self.epoll.wait(events, Some(Duration::ZERO))?;
            self.now = Instant::now();
            if !events.is_empty() || self.now >= until {
                self.spin.looked(!events.is_empty());
                return Ok(());
            }
            std::thread::yield_now();
        }
    }

    /// Once a tick, between two wakes: says how busy we are, and moves a tunnel if another worker
    /// has much more time.
    pub(super) fn rebalance(&mut self) {
        self.meter.tick(self.now);
        let busy = self.meter.busy();
        self.shared.balance.publish(self.index, busy);
        let Some(other) = self.shared.balance.least_busy_but(self.index) else {
            return;
        };
        if std::mem::take(&mut self.meter.shuffles) {
            return self.shuffle();
        }
        let others = self.shared.balance.load(other).busy;
        if !self.meter.is_hot_beside(others) || self.is_draining {
            return;
        }
        let rates = self.tunnels.iter().map(|(handle, tunnel)| {
            let may_move = self.has_settled(tunnel) && self.may_move(handle, tunnel);
            (handle, tunnel.rate, may_move)
        });
        if let Some((handle, share)) = choose((busy, others), rates) {
            self.shared.balance.expect(other, share);
            self.move_out(handle, other);
        }
    }

    fn may_move(&self, handle: Handle, tunnel: &Tunnel) -> bool {
        tunnel.open_ref().is_some_and(|open| !open.h2.is_closing())
            && tunnel.deadline.is_none()
            && tunnel.broken.is_none()
            && !tunnel.hung_up
            && self.is_pooled_or_inbound(handle, tunnel)
    }

    fn has_settled(&self, tunnel: &Tunnel) -> bool {
        let older =
            |since: Instant, than: Duration| self.now.saturating_duration_since(since) >= than;
        older(tunnel.opened, SETTLED) && tunnel.moved.is_none_or(|at| older(at, REST))
    }

    fn shuffle(&mut self) {
        let next = (self.index + 1) % self.mates.len();
        for handle in self.tunnels.handles() {
            if !self.is_draining && self.may_move(handle, &self.tunnels[handle]) {
                self.move_out(handle, next);
            }
        }
    }
}

/// The tunnel whose move leaves the busier of both workers with least, and what it is taken to cost.
fn choose<T>(
    (busy, others): (u32, u32),
    rates: impl Iterator<Item = (T, u64, bool)>,
) -> Option<(T, u32)> {
    let rates: Vec<(T, u64, bool)> = rates.collect();
    let total: u64 = rates.iter().map(|&(_, rate, _)| rate).sum();
    let share = |rate: u64| (u128::from(rate) * u128::from(busy) / u128::from(total.max(1))) as u32;
    let movable = rates.into_iter().filter(|&(_, _, may_move)| may_move);
    let after = |share: u32| (busy - share).max(others + share);
    let best = movable
        .map(|(tunnel, rate, _)| (tunnel, share(rate)))
        .min_by_key(|&(_, share)| after(share))?;
    (after(best.1) + MIN_GAIN <= busy).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(loads: (u32, u32), rates: &[u64]) -> Option<(usize, u32)> {
        choose(
            loads,
            rates
                .iter()
                .copied()
                .enumerate()
                .map(|(n, rate)| (n, rate, true)),
        )
    }

    #[test]
    fn the_tunnel_that_evens_out_goes_and_a_single_heavy_one_stays() {
        assert_eq!(chosen((1000, 0), &[10, 500, 30, 480]), Some((1, 490)));
        assert_eq!(
            chosen((1000, 0), &[1000]),
            None,
            "the other would be as busy"
        );
        assert_eq!(chosen((1000, 0), &[950, 50]), None, "nothing is gained");
        assert_eq!(
            chosen((1000, 650), &[25; 40]),
            None,
            "nor by one of many light ones"
        );
        assert_eq!(chosen((1000, 500), &[1, 1, 1]), Some((0, 333)));
        assert_eq!(chosen((1000, 0), &[0, 0]), None);
        assert_eq!(chosen((1000, 0), &[]), None);
    }

    /// Whatever the loads: after a move, the same rule finds no reason to take it back.
    #[test]
    fn nothing_moves_to_and_fro() {
        for busy in (HOT..=1000).step_by(50) {
            for others in (0..=busy - GAP).step_by(50) {
                for (one, two) in [(1, 1), (1, 3), (5, 1), (9, 1), (1, 19)] {
                    let Some((_, share)) = chosen((busy, others), &[one, two]) else {
                        continue;
                    };
                    let (mine, theirs) = (busy - share, others + share);
                    assert!(mine.max(theirs) < busy);
                    if theirs >= HOT && mine + GAP <= theirs {
                        let back = chosen((theirs, mine), &[u64::from(share), u64::from(others)]);
                        assert!(back.is_none_or(|(which, _)| which != 0));
                    }
                }
            }
        }
    }

    #[test]
    fn the_meter_follows_and_waits_for_a_second() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        for n in 1..=10 {
            meter.tick(start + TICK * n);
        }
        assert!(meter.busy() > 950);
        assert_eq!(
            (0..5).map(|_| meter.is_hot_beside(100)).collect::<Vec<_>>(),
            [false, false, false, true, false]
        );
        assert!(!meter.is_hot_beside(900));
        for n in 11..=20 {
            meter.slept(TICK);
            meter.tick(start + TICK * n);
        }
        assert!(meter.busy() < 20);
    }
}
