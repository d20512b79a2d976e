// SPDX-License-Identifier: Apache-2.0
//! The sockets of tunnels: connect, handshake, records in, records out.

use super::load::TURN_COSTS;
use super::outbox::Outbox;
use super::tunnel::{Open, State, Tunnel};
use super::{Worker, is_hang_up};
use crate::config::{MAX_UNSENT_CONTROL, RECORDS_PER_READ, ROUNDS_PER_WAKE, UNSENT_HIGH};
use crate::model::Direction;
use crate::slab::Handle;
use hbone_proto::{Config as H2Config, Connection, Millis, Reason, Role};
use hbone_sys::poll::EventFlags;
use hbone_sys::{Errno, socket};
use hbone_tls::{HEADER_LEN, Handshake, Opened, RecordError};
use std::ops::Range;
use std::sync::Arc;

/// Why a tunnel must be closed, and what to tell the person on call.
pub(super) type Lost = (Reason, String);

impl Worker {
    pub(super) fn tunnel_event(&mut self, handle: Handle, flags: EventFlags) {
        let Some(tunnel) = self.tunnels.get_mut(handle) else {
            return;
        };
        tunnel.hung_up |= is_hang_up(flags);
        tunnel.readable |= tunnel.hung_up || flags.contains(EventFlags::IN);
        tunnel.writable |= flags.contains(EventFlags::OUT);
        self.tunnel_turn(handle);
    }

    /// Does what readiness allows, within a budget; also the turn that was put off.
    pub(super) fn tunnel_turn(&mut self, handle: Handle) {
        let Some(tunnel) = self.tunnels.get(handle) else {
            return;
        };
        if matches!(tunnel.state, State::Connecting(..))
            && (tunnel.writable || tunnel.hung_up)
            && let Err(lost) = self.tcp_connected(handle)
        {
            return self.close_tunnel(handle, lost);
        }
        self.mark_dirty(handle);
        for _ in 0..ROUNDS_PER_WAKE {
            if !self
                .tunnels
                .get(handle)
                .is_some_and(|tunnel| tunnel.readable)
            {
                return;
            }
            let mut buffer = std::mem::take(&mut self.receive);
            let outcome = self.read_tunnel(handle, &mut buffer);
            self.receive = buffer;
            if let Err(lost) = outcome {
                return self.close_tunnel(handle, lost);
            }
        }
        self.turn_again(handle);
    }

    fn tcp_connected(&mut self, handle: Handle) -> Result<(), Lost> {
        let tunnel = &mut self.tunnels[handle];
        socket::take_error(&tunnel.fd).map_err(|error| match error {
            Errno::TIMEDOUT => (Reason::UpstreamConnectTimeout, error.to_string()),
            _ => (Reason::UpstreamConnectFailed, error.to_string()),
        })?;
        tunnel.local = socket::local_address(&tunnel.fd).unwrap_or(tunnel.local);
        let State::Connecting(svid, expected) = std::mem::replace(&mut tunnel.state, State::Closed)
        else {
            return Ok(());
        };
        let failed = |error: hbone_tls::HandshakeError| (tls_reason(&error), error.to_string());
        let mut handshake = Handshake::client(&svid, &expected).map_err(failed)?;
        let mut hello = Vec::new();
        handshake.step(&mut [], &mut hello).map_err(failed)?;
        tunnel.outbox.put_raw(&mut self.buffers, &hello);
        tunnel.state = State::Handshaking(Box::new(handshake));
        tunnel.deadline = Some(self.now + self.config.connect_timeout);
        Ok(())
    }

    /// One read, everything that came with it, and its delivery to the applications.
    fn read_tunnel(&mut self, handle: Handle, buffer: &mut [u8]) -> Result<(), Lost> {
        let kept = self.beginning(handle, buffer);
        let tunnel = &mut self.tunnels[handle];
        let room = &mut buffer[kept.end..];
        let asked = room.len();
        let count = match socket::receive(&tunnel.fd, room) {
            Ok(count) if count > 0 => count,
            Err(Errno::AGAIN) if tunnel.broken.is_none() => {
                tunnel.readable = false;
                self.leave(handle, kept);
                return Ok(());
            }
            outcome => return Err(tunnel_ended(tunnel, outcome.err())),
        };
        if count < asked && !tunnel.hung_up {
            tunnel.readable = false;
        }
        tunnel.work += count as u64 + TURN_COSTS;
        let end = kept.end + count;
        let outcome = self.take_in(handle, &mut buffer[..end]);
        self.deliver(buffer);
        let used = outcome?;
        self.leave(handle, used..end);
        Ok(())
    }

    /// Brings what has come of a record to the front of the buffer, where the rest follows it. It
    /// lies in the buffer still unless another tunnel was read meanwhile.
    fn beginning(&mut self, handle: Handle, buffer: &mut [u8]) -> Range<usize> {
        match self.left.take() {
            Some((owner, left)) if owner == handle => {
                buffer.copy_within(left.clone(), 0);
                return 0..left.len();
            }
            Some((owner, left)) => {
                if let Some(tunnel) = self.tunnels.get_mut(owner) {
                    tunnel.tail.extend_from_slice(&buffer[left]);
                }
            }
            None => {}
        }
        // An idle tunnel holds no memory for what may come.
        let tail = std::mem::take(&mut self.tunnels[handle].tail);
        buffer[..tail.len()].copy_from_slice(&tail);
        0..tail.len()
    }

    /// What lies in the buffer of a record goes with its tunnel, which may go to another worker.
    pub(super) fn keep_beginning(&mut self) {
        if let Some((owner, left)) = self.left.take()
            && let Some(tunnel) = self.tunnels.get_mut(owner)
        {
            tunnel.tail.extend_from_slice(&self.receive[left]);
        }
    }

    /// The start of a record stays in the buffer for now.
    fn leave(&mut self, handle: Handle, left: Range<usize>) {
        if !left.is_empty() {
            self.left = Some((handle, left));
        }
    }

    /// Takes as much as is whole; returns how much.
    fn take_in(&mut self, handle: Handle, bytes: &mut [u8]) -> Result<usize, Lost> {
        let mut used = 0;
        if let State::Handshaking(_) = self.tunnels[handle].state {
            used = self.shake_hands(handle, bytes)?;
        }
        while let Some(header) = bytes[used..].first_chunk::<HEADER_LEN>().copied() {
            let Some(Tunnel {
                state: State::Open(open),
                ..
            }) = self.tunnels.get_mut(handle)
            else {
                break;
            };
            let length = open.session.body_len(header).map_err(record_lost)?;
            let start = used + HEADER_LEN;
            let Some(body) = bytes.get_mut(start..start + length) else {
                break;
            };
            used = start + length;
            match open.session.open(header, body) {
                Ok(Opened::Data(count)) => {
                    let now = Millis((self.now - self.started).as_millis() as u64);
                    open.heard = true;
                    let outcome = open.h2.recv(now, &body[..count], &mut self.arrivals);
                    self.take_arrivals(handle, start);
                    outcome.map_err(|error| (Reason::from(&error), error.to_string()))?;
                }
                Ok(Opened::Control) => {}
                Ok(Opened::Close) => {
                    let in_order = open.h2.streams() == 0;
                    let reason = if in_order {
                        Reason::None
                    } else {
                        Reason::TunnelLost
                    };
                    return Err((reason, "the peer ended the TLS session".into()));
                }
                Err(error) if !open.heard && error.is_refusal_of_our_certificate() => {
                    // TLS 1.3 ends the handshake for a client before the server has judged it.
                    return Err((Reason::TlsHandshakeFailed, error.to_string()));
                }
                Err(error) => return Err(record_lost(error)),
            }
        }
        Ok(used)
    }

    fn shake_hands(&mut self, handle: Handle, bytes: &mut [u8]) -> Result<usize, Lost> {
        let tunnel = &mut self.tunnels[handle];
        let State::Handshaking(handshake) = &mut tunnel.state else {
            return Ok(0);
        };
        let mut out = Vec::new();
        let step = handshake.step(bytes, &mut out);
        if !out.is_empty() {
            // On an error these bytes are the alert; closing flushes them.
            tunnel.outbox.put_raw(&mut self.buffers, &out);
        }
        let failed = |error: hbone_tls::HandshakeError| (tls_reason(&error), error.to_string());
        let step = step.map_err(failed)?;
        if step.done {
            let State::Handshaking(handshake) = std::mem::replace(&mut tunnel.state, State::Closed)
            else {
                return Ok(step.consumed);
            };
            let mut session = handshake.finish().map_err(failed)?;
            session.set_records_per_key(self.config.records_per_key);
            let (role, mut config) = match tunnel.direction {
                Direction::Outbound => (Role::Client, H2Config::client()),
                Direction::Inbound => (Role::Server, H2Config::server()),
            };
            // A read may fill several records, each with a frame that fits; see Outbox::fill.
            config.max_send *= RECORDS_PER_READ;
            let peer_identity: Arc<str> = session.peer().as_str().into();
            let now = Millis((self.now - self.started).as_millis() as u64);
            let h2 = Connection::new(role, config, now);
            tunnel.state = State::Open(Box::new(Open {
                session,
                h2,
                peer_identity,
                heard: false,
            }));
            tunnel.deadline = None;
            self.tunnel_opened(handle);
        }
        Ok(step.consumed)
    }

    pub(super) fn flush_dirty(&mut self) {
        while let Some(handle) = self.dirty.pop() {
            if let Err(lost) = self.flush_tunnel(handle) {
                self.close_tunnel(handle, lost);
            }
        }
    }

    /// Gives streams that were put off their turn, then sends once.
    fn flush_tunnel(&mut self, handle: Handle) -> Result<(), Lost> {
        let Some(tunnel) = self.tunnels.get(handle) else {
            return Ok(());
        };
        if tunnel.outbox.unsent() > UNSENT_HIGH {
            self.send_out(handle)?;
        }
        self.serve_put_off(handle);
        let Some(tunnel) = self.tunnels.get_mut(handle) else {
            return Ok(());
        };
        tunnel.dirty = false;
        self.send_out(handle)?;
        let tunnel = &self.tunnels[handle];
        let has_room = tunnel.writable && tunnel.outbox.unsent() <= UNSENT_HIGH;
        if tunnel.put_off && has_room && !self.must_wait(tunnel) {
            self.turn_again(handle);
        }
        if tunnel_is_finished(&self.tunnels[handle]) {
            return Err((Reason::None, String::new()));
        }
        Ok(())
    }

    fn serve_put_off(&mut self, handle: Handle) {
        let Some(tunnel) = self.tunnels.get_mut(handle) else {
            return;
        };
        let Some(open) = tunnel.open_mut() else {
            return;
        };
        let turns = open.h2.streams();
        tunnel.put_off = false;
        for _ in 0..turns {
            let Some(tunnel) = self.tunnels.get(handle) else {
                return;
            };
            let full = tunnel.outbox.unsent() > UNSENT_HIGH || self.must_wait(tunnel);
            let tunnel = &mut self.tunnels[handle];
            if full {
                tunnel.put_off = true;
                return;
            }
            let Some((_, user)) = tunnel.open_mut().and_then(|open| open.h2.pop_writable()) else {
                return;
            };
            self.pump_token(user);
        }
    }

    /// Control frames, then what is sealed, to the socket.
    pub(super) fn send_out(&mut self, handle: Handle) -> Result<(), Lost> {
        let tunnel = &mut self.tunnels[handle];
        if let State::Open(open) = &mut tunnel.state {
            // To a peer that reads nothing we owe no endless answers. Its own frames are read on,
            // though: two agents that both waited for the other to read would wait for ever.
            if tunnel.writable {
                put_control(&mut tunnel.outbox, &mut self.buffers, open).map_err(record_lost)?;
            } else if open.h2.control().len() > MAX_UNSENT_CONTROL {
                return Err((
                    Reason::H2ProtocolError,
                    "the peer makes us answer and does not read the answers".into(),
                ));
            }
            tunnel.outbox.seal(&mut open.session).map_err(record_lost)?;
            while tunnel.writable
                && let Some(record) = open.session.pending_out()
            {
                tunnel.outbox.put_raw(&mut self.buffers, &record);
            }
        }
        if tunnel.writable && !matches!(tunnel.state, State::Connecting(..)) {
            match tunnel.outbox.send(&mut self.buffers, &tunnel.fd) {
                Ok((sent, writable)) => {
                    tunnel.writable = writable;
                    tunnel.work += sent as u64 + TURN_COSTS;
                    self.note_progress(handle, sent > 0);
                }
                Err(error) => self.sending_failed(handle, error),
            }
        }
        Ok(())
    }

    /// The socket is dead, but what the peer said before may still be in it: an alert, a GOAWAY.
    fn sending_failed(&mut self, handle: Handle, error: Errno) {
        let tunnel = &mut self.tunnels[handle];
        tunnel.writable = false;
        tunnel.hung_up = true;
        tunnel.readable = true;
        tunnel.broken = Some(error.to_string());
        self.turn_again(handle);
    }
}

/// HEADERS of a stream must precede its DATA: call this before each DATA frame.
pub(super) fn put_control(
    outbox: &mut Outbox,
    buffers: &mut super::BufferPool,
    open: &mut Open,
) -> Result<(), RecordError> {
    loop {
        let control = open.h2.control();
        if control.is_empty() {
            return Ok(());
        }
        let count = control.len();
        outbox.put(buffers, &mut open.session, control)?;
        open.h2.control_taken(count);
    }
}

pub(super) fn record_lost(error: RecordError) -> Lost {
    (
        numbered(error.reason(), Reason::TunnelLost),
        error.to_string(),
    )
}

/// What the socket's end means, in words for the person on call.
fn tunnel_ended(tunnel: &Tunnel, error: Option<Errno>) -> Lost {
    let shaking = matches!(tunnel.state, State::Handshaking(_));
    let detail = match (&tunnel.broken, error) {
        (Some(broken), _) => broken.clone(),
        (None, Some(error)) => error.to_string(),
        (None, None) if shaking => {
            "the peer closed the connection in the middle of the TLS handshake".into()
        }
        (None, None) => "the peer closed the connection".into(),
    };
    (Reason::TunnelLost, detail)
}

fn tunnel_is_finished(tunnel: &Tunnel) -> bool {
    tunnel.outbox.is_empty() && tunnel.open_ref().is_some_and(|open| open.h2.is_finished())
}

fn tls_reason(error: &hbone_tls::HandshakeError) -> Reason {
    numbered(error.reason(), Reason::TlsHandshakeFailed)
}

fn numbered(number: u16, or: Reason) -> Reason {
    Reason::from_number(u32::from(number)).unwrap_or(or)
}
