// SPDX-License-Identifier: Apache-2.0
//! From a peer's tunnel to the application: handshake, CONNECT, dial in the pod's netns.

use super::Worker;
use super::accept::canonical;
use super::stream::{About, Phase, Stream};
use super::token::Token;
use super::tunnel::{Remote, State, Tunnel};
use crate::balance::Hold;
use crate::event::{Event, EventKind};
use crate::message::Accepted;
use crate::model::{Direction, Workload};
use crate::slab::Handle;
use hbone_proto::{Authority, ConnectRequest, ConnectResponse, Reason, StreamKey};
use hbone_sys::{Errno, socket};
use hbone_tls::Handshake;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

/// Errors that say that we, not the application, are at a limit.
pub(super) const LIMITS: [i32; 4] = [
    Errno::MFILE.raw_os_error(),
    Errno::NFILE.raw_os_error(),
    Errno::NOBUFS.raw_os_error(),
    Errno::NOMEM.raw_os_error(),
];

/// What a dial meets only after it was accepted: the application took it and hung up.
const HUNG_UP: [Errno; 2] = [Errno::CONNRESET, Errno::PIPE];

impl Worker {
    /// A peer has connected to a pod's HBONE port.
    pub(super) fn begin_inbound(&mut self, accepted: Accepted) {
        let Accepted {
            fd,
            workload_id,
            remote,
            local,
            place,
        } = accepted;
        let Some(workload) = self.workloads.get(&workload_id).cloned() else {
            return;
        };
        if self.is_draining {
            socket::set_abort_on_close(&fd);
            return self.handshake_refused(&workload, remote, Reason::Draining);
        }
        if !self.may_begin_handshake(remote.ip()) {
            socket::set_abort_on_close(&fd);
            return self.handshake_refused(&workload, remote, Reason::ResourceLimit);
        }
        let Some(svid) = self.svids.get(&workload.identity) else {
            return self.handshake_refused(&workload, remote, Reason::NoSvid);
        };
        let handshake = match Handshake::server(svid) {
            Ok(handshake) => handshake,
            Err(_) => return self.handshake_refused(&workload, remote, Reason::TlsHandshakeFailed),
        };
        let peer = self.peer_by_address.get(&remote.ip()).copied().unwrap_or(0);
        let to = Remote {
            workload: peer,
            local,
            remote,
        };
        let state = State::Handshaking(Box::new(handshake));
        let mut tunnel = Tunnel::new((fd, Hold::Inbound(place)), workload, to, state, self.now);
        tunnel.deadline = Some(self.now + self.config.connect_timeout);
        tunnel.writable = true;
        let handle = self.tunnels.insert(tunnel);
        let token = Token::Tunnel(handle).encode();
        if self
            .epoll
            .add_socket(&self.tunnels[handle].fd, token)
            .is_err()
        {
            let workload = self.tunnels[handle].workload.clone();
            self.tunnels.remove(handle);
            return self.handshake_refused(&workload, remote, Reason::ResourceLimit);
        }
        self.handshake_began(remote.ip());
    }

    /// A handshake that did not even begin.
    pub(super) fn handshake_refused(
        &mut self,
        workload: &Workload,
        remote: SocketAddr,
        reason: Reason,
    ) {
        self.count_handshake_failed(reason);
        let mut event = Event::new(EventKind::HandshakeFailed);
        event.direction = Some(Direction::Inbound);
        event.workload_id = workload.id;
        event.source = Some(remote);
        event.reason = reason.number();
        self.events.push(event);
    }

    /// A CONNECT has arrived on an inbound tunnel.
    pub(super) fn requested(
        &mut self,
        tunnel: Handle,
        key: StreamKey,
        request: &ConnectRequest,
        end: bool,
    ) {
        let about = self.about_request(tunnel, request);
        let dialled = match self.check_authority(tunnel, &request.authority) {
            Ok(()) if !self.may_begin_stream(about.workload.id) => Err(Reason::ResourceLimit),
            Ok(()) => self.judge(&about).and_then(|()| self.dial_app(&about)),
            Err(reason) => Err(reason),
        };
        match dialled {
            Ok(fd) => {
                self.stream_came(about.workload.id);
                let mut stream = Stream::new(fd, Phase::Dialling, about, self.now);
                stream.carrier = Some((tunnel, key));
                stream.remote_ended = end;
                stream.deadline = Some(self.now + self.config.connect_timeout);
                let handle = self.streams.insert(stream);
                let token = Token::Stream(handle).encode();
                let added = self.epoll.add_socket(&self.streams[handle].fd, token);
                if let Some(open) = self.tunnels[tunnel].open_mut() {
                    open.h2.set_user(key, token);
                }
                if added.is_err() {
                    self.refuse_dialling(handle, Reason::ResourceLimit);
                }
            }
            Err(reason) => {
                self.answer(tunnel, key, reason.status());
                self.count_refused(&about, reason);
            }
        }
    }

    /// The dial has come to an end: 200, and bytes flow; or 503.
    pub(super) fn app_dialled(&mut self, handle: Handle) {
        let stream = &mut self.streams[handle];
        // Writable and not hung up is connected; only else is there an error to ask for.
        if stream.hung_up
            && let Err(error) = socket::take_error(&stream.fd)
        {
            return if HUNG_UP.contains(&error) {
                self.end_stream(handle, Reason::AppReset)
            } else {
                self.refuse_dialling(handle, Reason::AppConnectFailed)
            };
        }
        let Some((tunnel, key)) = stream.carrier else {
            return;
        };
        stream.phase = Phase::Open;
        stream.deadline = None;
        stream.connect_us = (self.now - stream.began).as_micros() as u64;
        self.count_opened(handle);
        self.answer(tunnel, key, 200);
    }

    pub(super) fn refuse_dialling(&mut self, handle: Handle, reason: Reason) {
        if let Some((tunnel, key)) = self.streams[handle].carrier {
            self.answer(tunnel, key, reason.status());
        }
        self.end_stream(handle, reason);
    }

    fn answer(&mut self, tunnel: Handle, key: StreamKey, status: u16) {
        let Some(found) = self.tunnels.get_mut(tunnel) else {
            return;
        };
        let State::Open(open) = &mut found.state else {
            return;
        };
        let refusal = ConnectResponse {
            status,
            baggage: None,
        };
        let response = if status == 200 {
            found.accepted.get_or_insert_with(|| {
                let baggage = &found.workload.baggage;
                Box::new(ConnectResponse {
                    baggage: (!baggage.is_empty()).then(|| Box::from(&**baggage)),
                    status,
                })
            })
        } else {
            &refusal
        };
        // A stream that was reset meanwhile needs no answer.
        let _ = open.h2.respond(key, response);
        self.mark_dirty(tunnel);
    }

    fn about_request(&self, tunnel: Handle, request: &ConnectRequest) -> About {
        let tunnel = &self.tunnels[tunnel];
        let destination = match request.authority {
            // `::ffff:1.2.3.4` is dialled as what it is.
            Authority::Address(address) => canonical(address),
            Authority::Host { port, .. } => SocketAddr::new(tunnel.local.ip(), port),
        };
        About {
            direction: Direction::Inbound,
            workload: tunnel.workload.clone(),
            peer_workload: tunnel.peer_workload,
            service: self.service_named(request.forwarded.host.as_deref()),
            // The application sees this address too; `forwarded: for=` is only a claim.
            source: SocketAddr::new(
                tunnel.remote.ip(),
                request.forwarded.source.map_or(0, |source| source.port()),
            ),
            destination,
            original: None,
            hbone: Some(tunnel.local),
            peer_identity: tunnel.open_ref().map(|open| open.peer_identity.clone()),
            trace_id: request.traceparent.map_or(0, |trace| trace.trace_id),
        }
    }

    /// A tunnel ends at the pod that it was dialled to, at a port of an application. A hostname is
    /// refused: ztunnel resolves it to a service of the pod, for gateways that send one; ours always
    /// send the address.
    fn check_authority(&self, tunnel: Handle, authority: &Authority) -> Result<(), Reason> {
        let tunnel = &self.tunnels[tunnel];
        let Authority::Address(address) = authority else {
            return Err(Reason::BadAuthority);
        };
        if address.ip().to_canonical() != tunnel.local.ip() {
            return Err(Reason::BadAuthority);
        }
        let port = address.port();
        let reserved = port == self.config.hbone_port
            || port == 0
            || tunnel.workload.capture_ports.contains(&port);
        if reserved {
            Err(Reason::BadAuthority)
        } else {
            Ok(())
        }
    }

    /// Dials as the client: the application's getpeername() is the true one.
    fn dial_app(&mut self, about: &About) -> Result<OwnedFd, Reason> {
        let destination = about.destination;
        let dial = |worker: &mut Self, source: IpAddr| -> std::io::Result<OwnedFd> {
            let fd = worker.socket_in(&about.workload, destination)?;
            if about.workload.mark != 0 {
                socket::set_transparent(&fd, source, about.workload.mark)?;
            }
            socket::bind_address(&fd, source)?;
            socket::set_nodelay(&fd)?;
            worker.apply_congestion_control(&fd);
            socket::start_connect(&fd, destination)?;
            Ok(fd)
        };
        dial(self, about.source.ip()).map_err(|error| match error.raw_os_error() {
            Some(code) if LIMITS.contains(&code) => Reason::ResourceLimit,
            _ => Reason::AppConnectFailed,
        })
    }
}
