// SPDX-License-Identifier: Apache-2.0
//! One HBONE connection and where it is in its life.

use super::outbox::Outbox;
use crate::balance::Hold;
use crate::model::{Direction, Workload};
use hbone_proto::{ConnectRequest, ConnectResponse, Connection, PoolKey};
use hbone_tls::{ExpectedPeers, Handshake, Session, Svid};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// Everything that a worker keeps of a tunnel.
pub(crate) struct Tunnel {
    pub fd: OwnedFd,
    /// Its pool key's slot or its place among inbound ones.
    pub hold: Hold,
    pub direction: Direction,
    pub workload: Arc<Workload>,
    pub peer_workload: u32,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: State,
    pub outbox: Outbox,
    /// The start of a record, or of a handshake message, whose rest has not arrived.
    pub tail: Vec<u8>,
    /// Edge-triggered readiness: what the kernel told and no EAGAIN has taken back.
    pub readable: bool,
    pub writable: bool,
    /// The peer has sent FIN or RST: a short read no longer means that the socket is drained.
    pub hung_up: bool,
    /// Something is unsent, and the socket has taken nothing since.
    pub stalled: Option<Instant>,
    /// Sending failed. What the peer said before is still read: it may be why.
    pub broken: Option<String>,
    /// Waits for the flush at the end of this wake.
    pub dirty: bool,
    /// Waits for another turn in the next wake.
    pub again: bool,
    /// Streams were put off because their turn was over or the outbox was full.
    pub put_off: bool,
    pub opened: Instant,
    /// When it came from another worker.
    pub moved: Option<Instant>,
    /// What it has cost since the last tick, and smoothed over ticks; see [`super::load`].
    pub work: u64,
    pub rate: u64,
    /// When this state must have been left, or a drain be over.
    pub deadline: Option<Instant>,
    /// Outbound: under which key the pool has it.
    pub key: Option<PoolKey>,
    /// Outbound: the request of the last stream, refilled for each.
    pub request: Option<Box<ConnectRequest>>,
    /// Inbound: the answer to every CONNECT that was served.
    pub accepted: Option<Box<ConnectResponse>>,
}

/// Consumed by each transition.
pub(crate) enum State {
    /// Outbound: TCP connect is under way.
    Connecting(Svid, ExpectedPeers),
    Handshaking(Box<Handshake>),
    Open(Box<Open>),
    /// Between two states, or over.
    Closed,
}

pub(crate) struct Open {
    pub session: Session,
    pub h2: Connection,
    pub peer_identity: Arc<str>,
    /// The peer has sent data: it accepts our certificate.
    pub heard: bool,
}

/// Where a tunnel leads.
pub(crate) struct Remote {
    /// Whose address it is; 0 where no workload is known there.
    pub workload: u32,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl Tunnel {
    pub fn new(
        (fd, hold): (OwnedFd, Hold),
        workload: Arc<Workload>,
        to: Remote,
        state: State,
        now: Instant,
    ) -> Self {
        let direction = match hold {
            Hold::Outbound(_) => Direction::Outbound,
            Hold::Inbound(_) => Direction::Inbound,
        };
        Self {
            fd,
            hold,
            direction,
            workload,
            peer_workload: to.workload,
            local: to.local,
            remote: to.remote,
            state,
            outbox: Outbox::default(),
            tail: Vec::new(),
            readable: false,
            writable: false,
            hung_up: false,
            stalled: None,
            broken: None,
            dirty: false,
            again: false,
            put_off: false,
            opened: now,
            moved: None,
            work: 0,
            rate: 0,
            deadline: None,
            key: None,
            request: None,
            accepted: None,
        }
    }

    pub fn open_mut(&mut self) -> Option<&mut Open> {
        match &mut self.state {
            State::Open(open) => Some(open),
            _ => None,
        }
    }

    pub fn open_ref(&self) -> Option<&Open> {
        match &self.state {
            State::Open(open) => Some(open),
            _ => None,
        }
    }
}
