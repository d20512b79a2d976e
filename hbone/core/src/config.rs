// SPDX-License-Identifier: Apache-2.0
//! Settings of the core and the limits it works within.

use hbone_proto::{Millis, PoolConfig};
use hbone_sys::verdict::{Unjudged, Verdicts};
use hbone_tls::{MAX_PLAINTEXT, OVERHEAD};
use std::sync::Arc;
use std::time::Duration;

/// What a caller may choose. The defaults are those of the Python surface.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads; 0 is one per core.
    pub workers: usize,
    /// Where agents listen for tunnels, on every address of a pod.
    pub hbone_port: u16,
    /// TCP_CONGESTION of every socket of the core; empty leaves the namespace's own.
    pub congestion_control: String,
    /// Events that wait at most; more are dropped and counted.
    pub max_events: usize,
    /// One side has closed: how long the other may stay silent.
    pub half_close_idle: Duration,
    /// How long a tunnel without streams stays open.
    pub pool_idle: Duration,
    /// For TCP, TLS and the dial of an application, each.
    pub connect_timeout: Duration,
    /// Bytes that applications of one worker have not taken, at most. Beyond, the peer that holds
    /// most loses the stream that holds most: else one with many tunnels (a window of 16 MiB each)
    /// would have the agent killed.
    pub pending_limit: usize,
    /// Records sealed under one key before a KeyUpdate changes it (RFC 8446 section 5.5). At most what
    /// hbone-tls allows AES-GCM, which is also the default; fewer is for tests.
    pub records_per_key: u64,
    /// Outbound tunnels of one pod beyond which its own idle ones make room for new ones, longest
    /// idle first. 500 as ztunnel (its pool size of one pod). Divided among the workers.
    pub pod_tunnels: usize,
    /// What the policy says of a connection. The default lets everything pass: for a core without
    /// a kernel half.
    pub verdicts: Arc<dyn Verdicts>,
    /// How long a worker looks for more before it sleeps, where that has paid lately; 0 is never.
    pub spin: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 0,
            hbone_port: 15008,
            congestion_control: String::new(),
            max_events: 65_536,
            half_close_idle: Duration::from_secs(300),
            pool_idle: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(10),
            pending_limit: 256 << 20,
            records_per_key: u64::MAX,
            pod_tunnels: 500,
            verdicts: Arc::new(Unjudged),
            spin: Duration::ZERO,
        }
    }
}

/// A time that somebody asks for is at most a year: added to the clock, endless ones overflow.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Looking for longer than this is no better than sleeping.
pub(crate) const LONGEST_SPIN: Duration = Duration::from_millis(1);

impl Config {
    /// The same with times that can be added to a clock.
    pub(crate) fn bounded(mut self) -> Self {
        for time in [
            &mut self.half_close_idle,
            &mut self.pool_idle,
            &mut self.connect_timeout,
        ] {
            *time = (*time).min(LONGEST);
        }
        self.spin = self.spin.min(LONGEST_SPIN);
        self
    }

    /// Holds less where the process may use little: being killed would end everybody's connections.
    pub(crate) fn fit_into(&mut self, memory: Option<usize>, workers: usize) {
        if let Some(memory) = memory {
            let share = memory / PENDING_PART / workers.max(1);
            self.pending_limit = self.pending_limit.min(share);
        }
    }

    /// The pool of one of so many workers.
    pub(crate) fn pool(&self, descriptors: usize, workers: usize) -> PoolConfig {
        let all = descriptors / TUNNEL_DESCRIPTORS / workers;
        PoolConfig {
            max_streams: STREAMS_PER_TUNNEL as u32,
            idle: Millis(self.pool_idle.as_millis() as u64),
            max_tunnels: all.max(FEWEST_TUNNELS),
            workload_tunnels: (self.pod_tunnels / workers).max(FEWEST_OF_POD),
            max_waiters: MAX_WAITING,
        }
    }
}

/// Deadlines are looked at this often while there are any; none needs to be finer.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// Accepts per listener and wake, so that a storm of new connections cannot starve the open ones.
/// A guess; listeners are level-triggered, so what is left comes in the next wake.
pub(crate) const ACCEPTS_PER_WAKE: usize = 64;

/// Handshakes that one worker has half-open at most: an unauthenticated client costs a rustls
/// state of some 30 KiB, so this bounds what strangers can hold to 15 MiB a worker.
pub(crate) const MAX_HALF_OPEN: usize = 512;

/// Of those, how many may come from one address: a stranger at one address shuts nobody else out.
pub(crate) const MAX_HALF_OPEN_PER_ADDRESS: u32 = 64;

/// How long a handshake may take while more than half of [`MAX_HALF_OPEN`] are under way. An honest
/// one takes two round trips and some milliseconds of CPU.
pub(crate) const HURRIED_HANDSHAKE: Duration = Duration::from_secs(2);

/// Tunnels from one address to the pods of one worker. An honest agent has one for each 100 streams
/// between two pods (ztunnel somewhat more); the bound is for those that open tunnels for their own
/// sake, since each costs a descriptor.
pub(crate) const MAX_TUNNELS_PER_ADDRESS: u32 = 1024;

/// Frames of our own (answers, resets, window updates) that wait for a peer that reads nothing. What
/// streams and keepalive of an honest tunnel can queue meanwhile is some 100 KiB.
pub(crate) const MAX_UNSENT_CONTROL: usize = 1 << 20;

/// A socket that has taken nothing for so long while something waits is dead or hostile: agents read
/// tunnels whatever their applications do. Long, since the kernel says "writable" only when a third
/// of its buffer is free, which takes a slow link with a large buffer half a minute.
pub(crate) const STALLED: Duration = Duration::from_secs(60);

/// The same while unsent buffers run out.
pub(crate) const STALLED_UNDER_PRESSURE: Duration = Duration::from_secs(5);

/// One part in so many of the descriptors that connections do not get: tunnels, listeners, the
/// agent's own files.
pub(crate) const DESCRIPTORS_KEPT: usize = 8;

/// A pod may hold this many times the descriptors that are still free, on each worker. Alone on one
/// it gets three quarters; however many pods want all they can get, a newcomer finds some.
pub(crate) const POD_APPETITE: usize = 3;

/// Series of traffic counters that one worker keeps; more are counted under workload and service 0.
/// Peers choose the service that they name, within those that exist.
pub(crate) const MAX_SERIES: usize = 65_536;

/// Streams that one tunnel carries before another one is dialled for the same key; ztunnel's
/// number (POOL_MAX_STREAMS_PER_CONNECTION).
pub(crate) const STREAMS_PER_TUNNEL: usize = 100;

/// Connections of one pool key that may wait for a tunnel that is being dialled.
pub(crate) const MAX_WAITING: usize = 65_536;

/// TCP keepalive of sockets to other nodes and to captured applications; ztunnel's number.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(180);

/// Stop reading applications while a tunnel has this much sealed and unsent.
pub(crate) const UNSENT_HIGH: usize = 256 * 1024;

/// Turns that one socket gets in one wake before the others have theirs.
pub(crate) const ROUNDS_PER_WAKE: usize = 2;

/// Records that one read of an application may fill.
pub(crate) const RECORDS_PER_READ: usize = 16;

/// What one read of a tunnel may bring: a whole number of full records, so that a read that is full of
/// them ends with one.
pub(crate) const RECEIVE_BYTES: usize = 16 * (MAX_PLAINTEXT + OVERHEAD);

/// Bytes that applications of one worker have not taken yet. Up to here a stalled stream does not
/// hold back the window of its tunnel, so that four of them (4 MiB each in a window of 16 MiB) do
/// not stop the rest; beyond, back-pressure reaches the whole tunnel and memory stays bounded.
pub(crate) const PENDING_SOFT_LIMIT: usize = 64 << 20;

/// One part in so many of the memory limit is for what applications have not taken, of all workers;
/// the rest is for unsent buffers, tunnels and the agent itself.
pub(crate) const PENDING_PART: usize = 4;

/// Unsent buffers that one worker may hold (each up to 576 KiB); beyond, applications wait.
pub(crate) const MAX_OUTBOXES: usize = 256;

/// Of those, how many one address may hold by not reading while more than half are lent.
pub(crate) const MAX_STALLED_PER_ADDRESS: u32 = 64;

/// Of the process's descriptors, the part that outbound tunnels may have: each serves at least one
/// application's socket while it is in use.
pub(crate) const TUNNEL_DESCRIPTORS: usize = 2;

/// However many workers share a limit, each may have this many tunnels, and of each pod this many.
pub(crate) const FEWEST_TUNNELS: usize = 64;
pub(crate) const FEWEST_OF_POD: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_memory_limit_is_divided_among_the_workers() {
        let mut config = Config::default();
        config.fit_into(None, 4);
        config.fit_into(Some(64 << 30), 4);
        assert_eq!(config.pending_limit, 256 << 20);
        config.fit_into(Some(512 << 20), 4);
        assert_eq!(config.pending_limit, 32 << 20);
    }
}
