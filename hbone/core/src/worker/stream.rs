// SPDX-License-Identifier: Apache-2.0
//! One connection of an application, and the stream that carries it.

use crate::balance::Claim;
use crate::model::{Direction, Workload};
use crate::slab::Handle;
use hbone_proto::{Reason, StreamKey};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// Everything that a worker keeps of a connection.
pub(crate) struct Stream {
    pub fd: OwnedFd,
    pub phase: Phase,
    /// The tunnel and the stream in it, once there is one.
    pub carrier: Option<(Handle, StreamKey)>,
    /// Outbound: its hold on the pool key.
    pub claim: Option<Claim>,
    pub about: About,
    pub readable: bool,
    pub writable: bool,
    /// The application has sent FIN or RST: a short read no longer means drained.
    pub hung_up: bool,
    /// The last read was large: read several records at once.
    pub bulk: bool,
    /// Our half of the stream has ended: the application's FIN was sent on.
    pub local_ended: bool,
    /// The peer's half has ended; FIN goes to the application after what is pending.
    pub remote_ended: bool,
    pub write_shut: bool,
    /// Received in this wake and not written yet: places in the worker's receive buffer. The list
    /// is lent by the worker.
    pub arrived: Vec<Range<usize>>,
    /// Waits in the worker's list of streams to deliver to.
    pub touched: bool,
    /// What the application has not taken; from `pending_start` on.
    pub pending: Vec<u8>,
    pub pending_start: usize,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Of those, sent and received before it came here: counted by other workers.
    pub settled: (u64, u64),
    pub began: Instant,
    pub connect_us: u64,
    /// When the phase must be left, or when a half-closed connection has been silent for too long.
    pub deadline: Option<Instant>,
    /// The request was refused unprocessed, or its tunnel broke, and it was sent again.
    pub retried: bool,
    /// The peer has reset the stream: it ends with this once what arrived before is delivered.
    pub doomed: Option<Reason>,
    /// The peer is gone, but had ended its half in order: the application still gets what is
    /// pending, and FIN; what it sends goes nowhere.
    pub cut_off: Option<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Outbound: no tunnel yet.
    Waiting,
    /// Outbound: CONNECT is sent.
    Requested,
    /// Inbound: the application is being dialled.
    Dialling,
    /// Bytes flow.
    Open,
}

/// Who talks to whom; does not change.
pub(crate) struct About {
    pub direction: Direction,
    pub workload: Arc<Workload>,
    pub peer_workload: u32,
    pub service: u32,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub original: Option<SocketAddr>,
    pub hbone: Option<SocketAddr>,
    pub peer_identity: Option<Arc<str>>,
    pub trace_id: u128,
}

impl About {
    /// The far end of the tunnel.
    pub fn peer_address(&self) -> IpAddr {
        match (self.direction, self.hbone) {
            (Direction::Outbound, Some(hbone)) => hbone.ip(),
            (Direction::Outbound, None) => self.destination.ip(),
            (Direction::Inbound, _) => self.source.ip(),
        }
    }

    pub fn source_identity(&self) -> Option<Arc<str>> {
        match self.direction {
            Direction::Outbound => Some(self.workload.identity.clone()),
            Direction::Inbound => self.peer_identity.clone(),
        }
    }

    pub fn destination_identity(&self) -> Option<Arc<str>> {
        match self.direction {
            Direction::Outbound => self.peer_identity.clone(),
            Direction::Inbound => Some(self.workload.identity.clone()),
        }
    }
}

impl Stream {
    pub fn new(fd: OwnedFd, phase: Phase, about: About, now: Instant) -> Self {
        Self {
            fd,
            phase,
            carrier: None,
            claim: None,
            about,
            readable: false,
            writable: false,
            hung_up: false,
            bulk: false,
            local_ended: false,
            remote_ended: false,
            write_shut: false,
            arrived: Vec::new(),
            touched: false,
            pending: Vec::new(),
            pending_start: 0,
            bytes_sent: 0,
            bytes_received: 0,
            settled: (0, 0),
            began: now,
            connect_us: 0,
            deadline: None,
            retried: false,
            doomed: None,
            cut_off: None,
        }
    }

    /// Back to waiting for a tunnel, once; returns what carried the request.
    pub fn wait_again(&mut self) -> Option<(Handle, StreamKey)> {
        self.retried = true;
        self.phase = Phase::Waiting;
        self.deadline = None;
        self.carrier.take()
    }

    pub fn pending_len(&self) -> usize {
        self.pending.len() - self.pending_start
    }

    pub fn is_half_closed(&self) -> bool {
        self.local_ended != self.write_shut
    }
}
