// SPDX-License-Identifier: Apache-2.0
//! What a worker counts, and the snapshots that the owner asks for.

use crate::ids::IdMap;
use crate::model::Direction;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// The series that a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CounterKey {
    pub direction: Direction,
    pub workload_id: u32,
    pub peer_workload_id: u32,
    pub service_id: u32,
}

/// Totals of one series since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    pub opened: u64,
    pub closed: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Connections that ended, or never began, for a reason.
    pub failed: BTreeMap<u32, u64>,
}

impl Counter {
    fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.closed += other.closed;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        for (&reason, &count) in &other.failed {
            *self.failed.entry(reason).or_default() += count;
        }
    }
}

/// All series of one worker, or of all of them together.
pub type Counters = IdMap<CounterKey, Counter>;

/// Adds what another worker counted.
pub(crate) fn merge(into: &mut Counters, other: Counters) {
    for (key, counter) in other {
        into.entry(key).or_default().add(&counter);
    }
}

/// One open stream.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    pub direction: Direction,
    pub workload_id: u32,
    pub peer_workload_id: u32,
    pub service_id: u32,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub original_destination: Option<SocketAddr>,
    pub source_identity: Option<Arc<str>>,
    pub destination_identity: Option<Arc<str>>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub age_us: u64,
    pub connect_us: u64,
}

/// One open HBONE connection.
#[derive(Clone, Debug)]
pub struct TunnelInfo {
    pub direction: Direction,
    pub workload_id: u32,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub peer_identity: Arc<str>,
    pub streams: usize,
    pub age_us: u64,
    pub worker: usize,
}

/// Gauges and totals of the whole core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub workers: usize,
    pub connections: usize,
    pub tunnels: usize,
    pub handshakes: u64,
    pub handshakes_failed: BTreeMap<u32, u64>,
    pub tunnels_opened: u64,
    pub tunnels_reused: u64,
    /// Pool keys that got a further worker.
    pub spills: u64,
    /// Open tunnels that went to another worker.
    pub tunnels_moved: u64,
    /// Idle tunnels that made room for others.
    pub tunnels_evicted: u64,
    /// Dials for which there was no room.
    pub tunnels_refused: u64,
    /// Open tunnels that ended, by reason; 0 is in order.
    pub tunnels_closed: BTreeMap<u32, u64>,
    pub events_dropped: u64,
    /// Refusals that were not told because their address had many.
    pub events_withheld: u64,
    pub capture_refused: BTreeMap<u32, u64>,
    pub buffers_bytes: usize,
    /// Of each worker.
    pub shares: Vec<WorkerShare>,
}

/// What one worker does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerShare {
    pub worker: usize,
    /// Smoothed share of time not asleep, in thousandths.
    pub busy: u32,
    pub tunnels: usize,
    pub connections: usize,
}

impl Stats {
    pub(crate) fn add(&mut self, other: &Self) {
        self.workers += other.workers;
        self.connections += other.connections;
        self.tunnels += other.tunnels;
        self.handshakes += other.handshakes;
        self.tunnels_opened += other.tunnels_opened;
        self.tunnels_reused += other.tunnels_reused;
        self.spills += other.spills;
        self.tunnels_moved += other.tunnels_moved;
        self.tunnels_evicted += other.tunnels_evicted;
        self.tunnels_refused += other.tunnels_refused;
        self.shares.extend(&other.shares);
        self.events_dropped += other.events_dropped;
        self.events_withheld += other.events_withheld;
        self.buffers_bytes += other.buffers_bytes;
        for (mine, theirs) in [
            (&mut self.handshakes_failed, &other.handshakes_failed),
            (&mut self.tunnels_closed, &other.tunnels_closed),
            (&mut self.capture_refused, &other.capture_refused),
        ] {
            for (&reason, &count) in theirs {
                *mine.entry(reason).or_default() += count;
            }
        }
    }
}
