// SPDX-License-Identifier: Apache-2.0
//! Listeners of pods: who connects, and which worker serves it.

use super::Worker;
use super::token::Token;
use crate::balance::{Claim, Place};
use crate::config::{ACCEPTS_PER_WAKE, KEEPALIVE, TICK};
use crate::error::Error;
use crate::event::{Event, EventKind};
use crate::message::{Accepted, Captured, ListenerKind, Message};
use crate::model::{Direction, Workload};
use crate::slab::Handle;
use hbone_proto::Reason;
use hbone_sys::flow::{FlowKey, FlowRecord};
use hbone_sys::{Errno, socket};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

/// A listener that this worker accepts for.
pub(crate) struct Listener {
    pub fd: OwnedFd,
    pub kind: ListenerKind,
    pub workload: Arc<Workload>,
    /// Unspecified address: each accepted socket must be asked.
    pub local: SocketAddr,
    /// Out of descriptors: not polled until then.
    pub paused_until: Option<Instant>,
}

/// A descriptor held back, so that at the limit a connection can still be taken and refused
/// instead of waking us for ever.
pub(crate) struct Spare(Option<OwnedFd>);

impl Spare {
    pub fn new() -> Self {
        Self(std::fs::File::open("/dev/null").ok().map(Into::into))
    }
}

impl Worker {
    /// What the accepted sockets inherit is set once, here: a connection costs no option calls.
    pub(super) fn listen(&mut self, workload: &Arc<Workload>, kind: ListenerKind, fd: OwnedFd) {
        let _ = socket::set_nodelay(&fd);
        let _ = socket::set_keepalive(&fd, KEEPALIVE);
        self.apply_congestion_control(&fd);
        let added = socket::local_address(&fd).and_then(|local| {
            let workload = workload.clone();
            let listener = Listener {
                fd,
                kind,
                workload,
                local,
                paused_until: None,
            };
            let handle = self.listeners.insert(listener);
            let fd = self.listeners[handle].fd.as_fd();
            self.epoll.add_level(fd, Token::Listener(handle).encode())
        });
        if let Err(error) = added {
            self.tell_unserved(workload.id, error);
        }
    }

    fn listener_lost(&mut self, handle: Handle, errno: Errno) {
        let Some(listener) = self.listeners.remove(handle) else {
            return;
        };
        let _ = self.epoll.remove(&listener.fd);
        if errno == Errno::INVAL {
            // It listens no more: its owner took the pod out, and told us later or not at all.
            let mut event = Event::new(EventKind::CaptureRefused);
            event.workload_id = listener.workload.id;
            event.reason = Reason::WorkloadRemoved.number();
            event.detail = "its listener was shut down".to_owned();
            self.events.push(event);
        } else {
            self.tell_unserved(listener.workload.id, errno.into());
        }
    }

    fn tell_unserved(&mut self, workload_id: u32, error: std::io::Error) {
        let mut event = Event::new(EventKind::CaptureRefused);
        event.workload_id = workload_id;
        event.reason = Reason::ResourceLimit.number();
        event.detail = Error::System("a listener cannot be served", error).to_string();
        self.events.push(event);
    }

    pub(super) fn apply_congestion_control(&self, fd: impl AsFd) {
        if !self.config.congestion_control.is_empty() {
            // A name that this netns does not allow leaves its own default in place.
            let _ = socket::set_congestion_control(fd, &self.config.congestion_control);
        }
    }

    /// The duplicate that the owner keeps holds the registration: it must be removed by hand.
    pub(super) fn stop_listening(&mut self, matches: impl Fn(&Listener) -> bool) {
        for handle in self.listeners.handles() {
            if matches(&self.listeners[handle])
                && let Some(listener) = self.listeners.remove(handle)
                && listener.paused_until.is_none()
            {
                let _ = self.epoll.remove(&listener.fd);
            }
        }
    }

    pub(super) fn accept(&mut self, handle: Handle) {
        for _ in 0..ACCEPTS_PER_WAKE {
            let Some(listener) = self.listeners.get(handle) else {
                return;
            };
            match socket::accept(&listener.fd) {
                Ok((fd, Some(remote))) => self.accepted(handle, fd, remote),
                Ok((_, None)) => {}
                Err(Errno::AGAIN) => return,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    return self.accept_at_limit(handle);
                }
                Err(error @ (Errno::INVAL | Errno::BADF | Errno::NOTSOCK)) => {
                    // Shut down by its owner. Level-triggered, it would wake us for ever.
                    return self.listener_lost(handle, error);
                }
                // A pending error of the connection, which accept(2) passes on.
                Err(_) => {}
            }
        }
    }

    fn accepted(&mut self, handle: Handle, fd: OwnedFd, remote: SocketAddr) {
        let listener = &self.listeners[handle];
        let (kind, workload) = (listener.kind, listener.workload.clone());
        let local = if listener.local.ip().is_unspecified() {
            match socket::local_address(&fd) {
                Ok(local) => local,
                Err(_) => return,
            }
        } else {
            listener.local
        };
        let (remote, local) = (canonical(remote), canonical(local));
        match kind {
            ListenerKind::Capture => self.captured(&workload, fd, remote, local),
            ListenerKind::Inbound => {
                let workload_id = workload.id;
                let place = Place::least_busy(&self.shared.balance);
                let worker = place.worker;
                let accepted = Box::new(Accepted {
                    fd,
                    workload_id,
                    remote,
                    local,
                    place,
                });
                if worker == self.index {
                    self.begin_inbound(*accepted);
                } else if let Err(Message::Accepted(accepted)) =
                    self.send_to(worker, Message::Accepted(accepted))
                {
                    socket::set_abort_on_close(&accepted.fd);
                    self.handshake_refused(&workload, remote, Reason::ResourceLimit);
                }
            }
        }
    }

    fn captured(
        &mut self,
        workload: &Arc<Workload>,
        fd: OwnedFd,
        source: SocketAddr,
        local: SocketAddr,
    ) {
        let key = FlowKey::new(workload.netns_cookie, source, local);
        let record = match self.records.take(&key) {
            Ok(Some(record)) if record.is_poisoned() => Err(Reason::FlowRecordPoisoned),
            Ok(Some(record)) => Ok(record),
            Ok(None) | Err(_) => Err(Reason::NoFlowRecord),
        };
        match record {
            Ok(record) => self.route(workload, fd, source, record),
            Err(reason) => self.refuse_capture(workload, &fd, source, local, reason),
        }
    }

    /// To the worker that owns the pool key: else each would dial each peer.
    fn route(
        &mut self,
        workload: &Arc<Workload>,
        fd: OwnedFd,
        source: SocketAddr,
        record: FlowRecord,
    ) {
        let key = (workload.id, record.upstream().ip());
        let (now, random) = (self.now, self.random.next());
        let routed = Claim::route(&self.shared.balance, key, now, random);
        self.stats.spills += u64::from(routed.spilt);
        let captured = Captured {
            fd,
            workload_id: workload.id,
            source,
            record,
            accepted: now,
            claim: routed.claim,
            forwarded: false,
        };
        self.give(routed.worker, workload, captured);
    }

    /// From another worker, which sent it when this one owned its key. A tunnel that has moved on
    /// meanwhile takes it along, once: what moves more often than that is served here.
    pub(super) fn received(&mut self, captured: Captured) {
        let workload = self.workloads.get(&captured.workload_id).cloned();
        match (captured.claim.owner(), workload) {
            (Some(owner), Some(workload))
                if !captured.forwarded && !captured.claim.is_of(self.index) =>
            {
                let forwarded = Captured {
                    forwarded: true,
                    ..captured
                };
                self.give(owner, &workload, forwarded);
            }
            _ => self.begin_outbound(captured),
        }
    }

    fn give(&mut self, owner: usize, workload: &Arc<Workload>, captured: Captured) {
        if owner == self.index {
            return self.begin_outbound(captured);
        }
        let source = captured.source;
        if let Err(Message::Captured(captured)) =
            self.send_to(owner, Message::Captured(Box::new(captured)))
        {
            let upstream = captured.record.upstream();
            self.refuse_capture(
                workload,
                &captured.fd,
                source,
                upstream,
                Reason::ResourceLimit,
            );
        }
    }

    /// Closes with RST: the application must not take it for a peer that has nothing to say.
    pub(super) fn refuse_capture(
        &mut self,
        workload: &Workload,
        fd: &OwnedFd,
        source: SocketAddr,
        destination: SocketAddr,
        reason: Reason,
    ) {
        socket::set_abort_on_close(fd);
        *self
            .stats
            .capture_refused
            .entry(reason.number())
            .or_default() += 1;
        let mut event = Event::new(EventKind::CaptureRefused);
        event.direction = Some(Direction::Outbound);
        event.workload_id = workload.id;
        event.source = Some(source);
        event.destination = Some(destination);
        event.reason = reason.number();
        self.events.push(event);
    }

    /// Gives the spare descriptor up for a moment to refuse one connection; where even that does
    /// not help, leaves the listener alone until the next tick.
    fn accept_at_limit(&mut self, handle: Handle) {
        self.spare.0 = None;
        let taken = self
            .listeners
            .get(handle)
            .map(|listener| socket::accept(&listener.fd));
        if let Some(Ok((fd, Some(remote)))) = taken {
            let listener = &self.listeners[handle];
            let (workload, local) = (listener.workload.clone(), listener.local);
            if listener.kind == ListenerKind::Inbound {
                socket::set_abort_on_close(&fd);
                self.handshake_refused(&workload, canonical(remote), Reason::ResourceLimit);
            } else {
                self.refuse_capture(&workload, &fd, remote, local, Reason::ResourceLimit);
            }
            drop(fd);
        }
        self.spare = Spare::new();
        let until = self.now + TICK;
        if let Some(listener) = self.listeners.get_mut(handle)
            && self.epoll.remove(&listener.fd).is_ok()
        {
            listener.paused_until = Some(until);
        }
    }

    pub(super) fn is_accepting_paused(&self) -> bool {
        self.listeners
            .iter()
            .any(|(_, listener)| listener.paused_until.is_some())
    }

    pub(super) fn resume_accepting(&mut self) {
        for handle in self.listeners.handles() {
            let now = self.now;
            let listener = &mut self.listeners[handle];
            if listener.paused_until.is_some_and(|until| until <= now) {
                listener.paused_until = None;
                let _ = self
                    .epoll
                    .add_level(&listener.fd, Token::Listener(handle).encode());
            }
        }
    }
}

/// IPv4-mapped addresses are IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
