// SPDX-License-Identifier: Apache-2.0
//! What the owner of the core and the other workers ask for.

use super::{KnownPeer, Worker};
use crate::config::LONGEST;
use crate::ids::IdMap;
use crate::message::Message;
use crate::model::{Peer, Workload};
use crate::slab::Handle;
use hbone_proto::{PoolKey, Reason};
use std::sync::Arc;
use std::time::Duration;

/// How long the streams of a pod that was replaced in place may finish.
pub(super) const RESTART_DRAIN: Duration = Duration::from_secs(5);

impl Worker {
    /// Silences the bell first: what comes later rings again.
    pub(super) fn read_inbox(&mut self) {
        self.mates[self.index].bell.reset();
        while let Ok(message) = self.inbox.try_recv() {
            self.obey(message);
        }
    }

    fn obey(&mut self, message: Message) {
        match message {
            Message::Captured(captured) => self.received(*captured),
            Message::Accepted(accepted) => self.begin_inbound(*accepted),
            Message::Moved(moved) => self.adopt(*moved),
            Message::PutSvid(identity, svid) => {
                self.svids.insert(identity, svid);
            }
            Message::RemoveSvid(identity) => {
                self.svids.remove(&identity);
            }
            Message::PutWorkload(workload) => {
                self.stop_listening(|listener| listener.workload.id == workload.id);
                let old = self.workloads.insert(workload.id, workload.clone());
                if old.is_some_and(|old| !is_same_pod(&old, &workload)) {
                    // Its tunnels are of another namespace or identity: none may carry new streams.
                    self.drain_tunnels(RESTART_DRAIN, |id| id == workload.id);
                }
            }
            Message::Listen(id, listeners) => {
                if let Some(workload) = self.workloads.get(&id).cloned() {
                    for (kind, fd) in listeners {
                        self.listen(&workload, kind, fd);
                    }
                }
            }
            Message::RemoveWorkload(id, drain) => self.remove_workload(id, drain),
            Message::PutPeers(peers) => peers.iter().for_each(|peer| self.put_peer(peer)),
            Message::RemovePeers(ids) => ids.iter().for_each(|&id| self.remove_peer(id)),
            Message::PutServices(services) => {
                services
                    .iter()
                    .for_each(|(id, name)| self.put_service(*id, name));
            }
            Message::Counters(reply) => drop(reply.send(self.snapshot_counters())),
            Message::ForgetCounters(ids) => self.counters.retain(|key, _| {
                !ids.contains(&key.workload_id) && !ids.contains(&key.peer_workload_id)
            }),
            Message::Connections(reply) => drop(reply.send(self.snapshot_connections())),
            Message::Tunnels(reply) => drop(reply.send(self.snapshot_tunnels())),
            Message::Stats(reply) => drop(reply.send(self.snapshot_stats())),
            Message::Drain(deadline, reply) => {
                // Listeners stay: who comes now is refused at once, and does not wait in a backlog
                // until the process ends.
                self.is_draining = true;
                let deadline = deadline.min(LONGEST);
                self.draining = Some((self.now + deadline, reply));
                self.drain_tunnels(deadline, |_| true);
                self.end_waiting(|_| true, Reason::Draining);
                self.next_tick = self.now;
            }
            Message::JudgeAgain => self.judge_again(),
            Message::Shuffle => {
                // At the end of this wake: now a tunnel may be in the middle of something.
                self.meter.shuffles = true;
                self.next_tick = self.now;
            }
            Message::Deafen(reply) => {
                self.stop_listening(|_| true);
                let _ = reply.send(());
            }
            Message::Stop => self.stopping = true,
        }
    }

    /// Under an empty name it is forgotten.
    fn put_service(&mut self, id: u32, name: &str) {
        if let Some(old) = self.services.remove(&id)
            && self.service_ids.get(&old) == Some(&id)
        {
            self.service_ids.remove(&old);
        }
        if !name.is_empty() {
            self.services.insert(id, name.into());
            self.service_ids.insert(name.into(), id);
        }
    }

    fn put_peer(&mut self, peer: &Arc<Peer>) {
        let known = self.peers.get(&peer.id);
        if known.is_some_and(|known| known.peer == *peer) {
            return;
        }
        let mut identities = self.next_identities + 1;
        if let Some(known) = known {
            if known.peer.expected == peer.expected {
                identities = known.identities;
            }
            for address in known.peer.addresses.clone() {
                self.forget_address(address, peer.id);
            }
            let (old, gone) = (known_identities(&self.peers, peer.id), identities);
            if old != Some(gone) {
                // Whoever may answer there has changed: no new stream on tunnels to the old ones.
                self.retire_tunnels(|key| Some(key.identities) == old);
            }
        }
        self.next_identities = self.next_identities.max(identities);
        // An address that it has no more may be somebody else's at once.
        self.retire_tunnels(|key| {
            key.identities == identities && !peer.addresses.contains(&key.destination.ip())
        });
        for &address in &peer.addresses {
            self.peer_by_address.insert(address, peer.id);
        }
        self.peers.insert(
            peer.id,
            KnownPeer {
                peer: peer.clone(),
                identities,
            },
        );
    }

    fn remove_peer(&mut self, id: u32) {
        let Some(known) = self.peers.remove(&id) else {
            return;
        };
        for &address in &known.peer.addresses {
            self.forget_address(address, id);
        }
        for handle in self.tunnels_matching(|key| key.identities == known.identities) {
            let reason = match self.tunnels[handle].open_ref() {
                Some(_) => Reason::TunnelLost,
                None => Reason::UpstreamUnknown,
            };
            self.close_tunnel(handle, (reason, "the peer was removed".into()));
        }
    }

    fn forget_address(&mut self, address: std::net::IpAddr, id: u32) {
        if self.peer_by_address.get(&address) == Some(&id) {
            self.peer_by_address.remove(&address);
        }
    }

    fn remove_workload(&mut self, id: u32, drain: Duration) {
        self.stop_listening(|listener| listener.workload.id == id);
        if self.workloads.remove(&id).is_none() {
            return;
        }
        self.end_waiting(|workload| workload == id, Reason::WorkloadRemoved);
        self.drain_tunnels(drain, |workload| workload == id);
    }

    /// GOAWAY now; what is still open at the deadline is closed then.
    fn drain_tunnels(&mut self, deadline: Duration, of: impl Fn(u32) -> bool) {
        for handle in self.tunnels.handles() {
            let tunnel = &mut self.tunnels[handle];
            if !of(tunnel.workload.id) {
                continue;
            }
            let is_open = tunnel.open_ref().is_some();
            if !is_open || deadline.is_zero() {
                self.close_tunnel(handle, (Reason::Draining, "draining".into()));
                continue;
            }
            tunnel.deadline = Some(self.now + deadline.min(LONGEST));
            self.begin_drain(handle);
        }
    }

    /// No new streams; the tunnel closes after its last one.
    pub(super) fn begin_drain(&mut self, handle: Handle) {
        let now = self.millis();
        self.pool.retire(super::Token::Tunnel(handle).encode());
        if let Some(open) = self.tunnels[handle].open_mut() {
            open.h2.drain(now);
        }
        self.mark_dirty(handle);
    }

    /// As [`Self::begin_drain`], by the pool's name of the tunnel.
    pub(super) fn retire(&mut self, tunnel_id: u64) {
        self.pool.retire(tunnel_id);
        if let super::Token::Tunnel(handle) = super::Token::decode(tunnel_id)
            && self.tunnels.get(handle).is_some()
        {
            self.begin_drain(handle);
        }
    }

    fn end_waiting(&mut self, of: impl Fn(u32) -> bool, reason: Reason) {
        for handle in self.streams.handles() {
            let stream = &self.streams[handle];
            if stream.carrier.is_none() && of(stream.about.workload.id) {
                self.end_stream(handle, reason);
            }
        }
    }

    fn retire_tunnels(&mut self, of: impl Fn(&PoolKey) -> bool) {
        for handle in self.tunnels_matching(of) {
            self.begin_drain(handle);
        }
    }

    fn tunnels_matching(&self, of: impl Fn(&PoolKey) -> bool) -> Vec<Handle> {
        let ours = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| tunnel.key.as_ref().is_some_and(&of));
        ours.map(|(handle, _)| handle).collect()
    }

    pub(super) fn service_named(&self, host: Option<&str>) -> u32 {
        host.and_then(|host| self.service_ids.get(host))
            .copied()
            .unwrap_or(0)
    }
}

pub(super) fn is_same_pod(one: &Workload, other: &Workload) -> bool {
    one.netns_cookie == other.netns_cookie && one.identity == other.identity
}

fn known_identities(peers: &IdMap<u32, KnownPeer>, id: u32) -> Option<u32> {
    peers.get(&id).map(|known| known.identities)
}
