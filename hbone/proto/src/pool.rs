// SPDX-License-Identifier: Apache-2.0
//! Which tunnel carries a new stream. One pool per worker, so there are no locks; `W` is what the
//! worker keeps for a waiting client connection (a token).
//!
//! ```text
//!  acquire ─┬─ a tunnel with a free slot ─▶ Use
//!           ├─ nobody dials ─────────────▶ Dial ─┬─ connected ─▶ waiters, as many as fit ─┬▶ all
//!           └─ somebody dials ───────────▶ Wait ─┤                                        └▶ dial again
//!                                                └─ dial_failed ─▶ all waiters, told so
//! ```
//! Somebody waits only while a dial is under way, so nobody waits for ever. A stream that ends frees
//! its slot, also on a tunnel that once was full.

mod room;

pub use room::Pooled;

use room::Share;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::time::Millis;

/// Two streams may share a tunnel only if all of this is equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Whose SVID and netns the tunnel uses.
    pub source_workload: u32,
    /// Local address of the tunnel: the far side's policy sees it.
    pub source_ip: IpAddr,
    /// The peer's HBONE address, such as `10.1.2.3:15008`.
    pub destination: SocketAddr,
    /// The worker's number for the set of SPIFFE IDs accepted from the peer.
    pub identities: u32,
}

/// The worker's own name for a tunnel; unique among live ones.
pub type TunnelId = u64;

/// Limits of the pool.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Most streams on one tunnel, whatever the peer allows. 100 as ztunnel: one lost tunnel should
    /// not take more with it.
    pub max_streams: u32,
    /// A tunnel without streams is released after this. 5 minutes as ztunnel.
    pub idle: Millis,
    /// Most tunnels; beyond it idle ones make room, or streams are refused. A tunnel with streams is
    /// never released. Each costs us 7 KB and a descriptor, and so the peer.
    pub max_tunnels: usize,
    /// Tunnels of one source workload beyond which its own idle ones make room. 500 as ztunnel.
    pub workload_tunnels: usize,
    /// Waiters for one key while it dials: a dead peer must not collect all of a pod's sockets. With
    /// a connect timeout of 10 s this allows 1600 connects a second to it.
    pub max_waiters: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_streams: 100,
            idle: Millis::seconds(300),
            max_tunnels: 2000,
            workload_tunnels: 500,
            max_waiters: 16_384,
        }
    }
}

/// The answer to [`Pool::acquire`].
#[derive(Debug, PartialEq, Eq)]
pub enum Acquire<W> {
    /// Open the stream on this tunnel: a slot is taken for it.
    Use(TunnelId, W),
    /// Dial now: the waiter is kept and comes back from `connected` or `dial_failed`.
    Dial,
    /// A dial for this key is under way: the waiter is kept.
    Wait,
    /// Too many wait already, or there is no room for a tunnel.
    Full(W),
}

#[derive(Debug)]
struct Group<W> {
    /// Tunnels that take streams, the newest last.
    tunnels: Vec<TunnelId>,
    dialing: bool,
    waiters: VecDeque<W>,
    /// What the peer's newest SETTINGS allow: a new tunnel takes streams before its own have come.
    peer_max: u32,
}

impl<W> Default for Group<W> {
    fn default() -> Self {
        Self {
            tunnels: Vec::new(),
            dialing: false,
            waiters: VecDeque::new(),
            peer_max: u32::MAX,
        }
    }
}

#[derive(Debug)]
struct Tunnel {
    key: PoolKey,
    streams: u32,
    limit: u32,
    retired: bool,
    idle_since: Option<Millis>,
}

/// Those who waited, after a dial.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<W> {
    /// All have a slot.
    Done,
    /// More remain: dial once more.
    DialAgain,
    /// There is no room for another tunnel: these get none.
    Refused(Vec<W>),
}

/// See the module.
#[derive(Debug)]
pub struct Pool<W> {
    config: PoolConfig,
    groups: HashMap<PoolKey, Group<W>>,
    tunnels: HashMap<TunnelId, Tunnel>,
    /// Tunnels without streams, idle for longest first.
    idle: BTreeSet<(Millis, TunnelId)>,
    /// Retired tunnels without streams.
    spent: Vec<TunnelId>,
    /// Of each source workload.
    shares: HashMap<u32, Share>,
    /// Dials under way.
    dialling: usize,
    evicted: u64,
    refused: u64,
}

impl<W> Pool<W> {
    /// An empty pool.
    pub fn new(config: PoolConfig) -> Self {
        let (groups, tunnels) = (HashMap::new(), HashMap::new());
        Self {
            config,
            groups,
            tunnels,
            idle: BTreeSet::new(),
            spent: Vec::new(),
            shares: HashMap::new(),
            dialling: 0,
            evicted: 0,
            refused: 0,
        }
    }

    /// A new stream for `key`.
    pub fn acquire(&mut self, key: &PoolKey, waiter: W) -> Acquire<W> {
        let group = self.groups.entry(*key).or_default();
        for &id in group.tunnels.iter().rev() {
            let Some(tunnel) = self.tunnels.get_mut(&id) else {
                continue;
            };
            if tunnel.streams < tunnel.limit {
                tunnel.streams += 1;
                if let Some(since) = tunnel.idle_since.take() {
                    self.stopped_idling(since, key, id);
                }
                return Acquire::Use(id, waiter);
            }
        }
        if group.waiters.len() >= self.config.max_waiters {
            return Acquire::Full(waiter);
        }
        if group.dialing {
            group.waiters.push_back(waiter);
            return Acquire::Wait;
        }
        if !self.reserve(key.source_workload) {
            self.forget_if_empty(key);
            return Acquire::Full(waiter);
        }
        let group = self.groups.entry(*key).or_default();
        group.waiters.push_back(waiter);
        group.dialing = true;
        Acquire::Dial
    }

    /// The dial for `key` succeeded. Waiters that fit are pushed to `ready`, a slot taken for each.
    /// `peer_max`: as [`Connection::max_streams`] says now.
    ///
    /// [`Connection::max_streams`]: crate::Connection::max_streams
    #[must_use]
    pub fn connected(
        &mut self,
        now: Millis,
        key: &PoolKey,
        id: TunnelId,
        peer_max: u32,
        ready: &mut Vec<W>,
    ) -> Next<W> {
        let group = self.groups.entry(*key).or_default();
        let limit = limit(&self.config, peer_max.min(group.peer_max));
        let fit = group.waiters.len().min(limit as usize);
        ready.extend(group.waiters.drain(..fit));
        let was_dialing = std::mem::take(&mut group.dialing);
        let more = !group.waiters.is_empty();
        let pooled = Pooled::new(fit as u32, limit);
        self.adopt(now, key, id, pooled);
        if was_dialing {
            self.unreserve(key.source_workload);
        }
        if !more {
            return Next::Done;
        }
        let again = self.reserve(key.source_workload);
        let group = self.groups.entry(*key).or_default();
        group.dialing = again;
        if again {
            Next::DialAgain
        } else {
            Next::Refused(std::mem::take(&mut group.waiters).into())
        }
    }

    /// The dial failed: everybody who waited for it.
    #[must_use]
    pub fn dial_failed(&mut self, key: &PoolKey) -> Vec<W> {
        let Some(group) = self.groups.get_mut(key) else {
            return Vec::new();
        };
        let was_dialing = std::mem::take(&mut group.dialing);
        let waiters = std::mem::take(&mut group.waiters).into();
        if was_dialing {
            self.unreserve(key.source_workload);
        }
        self.forget_if_empty(key);
        waiters
    }

    /// The peer's SETTINGS changed how many streams a tunnel takes.
    pub fn set_limit(&mut self, id: TunnelId, peer_max: u32) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.limit = limit(&self.config, peer_max);
            if let Some(group) = self.groups.get_mut(&tunnel.key) {
                group.peer_max = peer_max;
            }
        }
    }

    /// Streams were opened before the peer's SETTINGS said how many it takes: it will refuse those
    /// beyond, and the others go on.
    pub fn is_over_limit(&self, id: TunnelId) -> bool {
        self.tunnels
            .get(&id)
            .is_some_and(|tunnel| tunnel.streams > tunnel.limit)
    }

    /// A stream ended, or could not be opened after all. If somebody waits for the key, the slot is
    /// theirs at once: open their stream on this tunnel.
    #[must_use]
    pub fn stream_ended(&mut self, now: Millis, id: TunnelId) -> Option<W> {
        let tunnel = self.tunnels.get_mut(&id)?;
        debug_assert!(tunnel.streams > 0, "more streams ended than began");
        tunnel.streams = tunnel.streams.saturating_sub(1);
        if !tunnel.retired
            && tunnel.streams < tunnel.limit
            && let Some(group) = self.groups.get_mut(&tunnel.key)
            && let Some(waiter) = group.waiters.pop_front()
        {
            tunnel.streams += 1;
            return Some(waiter);
        }
        if tunnel.streams == 0 && tunnel.retired {
            self.spent.push(id);
        } else if tunnel.streams == 0 {
            tunnel.idle_since = Some(now);
            let key = tunnel.key;
            self.began_idling(now, &key, id);
        }
        None
    }

    /// Never pick this tunnel again (GOAWAY, ids used up, a peer removed). Its streams go on; without
    /// any it is released by the next [`Pool::expire`].
    pub fn retire(&mut self, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut tunnel.retired, true) {
            return;
        }
        let key = tunnel.key;
        if let Some(since) = tunnel.idle_since.take() {
            self.stopped_idling(since, &key, id);
            self.spent.push(id);
        }
        self.leave_group(&key, id);
    }

    /// The tunnel is closed: forget it with all its streams.
    pub fn remove(&mut self, id: TunnelId) {
        let Some(tunnel) = self.tunnels.remove(&id) else {
            return;
        };
        if let Some(since) = tunnel.idle_since {
            self.stopped_idling(since, &tunnel.key, id);
        }
        self.leave_share(tunnel.key.source_workload);
        self.spent.retain(|&other| other != id);
        self.leave_group(&tunnel.key, id);
    }

    /// Tunnels to close now: retired, idle for too long, or the oldest idle beyond the cap. They are
    /// forgotten here.
    pub fn expire(&mut self, now: Millis, released: &mut Vec<TunnelId>) {
        for id in std::mem::take(&mut self.spent) {
            released.push(id);
            self.remove(id);
        }
        while let Some(&(since, id)) = self.idle.first() {
            let expired = since + self.config.idle <= now;
            if !expired && self.tunnels.len() <= self.config.max_tunnels {
                break;
            }
            released.push(id);
            self.remove(id);
        }
    }

    /// When [`Pool::expire`] next has something to do; may be past.
    pub fn next_deadline(&self) -> Option<Millis> {
        if !self.spent.is_empty() {
            return Some(Millis(0));
        }
        let &(since, _) = self.idle.first()?;
        let over = self.tunnels.len() > self.config.max_tunnels;
        Some(if over {
            since
        } else {
            since + self.config.idle
        })
    }

    /// Tunnels whose key matches, to retire or close: a peer or a workload was removed.
    pub fn matching(&self, matches: impl Fn(&PoolKey) -> bool) -> Vec<TunnelId> {
        self.tunnels
            .iter()
            .filter(|(_, t)| matches(&t.key))
            .map(|(&id, _)| id)
            .collect()
    }

    /// Live tunnels, retired ones included.
    pub fn len(&self) -> usize {
        self.tunnels.len()
    }

    /// No tunnel is alive.
    pub fn is_empty(&self) -> bool {
        self.tunnels.is_empty()
    }

    fn leave_group(&mut self, key: &PoolKey, id: TunnelId) {
        if let Some(group) = self.groups.get_mut(key) {
            group.tunnels.retain(|&other| other != id);
        }
        self.forget_if_empty(key);
    }

    fn forget_if_empty(&mut self, key: &PoolKey) {
        let empty = |g: &Group<W>| g.tunnels.is_empty() && !g.dialing && g.waiters.is_empty();
        if self.groups.get(key).is_some_and(empty) {
            self.groups.remove(key);
        }
    }
}

/// At least 1: a peer that allows none would be dialled for ever.
fn limit(config: &PoolConfig, peer_max: u32) -> u32 {
    config.max_streams.min(peer_max).max(1)
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
