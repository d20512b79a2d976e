// SPDX-License-Identifier: Apache-2.0
//! How many tunnels there may be, and whose goes when there are too many.
//!
//! A pod pays for itself: beyond its share each new tunnel costs its own longest idle one. Beyond the
//! cap of all, whoever has most pays, so a pod with thousands of peers takes nothing from one with
//! ten. A tunnel with streams is never taken; where nobody has an idle one to give, the stream is
//! refused.

use super::{Pool, PoolKey, Tunnel, TunnelId};
use crate::time::Millis;
use std::collections::BTreeSet;

/// Beyond three quarters of all tunnels no workload gets more than this part of them.
const SCARCE_SHARE: usize = 4;

/// What one workload has.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Tunnels, dialled ones included.
    pub tunnels: usize,
    /// Those without streams, idle for longest first.
    idle: BTreeSet<(Millis, TunnelId)>,
}

/// A tunnel on its way from one pool to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pooled {
    streams: u32,
    limit: u32,
}

impl Pooled {
    pub(super) fn new(streams: u32, limit: u32) -> Self {
        Self { streams, limit }
    }
}

impl<W> Pool<W> {
    /// Reserves a place for a tunnel of this workload; false where it may have none. An idle one may
    /// have been retired for it: [`Pool::expire`] then has something to release.
    pub(super) fn reserve(&mut self, workload: u32) -> bool {
        let most = self.config.max_tunnels;
        let total = self.tunnels.len() + self.dialling - self.spent.len();
        let mine = self.shares.get(&workload).map_or(0, |share| share.tunnels);
        let greedy = total >= most - most / 4 && mine >= most / SCARCE_SHARE;
        let room = if total >= most {
            self.evict_of_largest(workload)
        } else if greedy || mine >= self.config.workload_tunnels {
            self.evict_of(workload) || !greedy
        } else {
            true
        };
        if room {
            self.dialling += 1;
            self.shares.entry(workload).or_default().tunnels += 1;
        } else {
            self.refused += 1;
        }
        room
    }

    /// The dial that the place was for is over.
    pub(super) fn unreserve(&mut self, workload: u32) {
        self.dialling -= 1;
        self.leave_share(workload);
    }

    pub(super) fn leave_share(&mut self, workload: u32) {
        if let Some(share) = self.shares.get_mut(&workload) {
            share.tunnels -= 1;
            if share.tunnels == 0 {
                self.shares.remove(&workload);
            }
        }
    }

    pub(super) fn began_idling(&mut self, since: Millis, key: &PoolKey, id: TunnelId) {
        self.idle.insert((since, id));
        if let Some(share) = self.shares.get_mut(&key.source_workload) {
            share.idle.insert((since, id));
        }
    }

    pub(super) fn stopped_idling(&mut self, since: Millis, key: &PoolKey, id: TunnelId) {
        self.idle.remove(&(since, id));
        if let Some(share) = self.shares.get_mut(&key.source_workload) {
            share.idle.remove(&(since, id));
        }
    }

    fn evict_of_largest(&mut self, workload: u32) -> bool {
        let with_idle = self
            .shares
            .iter()
            .filter(|(_, share)| !share.idle.is_empty());
        let Some((&largest, share)) = with_idle.max_by_key(|(_, share)| share.tunnels) else {
            return false;
        };
        let mine = self.shares.get(&workload).map_or(0, |share| share.tunnels);
        let pays = if share.tunnels > mine {
            largest
        } else {
            workload
        };
        self.evict_of(pays)
    }

    fn evict_of(&mut self, workload: u32) -> bool {
        let oldest = self
            .shares
            .get(&workload)
            .and_then(|share| share.idle.first());
        let Some(&(_, id)) = oldest else {
            return false;
        };
        self.evicted += 1;
        self.retire(id);
        true
    }

    /// Idle tunnels that made room for others, and streams for which there was none.
    pub fn evicted_and_refused(&self) -> (u64, u64) {
        (self.evicted, self.refused)
    }

    /// Whether new streams may go to the tunnel.
    pub fn is_taking_streams(&self, id: TunnelId) -> bool {
        self.tunnels.get(&id).is_some_and(|tunnel| !tunnel.retired)
    }

    /// Forgets a tunnel that another pool adopts.
    pub fn take(&mut self, id: TunnelId) -> Option<Pooled> {
        let (streams, limit) = self.tunnels.get(&id).map(|t| (t.streams, t.limit))?;
        self.remove(id);
        Some(Pooled { streams, limit })
    }

    /// Takes over a tunnel that another pool has given up; `id` is its name here.
    pub fn adopt(&mut self, now: Millis, key: &PoolKey, id: TunnelId, pooled: Pooled) {
        let Pooled { streams, limit } = pooled;
        self.shares.entry(key.source_workload).or_default().tunnels += 1;
        self.groups.entry(*key).or_default().tunnels.push(id);
        let idle_since = (streams == 0).then_some(now);
        if idle_since.is_some() {
            self.began_idling(now, key, id);
        }
        let tunnel = Tunnel {
            key: *key,
            streams,
            limit,
            retired: false,
            idle_since,
        };
        self.tunnels.insert(id, tunnel);
    }
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
