// SPDX-License-Identifier: Apache-2.0
//! What other threads put into a worker's queue.

use crate::balance::{Claim, Place};
use crate::counters::{ConnectionInfo, Counters, Stats, TunnelInfo};
use crate::model::{Peer, Workload};
use crate::worker::Moved;
use hbone_sys::flow::FlowRecord;
use hbone_tls::Svid;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

pub(crate) enum Message {
    PutSvid(Arc<str>, Svid),
    RemoveSvid(Arc<str>),
    PutWorkload(Arc<Workload>),
    /// Follows PutWorkload on the workers that accept for it.
    Listen(u32, Vec<(ListenerKind, OwnedFd)>),
    RemoveWorkload(u32, Duration),
    PutPeers(Arc<[Arc<Peer>]>),
    RemovePeers(Arc<[u32]>),
    PutServices(Arc<[(u32, Box<str>)]>),
    Counters(Sender<Counters>),
    ForgetCounters(Arc<[u32]>),
    Connections(Sender<Vec<ConnectionInfo>>),
    Tunnels(Sender<Vec<TunnelInfo>>),
    Stats(Sender<Stats>),
    /// Answered when nothing is open any more.
    Drain(Duration, Sender<()>),
    /// Every tunnel that may goes to the next worker.
    Shuffle,
    /// The policy has changed: every stream is judged again.
    JudgeAgain,
    /// Listens no more; the sockets wait for whoever else holds them.
    Deafen(Sender<()>),
    Stop,
    /// A captured connection whose pool key is this worker's.
    Captured(Box<Captured>),
    /// A peer's connection, for the least busy worker.
    Accepted(Box<Accepted>),
    /// An open tunnel that this worker has more time for.
    Moved(Box<Moved>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerKind {
    Capture,
    Inbound,
}

#[derive(Debug)]
pub(crate) struct Captured {
    pub fd: OwnedFd,
    pub workload_id: u32,
    pub source: SocketAddr,
    pub record: FlowRecord,
    pub accepted: Instant,
    pub claim: Claim,
    pub forwarded: bool,
}

#[derive(Debug)]
pub(crate) struct Accepted {
    pub fd: OwnedFd,
    pub workload_id: u32,
    pub remote: SocketAddr,
    pub local: SocketAddr,
    pub place: Place,
}
