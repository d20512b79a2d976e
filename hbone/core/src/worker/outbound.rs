// SPDX-License-Identifier: Apache-2.0
//! From a captured connection to a stream: upstream, pool, dial, CONNECT.

use super::Worker;
use super::inbound::LIMITS;
use super::stream::{About, Phase, Stream};
use super::token::Token;
use super::tunnel::{Remote, State, Tunnel};
use crate::balance::{Claim, Hold};
use crate::config::KEEPALIVE;
use crate::event::{Event, EventKind};
use crate::message::Captured;
use crate::model::{Direction, Workload};
use crate::slab::Handle;
use hbone_proto::{
    Acquire, Authority, ConnectRequest, Forwarded, Next, OpenError, PoolKey, Reason, TraceParent,
};
use hbone_sys::socket;
use hbone_tls::ExpectedPeers;
use std::net::SocketAddr;
use std::sync::Arc;

impl Worker {
    pub(super) fn begin_outbound(&mut self, captured: Captured) {
        let Captured {
            fd,
            workload_id,
            source,
            record,
            accepted,
            claim,
            ..
        } = captured;
        let Some(workload) = self.workloads.get(&workload_id).cloned() else {
            // Removed while the connection was on its way from another worker.
            return socket::set_abort_on_close(&fd);
        };
        let upstream = record.upstream();
        if !self.may_begin_stream(workload_id) {
            let limit = Reason::ResourceLimit;
            return self.refuse_capture(&workload, &fd, source, upstream, limit);
        }
        self.stream_came(workload_id);
        let about = About {
            direction: Direction::Outbound,
            workload,
            peer_workload: record.upstream_workload,
            service: record.service_id,
            source,
            destination: upstream,
            original: Some(record.original()),
            hbone: Some(SocketAddr::new(upstream.ip(), self.config.hbone_port)),
            peer_identity: None,
            trace_id: u128::from(self.random.next()) << 64 | u128::from(self.random.next()),
        };
        let mut stream = Stream::new(fd, Phase::Waiting, about, accepted);
        stream.claim = Some(claim);
        let handle = self.streams.insert(stream);
        let stream = &self.streams[handle];
        if self
            .epoll
            .add_socket(&stream.fd, Token::Stream(handle).encode())
            .is_err()
        {
            return self.end_stream(handle, Reason::ResourceLimit);
        }
        self.acquire(handle);
    }

    /// Finds a tunnel for a waiting stream, or has one dialled.
    pub(super) fn acquire(&mut self, handle: Handle) {
        let about = &self.streams[handle].about;
        let (key, expected) = match self.pool_key(about) {
            Ok(found) => found,
            Err(reason) => return self.end_stream(handle, reason),
        };
        match self.pool.acquire(&key, handle) {
            Acquire::Use(tunnel, waiter) => {
                self.stats.tunnels_reused += 1;
                self.open_on(tunnel, waiter);
            }
            Acquire::Dial => match self.streams[handle].claim.clone() {
                Some(claim) => {
                    // What has made room goes first: its descriptor may be the one that is needed.
                    self.release_idle();
                    self.dial_tunnel(key, expected, claim);
                }
                None => self.dial_failed(&key, Reason::UpstreamUnknown, "nobody's key"),
            },
            Acquire::Wait => {}
            Acquire::Full(waiter) => self.end_stream(waiter, Reason::ResourceLimit),
        }
    }

    fn pool_key(&self, about: &About) -> Result<(PoolKey, ExpectedPeers), Reason> {
        if self.is_draining {
            return Err(Reason::Draining);
        }
        let known = self
            .peers
            .get(&about.peer_workload)
            .ok_or(Reason::UpstreamUnknown)?;
        let upstream = about.destination.ip();
        if !known.peer.addresses.contains(&upstream) {
            return Err(Reason::UpstreamUnknown);
        }
        let source_ip = about
            .workload
            .address_like(upstream)
            .ok_or(Reason::NoCaptureAddress)?;
        let key = PoolKey {
            source_workload: about.workload.id,
            source_ip,
            destination: about.hbone.unwrap_or(about.destination),
            identities: known.identities,
        };
        Ok((key, known.peer.expected.clone()))
    }

    fn dial_tunnel(&mut self, key: PoolKey, expected: ExpectedPeers, claim: Claim) {
        if let Err((reason, detail)) = self.try_dial(&key, expected, claim) {
            self.dial_failed(&key, reason, &detail);
        }
    }

    fn try_dial(
        &mut self,
        key: &PoolKey,
        expected: ExpectedPeers,
        claim: Claim,
    ) -> Result<(), (Reason, String)> {
        let workload = self.workloads.get(&key.source_workload).cloned();
        let workload = workload.ok_or((Reason::WorkloadRemoved, String::new()))?;
        let svid = self.svids.get(&workload.identity).cloned();
        let svid = svid.ok_or((Reason::NoSvid, String::new()))?;
        let failed = |error: std::io::Error| match error.raw_os_error() {
            Some(code) if LIMITS.contains(&code) => (Reason::ResourceLimit, error.to_string()),
            _ => (Reason::UpstreamConnectFailed, error.to_string()),
        };
        let fd = self.socket_in(&workload, key.destination).map_err(failed)?;
        socket::bind_address(&fd, key.source_ip).map_err(failed)?;
        socket::set_nodelay(&fd).map_err(failed)?;
        socket::set_keepalive(&fd, KEEPALIVE).map_err(failed)?;
        self.apply_congestion_control(&fd);
        socket::start_connect(&fd, key.destination).map_err(failed)?;
        let peer_workload = self
            .peer_by_address
            .get(&key.destination.ip())
            .copied()
            .unwrap_or(0);
        let remote = Remote {
            workload: peer_workload,
            local: SocketAddr::new(key.source_ip, 0),
            remote: key.destination,
        };
        let state = State::Connecting(svid, expected);
        let mut tunnel = Tunnel::new(
            (fd, Hold::Outbound(claim)),
            workload,
            remote,
            state,
            self.now,
        );
        tunnel.key = Some(*key);
        tunnel.deadline = Some(self.now + self.config.connect_timeout);
        let handle = self.tunnels.insert(tunnel);
        let token = Token::Tunnel(handle).encode();
        if let Err(error) = self.epoll.add_socket(&self.tunnels[handle].fd, token) {
            self.tunnels.remove(handle);
            return Err(failed(error));
        }
        Ok(())
    }

    /// Everybody who waited for this tunnel hears why there is none.
    pub(super) fn dial_failed(&mut self, key: &PoolKey, reason: Reason, detail: &str) {
        let mut event = Event::new(EventKind::HandshakeFailed);
        event.direction = Some(Direction::Outbound);
        event.workload_id = key.source_workload;
        event.hbone_address = Some(key.destination);
        event.reason = reason.number();
        event.detail = detail.to_owned();
        self.events.push(event);
        self.count_handshake_failed(reason);
        for waiter in self.pool.dial_failed(key) {
            self.end_stream(waiter, reason);
        }
    }

    /// The handshake is done: the tunnel takes those who wait for it.
    pub(super) fn tunnel_connected(&mut self, handle: Handle) {
        let tunnel = &self.tunnels[handle];
        let (Some(key), Hold::Outbound(claim)) = (tunnel.key, &tunnel.hold) else {
            return;
        };
        let claim = claim.clone();
        let streams = tunnel.open_ref().map_or(0, |open| open.h2.max_streams());
        let mut ready = Vec::new();
        let id = Token::Tunnel(handle).encode();
        let next = self
            .pool
            .connected(self.millis(), &key, id, streams, &mut ready);
        for waiter in ready {
            self.open_on(id, waiter);
        }
        match next {
            Next::Done => return,
            Next::DialAgain => self.release_idle(),
            Next::Refused(waiters) => {
                for waiter in waiters {
                    self.end_stream(waiter, Reason::ResourceLimit);
                }
                return;
            }
        }
        match self.expected_by(&key) {
            Some(expected) => self.dial_tunnel(key, expected, claim),
            None => {
                let detail = "the peer was removed or changed while it was dialled";
                self.dial_failed(&key, Reason::UpstreamUnknown, detail);
            }
        }
    }

    /// Not those of whoever is at the address now: the streams that wait want the old ones.
    fn expected_by(&self, key: &PoolKey) -> Option<ExpectedPeers> {
        let mut known = self.peers.values();
        known
            .find(|known| known.identities == key.identities)
            .map(|known| known.peer.expected.clone())
    }

    /// Sends CONNECT for a waiting stream. Where this tunnel cannot take it, another is found; a
    /// waiter that is gone leaves its slot to the next.
    pub(super) fn open_on(&mut self, tunnel_id: u64, waiter: Handle) {
        let mut next = Some(waiter);
        while let Some(waiter) = next.take() {
            match self.try_open(tunnel_id, waiter) {
                Ok(()) => {}
                Err(None) => next = self.pool.stream_ended(self.millis(), tunnel_id),
                Err(Some(OpenError::TooLarge)) => {
                    next = self.pool.stream_ended(self.millis(), tunnel_id);
                    self.end_stream(waiter, Reason::ConnectBadRequest);
                }
                Err(Some(_)) => {
                    // It takes no more; those who wait for it are better served elsewhere.
                    self.retire(tunnel_id);
                    next = self.pool.stream_ended(self.millis(), tunnel_id);
                    self.acquire(waiter);
                }
            }
        }
    }

    /// `Err(None)`: the waiter is gone.
    fn try_open(&mut self, tunnel_id: u64, waiter: Handle) -> Result<(), Option<OpenError>> {
        let Token::Tunnel(handle) = Token::decode(tunnel_id) else {
            return Err(None);
        };
        let Some(stream) = self.streams.get_mut(waiter) else {
            return Err(None);
        };
        let Some(tunnel) = self.tunnels.get_mut(handle) else {
            return Err(Some(OpenError::Closing));
        };
        let State::Open(open) = &mut tunnel.state else {
            return Err(Some(OpenError::Closing));
        };
        let about = &mut stream.about;
        let request = tunnel
            .request
            .get_or_insert_with(|| template(&about.workload));
        request.authority = Authority::Address(about.destination);
        request.forwarded.source = Some(about.source);
        let service = self.services.get(&about.service);
        if request.forwarded.host.as_ref() != service {
            request.forwarded.host = service.cloned();
        }
        request.traceparent = Some(TraceParent {
            trace_id: about.trace_id,
            parent_id: self.random.next(),
            flags: 0,
        });
        let key = open
            .h2
            .open(request, Token::Stream(waiter).encode())
            .map_err(Some)?;
        about.peer_identity = Some(open.peer_identity.clone());
        stream.carrier = Some((handle, key));
        stream.phase = Phase::Requested;
        // The far agent dials its application within one timeout of its own; two, with the way.
        stream.deadline = Some(self.now + self.config.connect_timeout * 2);
        self.mark_dirty(handle);
        Ok(())
    }
}

fn template(workload: &Arc<Workload>) -> Box<ConnectRequest> {
    Box::new(ConnectRequest {
        authority: Authority::Address(SocketAddr::from(([0, 0, 0, 0], 0))),
        baggage: (!workload.baggage.is_empty()).then(|| Box::from(&*workload.baggage)),
        forwarded: Forwarded::default(),
        traceparent: None,
    })
}
