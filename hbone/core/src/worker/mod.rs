// SPDX-License-Identifier: Apache-2.0
//! A worker: one thread, one edge-triggered epoll, everything it touches its own.
//!
//! ```text
//!            capture listener ─▶ accept ─▶ flow record ─▶ owner of the pool key ─▶ pool ─▶ dial
//!  app ═══ socket ─▶ relay::pump ─▶ outbox (sealed in place) ─▶ socket ═══ peer          │
//!  app ═══ socket ◀─ relay::deliver ◀─ h2 ◀─ opened in place ◀─ socket ═══ peer ◀────────┘
//!            inbound listener ─▶ accept ─▶ handshake ─▶ CONNECT ─▶ inbound::dial ─▶ app
//! ```
//! One wake: commands, turns put off, events, deadlines; then what arrived is delivered, and each
//! tunnel that has something to send is flushed once, many streams' frames in one record.
//!
//! Rules for edges: readiness is remembered until EAGAIN takes it back; a short read means drained,
//! but not after RDHUP or HUP; whoever puts something into an outbox marks the tunnel dirty; whoever
//! stops early puts itself on the list for another turn.

mod accept;
mod bookkeeping;
mod commands;
mod cutoff;
mod deadlines;
mod deliver;
mod inbound;
mod judge;
mod load;
mod moving;
mod outbound;
mod outbox;
mod pressure;
mod relay;
mod requests;
mod sleep;
mod spin;
mod stream;
mod token;
mod tunnel;
mod tunnel_io;

use crate::balance::Balance;
use crate::config::{Config, RECEIVE_BYTES, TICK};
use crate::counters::{Counters, Stats};
use crate::error::Error;
use crate::event::EventSender;
use crate::ids::IdMap;
use crate::message::Message;
use crate::model::{Peer, Workload};
use crate::random::Random;
use crate::slab::{Handle, Slab};
use accept::{Listener, Spare};
use hbone_proto::{Millis, Pool};
use hbone_sys::flow::FlowRecords;
use hbone_sys::poll::{Alarm, Bell, Epoll, Event, EventFlags};
use hbone_sys::{netns, socket};
use hbone_tls::Svid;
use load::Meter;
pub(crate) use moving::Moved;
use outbox::BufferPool;
use pressure::Share;
use spin::Spin;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::time::Instant;
use stream::Stream;
use token::Token;
use tunnel::Tunnel;

/// Events taken from epoll in one wake.
const EVENTS_PER_WAKE: usize = 256;

/// How other threads reach a worker.
#[derive(Clone)]
pub(crate) struct Mailbox {
    pub queue: SyncSender<Message>,
    pub bell: Arc<Bell>,
}

/// What a worker is started with.
pub(crate) struct Setup {
    pub index: usize,
    pub config: Arc<Config>,
    pub records: Arc<dyn FlowRecords>,
    pub inbox: Receiver<Message>,
    pub mates: Vec<Mailbox>,
    pub events: EventSender,
    pub shared: Arc<Shared>,
}

/// What all workers look at.
#[derive(Debug)]
pub(crate) struct Shared {
    /// A worker has failed: the others must end too, however full their queues are.
    pub failed: AtomicBool,
    /// Connections of all workers; approximate at any moment.
    pub streams: AtomicUsize,
    /// Tunnels that are between two workers.
    pub moving: AtomicUsize,
    pub balance: Arc<Balance>,
}

impl Shared {
    pub fn new(workers: usize) -> Self {
        Self {
            failed: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            moving: AtomicUsize::new(0),
            balance: Arc::new(Balance::new(workers)),
        }
    }
}

/// A peer and the pool's number for the identities that are expected of it.
struct KnownPeer {
    peer: Arc<Peer>,
    identities: u32,
}

pub(crate) struct Worker {
    index: usize,
    config: Arc<Config>,
    records: Arc<dyn FlowRecords>,
    inbox: Receiver<Message>,
    mates: Vec<Mailbox>,
    /// Mates whose bell rings at the end of this wake.
    to_ring: Vec<bool>,
    events: EventSender,
    epoll: Epoll,
    /// The namespace of the agent, to go back to after making a socket in a pod's.
    home: OwnedFd,
    home_cookie: u64,
    /// Cookie of the namespace that this thread is in right now.
    netns_cookie: u64,
    started: Instant,
    /// Taken once per wake.
    now: Instant,
    random: Random,
    spin: Spin,
    meter: Meter,
    spare: Spare,

    workloads: IdMap<u32, Arc<Workload>>,
    svids: HashMap<Arc<str>, Svid>,
    peers: IdMap<u32, KnownPeer>,
    peer_by_address: HashMap<IpAddr, u32>,
    services: IdMap<u32, Box<str>>,
    service_ids: HashMap<Box<str>, u32>,
    next_identities: u32,

    listeners: Slab<Listener>,
    tunnels: Slab<Tunnel>,
    streams: Slab<Stream>,
    pool: Pool<Handle>,
    /// Inbound tunnels whose handshake is not done.
    half_open: usize,
    shares: HashMap<IpAddr, Share>,
    /// Connections of each pod.
    streams_of: IdMap<u32, usize>,
    /// How many descriptors the process may have open.
    descriptors: usize,
    shared: Arc<Shared>,

    /// Tunnels to flush at the end of this wake.
    dirty: Vec<Handle>,
    /// Tunnels that get another turn in the next wake, without waiting.
    again: Vec<Handle>,
    /// Streams with bytes in `receive` to deliver.
    touched: Vec<Handle>,
    /// Empty lists of pieces, for streams to which something comes.
    lists: Vec<Vec<Range<usize>>>,
    receive: Vec<u8>,
    /// Whose record has its beginning in `receive`, and where, until somebody else reads.
    left: Option<(Handle, Range<usize>)>,
    arrivals: Vec<hbone_proto::Event>,
    buffers: BufferPool,
    /// Bytes that applications have not taken, over all streams.
    pending_bytes: usize,

    counters: Counters,
    stats: Stats,
    /// No new connections any more; what is open may end.
    is_draining: bool,
    /// Until when, and who waits for it.
    draining: Option<(Instant, Sender<()>)>,
    next_tick: Instant,
    /// Wakes this worker for each tick.
    alarm: Alarm,
    is_alarm_set: bool,
    stopping: bool,
}

impl Worker {
    pub fn new(setup: Setup) -> Result<Self, Error> {
        let now = Instant::now();
        let epoll = Epoll::new().map_err(|e| Error::System("epoll_create", e))?;
        let bell = &setup.mates[setup.index].bell;
        epoll
            .add_level(bell.as_fd(), Token::Bell.encode())
            .map_err(|e| Error::System("epoll_ctl", e))?;
        let alarm = Alarm::new().map_err(|e| Error::System("timerfd_create", e))?;
        epoll
            .add_level(alarm.as_fd(), Token::Alarm.encode())
            .map_err(|e| Error::System("epoll_ctl", e))?;
        let home_cookie =
            netns::current_cookie().map_err(|e| Error::System("SO_NETNS_COOKIE", e))?;
        let descriptors = hbone_sys::descriptor_limit();
        let pool = Pool::new(setup.config.pool(descriptors, setup.mates.len()));
        Ok(Self {
            to_ring: vec![false; setup.mates.len()],
            index: setup.index,
            spin: Spin::new(setup.config.spin),
            meter: Meter::new(now),
            config: setup.config,
            records: setup.records,
            inbox: setup.inbox,
            mates: setup.mates,
            events: setup.events,
            epoll,
            home: netns::open_current()
                .map_err(|e| Error::System("/proc/thread-self/ns/net", e))?,
            home_cookie,
            netns_cookie: home_cookie,
            started: setup.shared.balance.epoch,
            now,
            random: Random::new(),
            spare: Spare::new(),
            workloads: IdMap::default(),
            svids: HashMap::new(),
            peers: IdMap::default(),
            peer_by_address: HashMap::new(),
            services: IdMap::default(),
            service_ids: HashMap::new(),
            next_identities: 0,
            listeners: Slab::default(),
            tunnels: Slab::default(),
            streams: Slab::default(),
            pool,
            half_open: 0,
            shares: HashMap::new(),
            streams_of: IdMap::default(),
            descriptors,
            shared: setup.shared,
            dirty: Vec::new(),
            again: Vec::new(),
            touched: Vec::new(),
            lists: Vec::new(),
            receive: vec![0; RECEIVE_BYTES],
            left: None,
            arrivals: Vec::new(),
            buffers: BufferPool::default(),
            pending_bytes: 0,
            counters: Counters::default(),
            stats: Stats {
                workers: 1,
                ..Stats::default()
            },
            is_draining: false,
            draining: None,
            next_tick: now,
            alarm,
            is_alarm_set: false,
            stopping: false,
        })
    }

    /// Until told to stop.
    pub fn run(&mut self) -> Result<(), Error> {
        let mut events = Vec::with_capacity(EVENTS_PER_WAKE);
        while !self.stopping && !self.shared.failed.load(Ordering::Relaxed) {
            self.wait(&mut events)
                .map_err(|e| Error::System("epoll_wait", e))?;
            self.wake(&events);
        }
        Ok(())
    }

    fn wake(&mut self, events: &[Event]) {
        for handle in std::mem::take(&mut self.again) {
            if let Some(tunnel) = self.tunnels.get_mut(handle) {
                tunnel.again = false;
                self.tunnel_turn(handle);
            }
        }
        for event in events {
            let flags = event.flags;
            match Token::decode(event.data.u64()) {
                Token::Bell => self.read_inbox(),
                Token::Alarm => self.alarmed(),
                Token::Listener(handle) => self.accept(handle),
                Token::Tunnel(handle) => self.tunnel_event(handle, flags),
                Token::Stream(handle) => self.stream_event(handle, flags),
            }
        }
        let ticks = self.now >= self.next_tick;
        if ticks {
            self.next_tick = self.now + TICK;
            self.check_deadlines();
        }
        self.flush_dirty();
        if ticks {
            self.rebalance();
        }
        self.go_home();
        self.events.announce();
        self.ring_mates();
    }

    /// The protocol core's clock: milliseconds since the core began, for all workers alike.
    fn millis(&self) -> Millis {
        Millis((self.now - self.started).as_millis() as u64)
    }

    fn mark_dirty(&mut self, handle: Handle) {
        if let Some(tunnel) = self.tunnels.get_mut(handle)
            && !tunnel.dirty
        {
            tunnel.dirty = true;
            self.dirty.push(handle);
        }
    }

    fn turn_again(&mut self, handle: Handle) {
        if let Some(tunnel) = self.tunnels.get_mut(handle)
            && !tunnel.again
        {
            tunnel.again = true;
            self.again.push(handle);
        }
    }

    /// A socket in the pod's namespace. The thread stays there until another pod's socket is made
    /// or the wake ends, since changing costs 0.6 us each way.
    fn socket_in(&mut self, workload: &Workload, to: SocketAddr) -> std::io::Result<OwnedFd> {
        if self.netns_cookie != workload.netns_cookie {
            netns::enter(workload.netns.as_fd())?;
            self.netns_cookie = workload.netns_cookie;
        }
        socket::tcp(to)
    }

    /// A sleeping thread must not keep the namespace of a deleted pod alive.
    fn go_home(&mut self) {
        if self.netns_cookie != self.home_cookie {
            self.netns_cookie = self.home_cookie;
            netns::enter(self.home.as_fd()).expect("the way back to the agent's own netns is open");
        }
    }

    /// Gives a message to a worker, perhaps to this one; returns it if its queue is full.
    fn send_to(&mut self, mate: usize, message: Message) -> Result<(), Message> {
        use std::sync::mpsc::TrySendError::{Disconnected, Full};
        match self.mates[mate].queue.try_send(message) {
            Ok(()) => {
                self.to_ring[mate] = true;
                Ok(())
            }
            Err(Full(message) | Disconnected(message)) => Err(message),
        }
    }

    fn ring_mates(&mut self) {
        for (mate, ring) in self.to_ring.iter_mut().enumerate() {
            if std::mem::take(ring) {
                self.mates[mate].bell.ring();
            }
        }
    }
}

/// The peer is done sending or is gone.
fn is_hang_up(flags: EventFlags) -> bool {
    flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
}
