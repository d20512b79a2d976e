// SPDX-License-Identifier: Apache-2.0
//! Who pays when something runs out: whoever holds most of it, told by the address that it comes
//! from. Addresses cannot be forged here (a handshake came back to them), identities can be shared.

use super::Worker;
use super::tunnel::{State, Tunnel};
use crate::config::{
    DESCRIPTORS_KEPT, HURRIED_HANDSHAKE, MAX_HALF_OPEN, MAX_HALF_OPEN_PER_ADDRESS,
    MAX_STALLED_PER_ADDRESS, MAX_TUNNELS_PER_ADDRESS, POD_APPETITE, STALLED,
    STALLED_UNDER_PRESSURE,
};
use crate::model::Direction;
use crate::slab::Handle;
use hbone_proto::Reason;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What one remote address holds of a worker.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Inbound tunnels, also those under way.
    tunnels: u32,
    /// Inbound tunnels whose handshake is not done.
    half_open: u32,
    /// Tunnels whose socket takes nothing.
    stalled: u32,
}

impl Worker {
    fn change_share(&mut self, address: IpAddr, change: impl FnOnce(&mut Share)) {
        let share = self.shares.entry(address).or_default();
        change(share);
        if *share == Share::default() {
            self.shares.remove(&address);
        }
    }

    /// Half-open tunnels from strangers are bounded; ours are bounded by the pool keys.
    pub(super) fn may_begin_handshake(&self, from: IpAddr) -> bool {
        let share = self.shares.get(&from);
        self.half_open < MAX_HALF_OPEN
            && share.is_none_or(|share| {
                share.half_open < MAX_HALF_OPEN_PER_ADDRESS
                    && share.tunnels < MAX_TUNNELS_PER_ADDRESS
            })
    }

    pub(super) fn handshake_began(&mut self, from: IpAddr) {
        self.half_open += 1;
        self.change_share(from, |share| {
            share.tunnels += 1;
            share.half_open += 1;
        });
    }

    pub(super) fn handshake_ended(&mut self, from: IpAddr) {
        self.half_open -= 1;
        self.change_share(from, |share| share.half_open -= 1);
    }

    /// A tunnel leaves the slab.
    pub(super) fn tunnel_left(&mut self, tunnel: &Tunnel) {
        let inbound = tunnel.direction == Direction::Inbound;
        let stalled = tunnel.stalled.is_some();
        if inbound || stalled {
            self.change_share(tunnel.remote.ip(), |share| {
                share.tunnels -= u32::from(inbound);
                share.stalled -= u32::from(stalled);
            });
        }
    }

    /// A tunnel comes from another worker, open.
    pub(super) fn tunnel_came(&mut self, tunnel: &Tunnel) {
        let inbound = tunnel.direction == Direction::Inbound;
        let stalled = tunnel.stalled.is_some();
        if inbound || stalled {
            self.change_share(tunnel.remote.ip(), |share| {
                share.tunnels += u32::from(inbound);
                share.stalled += u32::from(stalled);
            });
        }
    }

    /// Notes whether the socket has taken something since it last took everything.
    pub(super) fn note_progress(&mut self, handle: Handle, took: bool) {
        let tunnel = &mut self.tunnels[handle];
        let waits = !tunnel.writable && !tunnel.outbox.is_empty();
        let (before, address) = (tunnel.stalled, tunnel.remote.ip());
        tunnel.stalled = match (waits, before) {
            (false, _) => None,
            (true, Some(since)) if !took => Some(since),
            (true, _) => Some(self.now),
        };
        match (before.is_some(), waits) {
            (false, true) => self.change_share(address, |share| share.stalled += 1),
            (true, false) => self.change_share(address, |share| share.stalled -= 1),
            _ => {}
        }
    }

    /// Whether applications of this tunnel must wait for room to send.
    pub(super) fn must_wait(&self, tunnel: &Tunnel) -> bool {
        self.buffers.is_exhausted()
            || self.buffers.is_scarce()
                && tunnel.outbox.is_empty()
                && self
                    .shares
                    .get(&tunnel.remote.ip())
                    .is_some_and(|share| share.stalled >= MAX_STALLED_PER_ADDRESS)
    }

    /// Why a tunnel has taken too long with something, if it has.
    pub(super) fn overdue(&self, tunnel: &Tunnel) -> Option<(Reason, &'static str)> {
        let older = |since: Instant, limit| self.now.saturating_duration_since(since) >= limit;
        if tunnel.deadline.is_some_and(|at| at <= self.now) {
            return Some(match tunnel.state {
                State::Connecting(..) => {
                    (Reason::UpstreamConnectTimeout, "no answer to TCP connect")
                }
                State::Handshaking(_) => (
                    Reason::TlsHandshakeFailed,
                    "the handshake did not end in time",
                ),
                _ => (Reason::Draining, "the drain's deadline has passed"),
            });
        }
        let patience = if self.buffers.is_scarce() {
            STALLED_UNDER_PRESSURE
        } else {
            STALLED
        };
        if tunnel.stalled.is_some_and(|since| older(since, patience)) {
            return Some((Reason::TunnelLost, "the peer reads nothing any more"));
        }
        let hurried = self.half_open > MAX_HALF_OPEN / 2
            && tunnel.direction == Direction::Inbound
            && matches!(tunnel.state, State::Handshaking(_));
        (hurried && older(tunnel.opened, HURRIED_HANDSHAKE)).then_some((
            Reason::TlsHandshakeFailed,
            "the handshake was slow while too many were under way",
        ))
    }

    /// Ends streams until what applications have not taken is within bounds.
    pub(super) fn shed_pending(&mut self) {
        while self.pending_bytes > self.config.pending_limit {
            let Some(heaviest) = self.heaviest_stream() else {
                return;
            };
            self.end_stream(heaviest, Reason::ResourceLimit);
        }
    }

    /// The stream with the most pending of the peer with the most.
    fn heaviest_stream(&self) -> Option<Handle> {
        let mut held: HashMap<IpAddr, (usize, usize, Handle)> = HashMap::new();
        for (handle, stream) in self.streams.iter() {
            let pending = stream.pending_len();
            if pending == 0 {
                continue;
            }
            let (total, most, heaviest) = held
                .entry(stream.about.peer_address())
                .or_insert((0, 0, handle));
            *total += pending;
            if pending > *most {
                (*most, *heaviest) = (pending, handle);
            }
        }
        let (_, _, heaviest) = held.into_values().max_by_key(|&(total, ..)| total)?;
        Some(heaviest)
    }

    /// Whether a pod may have one more connection: the fewer descriptors are free, the less one
    /// pod may hold, so that there is always some for a pod that has few. (Dynamic thresholds,
    /// Choudhury and Hahne 1998: no worker must know what the pod holds of the others.)
    pub(super) fn may_begin_stream(&self, workload: u32) -> bool {
        let held = self.streams_of.get(&workload).copied().unwrap_or(0);
        let usable = self.descriptors - self.descriptors / DESCRIPTORS_KEPT;
        let free = usable.saturating_sub(self.shared.streams.load(Ordering::Relaxed));
        held < free.saturating_mul(POD_APPETITE)
    }

    pub(super) fn stream_came(&mut self, workload: u32) {
        self.shared.streams.fetch_add(1, Ordering::Relaxed);
        self.stream_is_here(workload);
    }

    pub(super) fn stream_is_here(&mut self, workload: u32) {
        *self.streams_of.entry(workload).or_default() += 1;
    }

    pub(super) fn stream_left(&mut self, workload: u32) {
        self.shared.streams.fetch_sub(1, Ordering::Relaxed);
        self.stream_is_elsewhere(workload);
    }

    pub(super) fn stream_is_elsewhere(&mut self, workload: u32) {
        if let Some(count) = self.streams_of.get_mut(&workload) {
            *count -= 1;
            if *count == 0 {
                self.streams_of.remove(&workload);
            }
        }
    }
}
