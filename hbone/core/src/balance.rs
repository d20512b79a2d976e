// SPDX-License-Identifier: Apache-2.0
//! What the workers tell each other without locks: how busy each is, and who owns which pool key.

use hbone_proto::placement::{Load, Slot, least_busy};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Slots for pool keys. 16,384 words are 128 KiB, of which the kernel gives what is touched; eight
/// heavy keys share one with a probability of 0.2 %.
const SLOTS: usize = 1 << 14;

/// What a newly placed thing is taken to add until its worker publishes again, in thousandths: a
/// burst within one tick must not all go where it was quiet before.
const PLACED_ADDS: u32 = 5;

#[derive(Debug, Default)]
struct Shared {
    busy: AtomicU32,
    placed: AtomicU32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Balance {
    workers: Box<[Shared]>,
    slots: Box<[AtomicU64]>,
    pub epoch: Instant,
}

impl Balance {
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| Shared::default()).collect(),
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            epoch: Instant::now(),
        }
    }

    /// A worker's own word about itself, in thousandths.
    pub fn publish(&self, worker: usize, busy: u32) {
        self.workers[worker].busy.store(busy, Relaxed);
    }

    pub fn load(&self, worker: usize) -> Load {
        let shared = &self.workers[worker];
        Load {
            busy: shared.busy.load(Relaxed).min(1000),
            // Below 0 for a moment, where a leave is counted before the arrival.
            placed: shared
                .placed
                .load(Relaxed)
                .cast_signed()
                .max(0)
                .cast_unsigned(),
        }
    }

    /// The least busy worker but one.
    pub fn least_busy_but(&self, worker: usize) -> Option<usize> {
        let others = (0..self.workers.len()).filter(|&other| other != worker);
        least_busy(others, |other| self.load(other))
    }

    fn place(&self, worker: usize) {
        self.workers[worker].placed.fetch_add(1, Relaxed);
        self.expect(worker, PLACED_ADDS);
    }

    fn leave(&self, worker: usize) {
        self.workers[worker].placed.fetch_sub(1, Relaxed);
    }

    /// Quarter seconds, for the slots.
    fn tick(&self, now: Instant) -> u8 {
        (now.saturating_duration_since(self.epoch).as_millis() / 250) as u8
    }

    /// Something that is on its way to a worker will make it this much busier.
    pub fn expect(&self, worker: usize, busy: u32) {
        self.workers[worker].busy.fetch_add(busy, Relaxed);
    }

    fn slot_of(workload: u32, upstream: IpAddr) -> usize {
        let mut hasher = DefaultHasher::new();
        (workload, upstream).hash(&mut hasher);
        hasher.finish() as usize % SLOTS
    }

    fn change<T>(&self, slot: usize, change: impl Fn(Slot) -> (Slot, T)) -> (Slot, T) {
        let word = &self.slots[slot];
        let mut before = word.load(Relaxed);
        loop {
            let (after, answer) = change(Slot(before));
            match word.compare_exchange_weak(before, after.0, Relaxed, Relaxed) {
                Ok(_) => {
                    self.account(Slot(before), after);
                    return (Slot(before), answer);
                }
                Err(now) => before = now,
            }
        }
    }

    fn account(&self, before: Slot, after: Slot) {
        let same = |(one, other)| one == other;
        if before.members().count() == after.members().count()
            && before.members().zip(after.members()).all(same)
        {
            return;
        }
        after
            .members()
            .filter(|&new| !before.has(new))
            .for_each(|new| self.place(new));
        before
            .members()
            .filter(|&old| !after.has(old))
            .for_each(|old| self.leave(old));
    }
}

/// A connection's or a tunnel's hold on its pool key's slot: while there is one, the key keeps its
/// owner.
#[derive(Debug)]
pub(crate) struct Claim {
    balance: Arc<Balance>,
    slot: usize,
}

/// Where a new connection goes.
pub(crate) struct Routed {
    pub claim: Claim,
    pub worker: usize,
    /// Its key has got a further worker just now.
    pub spilt: bool,
}

impl Claim {
    pub fn route(
        balance: &Arc<Balance>,
        (workload, upstream): (u32, IpAddr),
        now: Instant,
        random: u64,
    ) -> Routed {
        let slot = Balance::slot_of(workload, upstream);
        let (workers, tick) = (balance.workers.len(), balance.tick(now));
        let load = |worker| balance.load(worker);
        let (before, (worker, members)) = balance.change(slot, |slot| {
            let (after, worker) = slot.route(workers, load, tick, random);
            (after, (worker, after.members().count()))
        });
        let had = before.members().count();
        Routed {
            claim: Self {
                balance: balance.clone(),
                slot,
            },
            worker,
            spilt: had > 0 && members > had,
        }
    }

    /// Whether `worker` may serve new connections of this key still.
    pub fn is_of(&self, worker: usize) -> bool {
        Slot(self.balance.slots[self.slot].load(Relaxed)).has(worker)
    }

    /// The owner at this moment.
    pub fn owner(&self) -> Option<usize> {
        Slot(self.balance.slots[self.slot].load(Relaxed))
            .members()
            .next()
    }

    /// New connections of the key follow a tunnel that moves.
    pub fn moved(&self, from: usize, to: usize) {
        let tick = self.balance.tick(Instant::now());
        self.balance
            .change(self.slot, |slot| (slot.moved(from, to, tick), ()));
    }
}

impl Clone for Claim {
    fn clone(&self) -> Self {
        self.balance.change(self.slot, |slot| (slot.hold(), ()));
        Self {
            balance: self.balance.clone(),
            slot: self.slot,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.balance.change(self.slot, |slot| (slot.release(), ()));
    }
}

/// An inbound tunnel's place at a worker.
#[derive(Debug)]
pub(crate) struct Place {
    balance: Arc<Balance>,
    pub worker: usize,
}

impl Place {
    /// At the least busy worker.
    pub fn least_busy(balance: &Arc<Balance>) -> Self {
        let load = |worker| balance.load(worker);
        let worker = least_busy(0..balance.workers.len(), load).unwrap_or(0);
        Self::at(balance, worker)
    }

    pub fn at(balance: &Arc<Balance>, worker: usize) -> Self {
        balance.place(worker);
        Self {
            balance: balance.clone(),
            worker,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.balance.leave(self.worker);
    }
}

/// Why a tunnel is at its worker.
#[derive(Debug)]
pub(crate) enum Hold {
    Outbound(Claim),
    Inbound(Place),
}

impl Hold {
    /// The tunnel moves.
    pub fn moved(&mut self, from: usize, to: usize) {
        match self {
            Self::Outbound(claim) => claim.moved(from, to),
            Self::Inbound(place) => *place = Place::at(&place.balance.clone(), to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Real threads, many keys: whatever they do at once, what is counted is what is held.
    #[test]
    fn counts_survive_any_interleaving() {
        let balance = Arc::new(Balance::new(4));
        let threads: Vec<_> = (0..4_u64)
            .map(|seed| {
                let balance = balance.clone();
                thread::spawn(move || {
                    let mut held = Vec::new();
                    for n in 0..20_000_u64 {
                        let key = (n as u32 % 7, IpAddr::from([10, 0, 0, (n % 5) as u8]));
                        let routed = Claim::route(&balance, key, Instant::now(), n * 7919 + seed);
                        assert!(routed.worker < 4);
                        held.push(routed.claim);
                        if n % 3 == 0 {
                            held.push(held[0].clone());
                            held[0].moved(n as usize % 4, (n / 3) as usize % 4);
                        }
                        if held.len() > 20 {
                            held.drain(..15);
                        }
                        balance.publish(n as usize % 4, (n * 37 % 1001) as u32);
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert!(balance.slots.iter().all(|slot| slot.load(Relaxed) == 0));
        assert!((0..4).all(|worker| balance.load(worker).placed == 0));
    }
}
