// SPDX-License-Identifier: Apache-2.0
//! What the core tells its owner: a bounded queue and one eventfd.
//!
//! A worker collects the events of one wake and hands them over together: one lock and at most one
//! call of the kernel for all of them, and no memory for each.

use crate::fairness::Fairness;
use crate::model::Direction;
use hbone_sys::poll::Bell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Events that a worker has room for between two wakes; more is given back.
const KEPT: usize = 1024;

/// Which of the things happened; the names are those of the Python surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    ConnectionClosed,
    HandshakeFailed,
    TunnelOpened,
    TunnelClosed,
    CaptureRefused,
    WorkerPanicked,
}

impl EventKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectionClosed => "connection_closed",
            Self::HandshakeFailed => "handshake_failed",
            Self::TunnelOpened => "tunnel_opened",
            Self::TunnelClosed => "tunnel_closed",
            Self::CaptureRefused => "capture_refused",
            Self::WorkerPanicked => "worker_panicked",
        }
    }
}

/// One event. What does not apply is `None`; `bytes_sent` is towards the peer workload.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: EventKind,
    pub direction: Option<Direction>,
    pub workload_id: u32,
    pub peer_workload_id: u32,
    pub service_id: u32,
    pub source: Option<SocketAddr>,
    pub destination: Option<SocketAddr>,
    pub original_destination: Option<SocketAddr>,
    pub hbone_address: Option<SocketAddr>,
    pub source_identity: Option<Arc<str>>,
    pub destination_identity: Option<Arc<str>>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub duration_us: u64,
    pub connect_us: u64,
    pub reason: u32,
    pub detail: String,
    pub trace_id: Option<[u8; 16]>,
}

impl Event {
    pub fn new(kind: EventKind) -> Self {
        Self {
            kind,
            direction: None,
            workload_id: 0,
            peer_workload_id: 0,
            service_id: 0,
            source: None,
            destination: None,
            original_destination: None,
            hbone_address: None,
            source_identity: None,
            destination_identity: None,
            bytes_sent: 0,
            bytes_received: 0,
            duration_us: 0,
            connect_us: 0,
            reason: 0,
            detail: String::new(),
            trace_id: None,
        }
    }
}

/// The reading end, held by the owner of the core.
#[derive(Debug)]
pub(crate) struct Events {
    shared: Arc<Shared>,
}

/// The writing end of one worker.
#[derive(Debug)]
pub(crate) struct EventSender {
    shared: Arc<Shared>,
    fairness: Fairness,
    /// Those of this wake.
    fresh: Vec<Event>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Vec<Event>>,
    limit: usize,
    bell: Bell,
    dropped: AtomicU64,
    withheld: AtomicU64,
}

impl Events {
    pub fn new(limit: usize) -> std::io::Result<(Self, EventSender)> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            limit: limit.max(1),
            bell: Bell::new()?,
            dropped: AtomicU64::new(0),
            withheld: AtomicU64::new(0),
        });
        let sender = EventSender {
            shared: shared.clone(),
            fairness: Fairness::default(),
            fresh: Vec::new(),
        };
        Ok((Self { shared }, sender))
    }

    pub fn bell(&self) -> &Bell {
        &self.shared.bell
    }

    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    pub fn withheld(&self) -> u64 {
        self.shared.withheld.load(Ordering::Relaxed)
    }

    /// Silences the bell first, so that an event that comes meanwhile rings it again.
    pub fn drain(&self) -> Vec<Event> {
        self.shared.bell.reset();
        std::mem::take(&mut *self.shared.queue())
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Vec<Event>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSender {
    /// Keeps an event for the next [`Self::announce`]. Refusals beyond what one address may have told
    /// are withheld and counted.
    pub fn push(&mut self, mut event: Event) {
        if !self.fairness.admit(&mut event, Instant::now()) {
            self.shared.withheld.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.fresh.len() < self.shared.limit {
            self.fresh.push(event);
        } else {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands over all events of a wake, as far as there is room. Rings if the queue was empty: else
    /// somebody has rung and nobody has looked since.
    pub fn announce(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        let mut queue = self.shared.queue();
        let first = queue.is_empty();
        let room = self.shared.limit - queue.len();
        let dropped = self.fresh.len().saturating_sub(room);
        queue.extend(self.fresh.drain(..).take(room));
        drop(queue);
        if dropped > 0 {
            let dropped = dropped as u64;
            self.shared.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        if first {
            self.shared.bell.ring();
        }
        if self.fresh.capacity() > KEPT {
            self.fresh = Vec::new();
        }
    }
}

/// A worker that is over has said what it had to say, also the last.
impl Drop for EventSender {
    fn drop(&mut self) {
        self.announce();
    }
}

impl Clone for EventSender {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            fairness: Fairness::default(),
            fresh: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let (events, mut sender) = Events::new(2).unwrap();
        for _ in 0..5 {
            sender.push(Event::new(EventKind::TunnelOpened));
        }
        sender.announce();
        assert_eq!((events.drain().len(), events.dropped()), (2, 3));
        assert!(events.drain().is_empty());
    }

    #[test]
    fn the_limit_holds_over_all_senders_and_wakes() {
        let (events, mut one) = Events::new(3).unwrap();
        let mut two = one.clone();
        for sender in [&mut one, &mut two] {
            for _ in 0..2 {
                sender.push(Event::new(EventKind::TunnelOpened));
            }
            sender.announce();
        }
        assert_eq!((events.drain().len(), events.dropped()), (3, 1));
        one.push(Event::new(EventKind::TunnelClosed));
        drop(one);
        assert_eq!(events.drain().len(), 1);
    }
}
