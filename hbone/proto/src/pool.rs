// SPDX-License-Identifier: Apache-2.0
//! Which tunnel carries a new stream. One pool per worker; `W` is what the worker keeps for a waiting
//! client connection (a token).

use crate::Millis;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};

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
    /// Most streams on one tunnel, whatever the peer allows.
    pub max_streams: u32,
    /// A tunnel without streams is released after this.
    pub idle: Millis,
    /// Tunnels kept; the longest idle one beyond it is released.
    pub max_tunnels: usize,
    /// Waiters for one key while it dials.
    pub max_waiters: usize,
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
    /// Too many wait already.
    Full(W),
}

/// See the module.
#[derive(Debug)]
pub struct Pool<W> {
    _w: PhantomData<W>,
}

impl<W> Pool<W> {
    /// An empty pool.
    pub fn new(_config: PoolConfig) -> Self {
        todo!()
    }
    /// A new stream for `key`.
    pub fn acquire(&mut self, _now: Millis, _key: &PoolKey, _waiter: W) -> Acquire<W> {
        todo!()
    }
    /// The dial for `key` succeeded. Waiters that fit are pushed to `ready` (a slot taken for each).
    /// True: more waiters remain, dial once more.
    #[must_use]
    pub fn connected(
        &mut self,
        _now: Millis,
        _key: &PoolKey,
        _tunnel: TunnelId,
        _peer_max: u32,
        _ready: &mut Vec<W>,
    ) -> bool {
        todo!()
    }
    /// The dial failed: everybody who waited for it.
    pub fn dial_failed(&mut self, _key: &PoolKey) -> Vec<W> {
        todo!()
    }
    /// The peer's SETTINGS changed how many streams a tunnel takes.
    pub fn set_limit(&mut self, _tunnel: TunnelId, _peer_max: u32) {
        todo!()
    }
    /// A stream ended (or could not be opened after all). If somebody waits for the key, the slot is
    /// theirs: open their stream on this tunnel.
    #[must_use]
    pub fn stream_ended(&mut self, _now: Millis, _tunnel: TunnelId) -> Option<W> {
        todo!()
    }
    /// GOAWAY, expiry or removal of a peer: never pick it again. Streams on it go on.
    pub fn retire(&mut self, _tunnel: TunnelId) {
        todo!()
    }
    /// The tunnel is closed: forget it with all its streams.
    pub fn remove(&mut self, _tunnel: TunnelId) {
        todo!()
    }
    /// Tunnels to close now: idle too long, or beyond the cap. They are forgotten.
    pub fn expire(&mut self, _now: Millis, _released: &mut Vec<TunnelId>) {
        todo!()
    }
    /// When `expire` next has something to do.
    pub fn next_deadline(&self) -> Option<Millis> {
        todo!()
    }
    /// Tunnels whose key matches, to retire or close (a peer or a workload was removed).
    pub fn matching(&self, _matches: impl Fn(&PoolKey) -> bool) -> Vec<TunnelId> {
        todo!()
    }
}
