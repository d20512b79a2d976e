// SPDX-License-Identifier: Apache-2.0
//! An open tunnel goes to another worker, with its streams and sockets.
//!
//! It goes between two wakes: nothing of it is being read, delivered or sealed then, and the message
//! owns it all, so at every moment one worker has it. Registering the sockets with another epoll
//! tells their readiness afresh, so no edge is lost on the way. What the workers were told meanwhile
//! may differ for a moment: the one that takes over looks at everything again.

use super::Worker;
use super::commands::RESTART_DRAIN;
use super::stream::Stream;
use super::token::Token;
use super::tunnel::Tunnel;
use crate::message::Message;
use crate::model::{Direction, Peer};
use crate::slab::Handle;
use hbone_proto::pool::Pooled;
use hbone_proto::{PoolKey, Reason, StreamKey};
use hbone_sys::poll::EventFlags;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Everything that belongs to a tunnel.
pub(crate) struct Moved {
    tunnel: Tunnel,
    streams: Vec<(StreamKey, Stream)>,
    /// Outbound: the peer as it was known, and the pool's view.
    pooled: Option<(Arc<Peer>, Pooled)>,
}

impl Worker {
    pub(super) fn is_pooled_or_inbound(&self, handle: Handle, tunnel: &Tunnel) -> bool {
        tunnel.direction == Direction::Inbound
            || self.pool.is_taking_streams(Token::Tunnel(handle).encode())
                && tunnel.key.is_some_and(|key| self.peer_of(&key).is_some())
    }

    fn peer_of(&self, key: &PoolKey) -> Option<&Arc<Peer>> {
        let mut known = self.peers.values();
        known
            .find(|known| known.identities == key.identities)
            .map(|known| &known.peer)
    }

    pub(super) fn move_out(&mut self, handle: Handle, to: usize) {
        self.keep_beginning();
        let Some(mut tunnel) = self.tunnels.remove(handle) else {
            return;
        };
        let _ = self.epoll.remove(&tunnel.fd);
        self.tunnel_left(&tunnel);
        self.buffers.give_away(&tunnel.outbox);
        tunnel.again = false;
        let pooled = tunnel.key.and_then(|key| {
            let peer = self.peer_of(&key)?.clone();
            Some((peer, self.pool.take(Token::Tunnel(handle).encode())?))
        });
        let streams = self.take_streams_of(handle);
        tunnel.hold.moved(self.index, to);
        self.stats.tunnels_moved += 1;
        self.shared.moving.fetch_add(1, Ordering::AcqRel);
        let moved = Box::new(Moved {
            tunnel,
            streams,
            pooled,
        });
        if let Err(Message::Moved(mut back)) = self.send_to(to, Message::Moved(moved)) {
            back.tunnel.hold.moved(to, self.index);
            self.adopt(*back);
            self.flush_dirty();
        }
    }

    fn take_streams_of(&mut self, tunnel: Handle) -> Vec<(StreamKey, Stream)> {
        let mut taken = Vec::new();
        for handle in self.streams.handles() {
            let Some((carrier, key)) = self.streams[handle].carrier else {
                continue;
            };
            if carrier != tunnel {
                continue;
            }
            self.settle(handle);
            if let Some(stream) = self.streams.remove(handle) {
                let _ = self.epoll.remove(&stream.fd);
                self.pending_bytes -= stream.pending_len();
                self.stream_is_elsewhere(stream.about.workload.id);
                taken.push((key, stream));
            }
        }
        taken
    }

    /// Takes a tunnel over from another worker.
    pub(super) fn adopt(&mut self, moved: Moved) {
        let Moved {
            mut tunnel,
            streams,
            pooled,
        } = moved;
        tunnel.moved = Some(self.now);
        self.tunnel_came(&tunnel);
        self.buffers.adopt(&tunnel.outbox);
        let handle = self.tunnels.insert(tunnel);
        let token = Token::Tunnel(handle).encode();
        let added = self.epoll.add_socket(&self.tunnels[handle].fd, token);
        let streams: Vec<Handle> = streams
            .into_iter()
            .map(|(key, stream)| self.adopt_stream(handle, key, stream))
            .collect();
        let trusted = self.adopt_key(handle, pooled);
        self.shared.moving.fetch_sub(1, Ordering::AcqRel);
        if let Err(error) = added {
            return self.close_tunnel(handle, (Reason::TunnelLost, error.to_string()));
        }
        if !trusted {
            let why = "the peer was removed".into();
            return self.close_tunnel(handle, (Reason::TunnelLost, why));
        }
        self.catch_up(handle);
        for stream in streams {
            self.stream_event(stream, EventFlags::empty());
        }
        self.turn_again(handle);
        // The policy may have changed while it was under way, unseen by both workers.
        self.judge_again();
    }

    fn adopt_stream(&mut self, tunnel: Handle, key: StreamKey, mut stream: Stream) -> Handle {
        stream.carrier = Some((tunnel, key));
        self.pending_bytes += stream.pending_len();
        self.stream_is_here(stream.about.workload.id);
        let handle = self.streams.insert(stream);
        let token = Token::Stream(handle).encode();
        if let Some(open) = self.tunnels[tunnel].open_mut() {
            open.h2.set_user(key, token);
        }
        if self
            .epoll
            .add_socket(&self.streams[handle].fd, token)
            .is_err()
        {
            self.end_stream(handle, Reason::ResourceLimit);
        }
        handle
    }

    /// Gives the tunnel to the pool, under our number for the identities expected of its peer. False
    /// if the peer is gone: then it must close, as those that we had of it have.
    fn adopt_key(&mut self, handle: Handle, pooled: Option<(Arc<Peer>, Pooled)>) -> bool {
        let (Some((peer, pooled)), Some(mut key)) = (pooled, self.tunnels[handle].key) else {
            return true;
        };
        let Some(known) = self.peers.get(&peer.id) else {
            return false;
        };
        let is_same = known.peer.expected == peer.expected
            && known.peer.addresses.contains(&key.destination.ip());
        key.identities = known.identities;
        self.tunnels[handle].key = Some(key);
        let id = Token::Tunnel(handle).encode();
        self.pool.adopt(self.millis(), &key, id, pooled);
        if !is_same {
            self.retire(id);
        }
        true
    }

    /// What we were told and the other worker may not have known yet.
    fn catch_up(&mut self, handle: Handle) {
        let tunnel = &self.tunnels[handle];
        let known = self.workloads.get(&tunnel.workload.id);
        let until = if self.is_draining {
            let draining = self.draining.as_ref();
            draining.map(|(until, _)| *until).or(Some(self.now))
        } else if known.is_none_or(|known| !super::commands::is_same_pod(known, &tunnel.workload)) {
            Some(self.now + RESTART_DRAIN)
        } else {
            None
        };
        if let Some(until) = until {
            self.tunnels[handle].deadline = Some(until);
            self.begin_drain(handle);
        }
    }
}
