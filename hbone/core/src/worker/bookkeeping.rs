// SPDX-License-Identifier: Apache-2.0
//! Ends: of streams, of tunnels; and what is counted and told about them.

use super::Worker;
use super::stream::{About, Phase, Stream};
use super::token::Token;
use super::tunnel::{Open, State, Tunnel};
use super::tunnel_io::Lost;
use crate::config::MAX_SERIES;
use crate::counters::{
    ConnectionInfo, Counter, CounterKey, Counters, Stats, TunnelInfo, WorkerShare,
};
use crate::event::{Event, EventKind};
use crate::model::Direction;
use crate::slab::Handle;
use hbone_proto::{ErrorCode, Reason};
use hbone_sys::socket;
use std::sync::Arc;
use std::time::Instant;

impl Worker {
    /// Closes a connection: in order for `Reason::None`, else with RST to the application and
    /// RST_STREAM to the peer.
    pub(super) fn end_stream(&mut self, handle: Handle, reason: Reason) {
        let Some(stream) = self.streams.remove(handle) else {
            return;
        };
        self.pending_bytes -= stream.pending_len();
        self.stream_left(stream.about.workload.id);
        // After FIN to an application of a peer that is gone, RST would drop what it has not read.
        let has_all = stream.cut_off.is_some() && stream.write_shut;
        if reason != Reason::None && !has_all {
            socket::set_abort_on_close(&stream.fd);
        }
        self.count_ended(&stream, reason);
        // CANCEL would be read as an end in order (ztunnel does); RFC 9113 section 8.5 has
        // CONNECT_ERROR for what breaks behind us.
        let code = if stream.phase == Phase::Open || reason == Reason::AppReset {
            ErrorCode::CONNECT_ERROR
        } else {
            ErrorCode::CANCEL
        };
        let carrier = stream.carrier;
        drop(stream);
        if let Some((tunnel, key)) = carrier {
            self.leave_tunnel(tunnel, key, code);
        }
    }

    /// Closes a tunnel; its applications hear of it at once.
    pub(super) fn close_tunnel(&mut self, handle: Handle, (reason, detail): Lost) {
        self.say_goodbye(handle, reason);
        let Some(mut tunnel) = self.tunnels.remove(handle) else {
            return;
        };
        tunnel.outbox.discard(&mut self.buffers);
        self.tunnel_left(&tunnel);
        let id = Token::Tunnel(handle).encode();
        match std::mem::replace(&mut tunnel.state, State::Closed) {
            State::Open(open) => {
                self.pool.remove(id);
                self.open_tunnel_closed(&tunnel, *open, reason, detail);
            }
            _ if tunnel.direction == Direction::Outbound => {
                let reason = handshake_reason(reason);
                if let Some(key) = tunnel.key {
                    self.dial_failed(&key, reason, &detail);
                }
            }
            _ => {
                self.handshake_ended(tunnel.remote.ip());
                let reason = handshake_reason(reason);
                self.count_handshake_failed(reason);
                let nobody: Arc<str> = "".into();
                self.tell_tunnel(EventKind::HandshakeFailed, &tunnel, &nobody, reason, detail);
            }
        }
    }

    fn open_tunnel_closed(&mut self, tunnel: &Tunnel, mut open: Open, reason: Reason, why: String) {
        if reason == Reason::TlsHandshakeFailed {
            self.count_handshake_failed(reason);
        }
        let closed = &mut self.stats.tunnels_closed;
        *closed.entry(reason.number()).or_default() += 1;
        let reached = match reason {
            Reason::None => Reason::TunnelLost,
            reason => reason,
        };
        for (_, user) in open.h2.take_streams() {
            match Token::decode(user) {
                Token::Stream(stream) if reason == Reason::Draining => {
                    self.end_stream(stream, reached);
                }
                Token::Stream(stream)
                    if reached == Reason::TunnelLost && self.try_elsewhere(stream) => {}
                Token::Stream(stream) => self.cut_off(stream, reached),
                _ => {}
            }
        }
        let identity = &open.peer_identity;
        self.tell_tunnel(EventKind::TunnelClosed, tunnel, identity, reason, why);
    }

    /// GOAWAY, an alert or close_notify, as far as the socket takes it at once.
    fn say_goodbye(&mut self, handle: Handle, reason: Reason) {
        let Some(tunnel) = self.tunnels.get_mut(handle) else {
            return;
        };
        if let State::Open(open) = &mut tunnel.state {
            if reason == Reason::None {
                open.session.close();
            }
            if open.session.has_failed() {
                // Whatever else waits cannot be sealed any more, and must not hold the alert back.
                tunnel.outbox.abandon_record();
                open.h2.control_taken(open.h2.control().len());
            }
        }
        if !tunnel.hung_up {
            let _ = self.send_out(handle);
        }
    }

    pub(super) fn tunnel_opened(&mut self, handle: Handle) {
        self.stats.handshakes += 1;
        self.stats.tunnels_opened += 1;
        let tunnel = &self.tunnels[handle];
        let identity = tunnel
            .open_ref()
            .map_or("".into(), |open| open.peer_identity.clone());
        let direction = tunnel.direction;
        if direction == Direction::Inbound {
            self.handshake_ended(self.tunnels[handle].remote.ip());
            let tunnel = &mut self.tunnels[handle];
            // The address claims a workload; the certificate has to agree before we say so.
            let agrees = self.peers.get(&tunnel.peer_workload).is_some_and(|known| {
                known
                    .peer
                    .expected
                    .ids()
                    .iter()
                    .any(|id| id.as_str() == &*identity)
            });
            if !agrees {
                tunnel.peer_workload = 0;
            }
        }
        let mut event = tunnel_event(EventKind::TunnelOpened, &self.tunnels[handle], &identity);
        event.duration_us = micros(self.tunnels[handle].opened, self.now);
        self.events.push(event);
        if direction == Direction::Outbound {
            self.tunnel_connected(handle);
        }
        self.mark_dirty(handle);
    }

    pub(super) fn count_handshake_failed(&mut self, reason: Reason) {
        let failed = &mut self.stats.handshakes_failed;
        *failed.entry(reason.number()).or_default() += 1;
    }

    fn tell_tunnel(
        &mut self,
        kind: EventKind,
        tunnel: &Tunnel,
        identity: &Arc<str>,
        reason: Reason,
        detail: String,
    ) {
        let mut event = tunnel_event(kind, tunnel, identity);
        event.duration_us = micros(tunnel.opened, self.now);
        event.reason = reason.number();
        event.detail = detail;
        self.events.push(event);
    }

    pub(super) fn count_opened(&mut self, handle: Handle) {
        let key = counter_key(&self.streams[handle].about);
        self.series(key).opened += 1;
    }

    /// Peers name services as they like: beyond the bound a series of its own is not theirs.
    fn series(&mut self, mut key: CounterKey) -> &mut Counter {
        if self.counters.len() >= MAX_SERIES && !self.counters.contains_key(&key) {
            (key.peer_workload_id, key.service_id) = (0, 0);
        }
        self.counters.entry(key).or_default()
    }

    fn count_ended(&mut self, stream: &Stream, reason: Reason) {
        let counter = self.series(counter_key(&stream.about));
        counter.bytes_sent += stream.bytes_sent - stream.settled.0;
        counter.bytes_received += stream.bytes_received - stream.settled.1;
        if stream.phase == Phase::Open {
            counter.closed += 1;
        }
        if reason != Reason::None {
            *counter.failed.entry(reason.number()).or_default() += 1;
        }
        let mut event = connection_event(&stream.about, reason);
        event.bytes_sent = stream.bytes_sent;
        event.bytes_received = stream.bytes_received;
        event.duration_us = micros(stream.began, self.now);
        event.connect_us = stream.connect_us;
        self.events.push(event);
    }

    /// Counts what a connection has carried so far, before it goes to another worker: totals never
    /// fall, whoever is asked first.
    pub(super) fn settle(&mut self, handle: Handle) {
        let stream = &mut self.streams[handle];
        let carried = (stream.bytes_sent, stream.bytes_received);
        let before = std::mem::replace(&mut stream.settled, carried);
        let key = counter_key(&stream.about);
        let counter = self.series(key);
        counter.bytes_sent += carried.0 - before.0;
        counter.bytes_received += carried.1 - before.1;
    }

    /// A CONNECT that never became a connection.
    pub(super) fn count_refused(&mut self, about: &About, reason: Reason) {
        let counter = self.series(counter_key(about));
        *counter.failed.entry(reason.number()).or_default() += 1;
        self.events.push(connection_event(about, reason));
    }

    /// The protocol core answered it before we saw it.
    pub(super) fn request_refused(&mut self, tunnel: Handle, reason: Reason) {
        let tunnel = &self.tunnels[tunnel];
        let about = About {
            direction: Direction::Inbound,
            workload: tunnel.workload.clone(),
            peer_workload: tunnel.peer_workload,
            service: 0,
            source: tunnel.remote,
            destination: tunnel.local,
            original: None,
            hbone: Some(tunnel.local),
            peer_identity: tunnel.open_ref().map(|open| open.peer_identity.clone()),
            trace_id: 0,
        };
        self.count_refused(&about, reason);
    }

    /// Totals, with what open connections have carried so far.
    pub(super) fn snapshot_counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        for (_, stream) in self.streams.iter() {
            let counter: &mut Counter = counters.entry(counter_key(&stream.about)).or_default();
            counter.bytes_sent += stream.bytes_sent - stream.settled.0;
            counter.bytes_received += stream.bytes_received - stream.settled.1;
        }
        counters
    }

    pub(super) fn snapshot_connections(&self) -> Vec<ConnectionInfo> {
        let open = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.phase == Phase::Open);
        open.map(|(_, stream)| ConnectionInfo {
            direction: stream.about.direction,
            workload_id: stream.about.workload.id,
            peer_workload_id: stream.about.peer_workload,
            service_id: stream.about.service,
            source: stream.about.source,
            destination: stream.about.destination,
            original_destination: stream.about.original,
            source_identity: stream.about.source_identity(),
            destination_identity: stream.about.destination_identity(),
            bytes_sent: stream.bytes_sent,
            bytes_received: stream.bytes_received,
            age_us: micros(stream.began, self.now),
            connect_us: stream.connect_us,
        })
        .collect()
    }

    pub(super) fn snapshot_tunnels(&self) -> Vec<TunnelInfo> {
        let open = self
            .tunnels
            .iter()
            .filter_map(|(_, t)| t.open_ref().map(|open| (t, open)));
        open.map(|(tunnel, open)| TunnelInfo {
            direction: tunnel.direction,
            workload_id: tunnel.workload.id,
            local: tunnel.local,
            remote: tunnel.remote,
            peer_identity: open.peer_identity.clone(),
            streams: open.h2.streams(),
            age_us: micros(tunnel.opened, self.now),
            worker: self.index,
        })
        .collect()
    }

    pub(super) fn snapshot_stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.connections = self.streams.len();
        stats.tunnels = self
            .tunnels
            .iter()
            .filter(|(_, t)| t.open_ref().is_some())
            .count();
        (stats.tunnels_evicted, stats.tunnels_refused) = self.pool.evicted_and_refused();
        stats.shares = vec![WorkerShare {
            worker: self.index,
            busy: self.meter.busy(),
            tunnels: stats.tunnels,
            connections: stats.connections,
        }];
        stats.buffers_bytes = self.buffers.bytes() + self.receive.len() + self.pending_bytes;
        stats
    }
}

fn counter_key(about: &About) -> CounterKey {
    CounterKey {
        direction: about.direction,
        workload_id: about.workload.id,
        peer_workload_id: about.peer_workload,
        service_id: about.service,
    }
}

fn connection_event(about: &About, reason: Reason) -> Event {
    Event {
        direction: Some(about.direction),
        workload_id: about.workload.id,
        peer_workload_id: about.peer_workload,
        service_id: about.service,
        source: Some(about.source),
        destination: Some(about.destination),
        original_destination: about.original,
        hbone_address: about.hbone,
        source_identity: about.source_identity(),
        destination_identity: about.destination_identity(),
        reason: reason.number(),
        trace_id: (about.trace_id != 0).then(|| about.trace_id.to_be_bytes()),
        ..Event::new(EventKind::ConnectionClosed)
    }
}

fn tunnel_event(kind: EventKind, tunnel: &Tunnel, identity: &Arc<str>) -> Event {
    let known = (!identity.is_empty()).then(|| identity.clone());
    let mut event = Event::new(kind);
    event.direction = Some(tunnel.direction);
    event.workload_id = tunnel.workload.id;
    event.peer_workload_id = tunnel.peer_workload;
    let own = Some(tunnel.workload.identity.clone());
    match tunnel.direction {
        Direction::Outbound => {
            (event.source, event.destination) = (Some(tunnel.local), Some(tunnel.remote));
            (event.source_identity, event.destination_identity) = (own, known);
            event.hbone_address = Some(tunnel.remote);
        }
        Direction::Inbound => {
            (event.source, event.destination) = (Some(tunnel.remote), Some(tunnel.local));
            (event.source_identity, event.destination_identity) = (known, own);
            event.hbone_address = Some(tunnel.local);
        }
    }
    event
}

/// A connection that breaks before its handshake is done has failed to shake hands.
fn handshake_reason(reason: Reason) -> Reason {
    match reason {
        Reason::None | Reason::TunnelLost => Reason::TlsHandshakeFailed,
        reason => reason,
    }
}

fn micros(since: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(since).as_micros() as u64
}
