// SPDX-License-Identifier: Apache-2.0
//! What the core tells its owner: a bounded queue and one eventfd.

use crate::fairness::Fairness;
use crate::model::Direction;
use hbone_sys::poll::Bell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

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
    queue: Mutex<Receiver<Box<Event>>>,
    shared: Arc<Shared>,
}

/// The writing end of one worker.
#[derive(Debug)]
pub(crate) struct EventSender {
    queue: SyncSender<Box<Event>>,
    shared: Arc<Shared>,
    fairness: Fairness,
    unannounced: bool,
}

#[derive(Debug)]
struct Shared {
    bell: Bell,
    dropped: AtomicU64,
    withheld: AtomicU64,
}

impl Events {
    pub fn new(limit: usize) -> std::io::Result<(Self, EventSender)> {
        let (sender, receiver) = sync_channel(limit.max(1));
        let shared = Arc::new(Shared {
            bell: Bell::new()?,
            dropped: AtomicU64::new(0),
            withheld: AtomicU64::new(0),
        });
        let events = Self {
            queue: Mutex::new(receiver),
            shared: shared.clone(),
        };
        Ok((
            events,
            EventSender {
                queue: sender,
                shared,
                fairness: Fairness::default(),
                unannounced: false,
            },
        ))
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
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.try_iter().map(|event| *event).collect()
    }
}

impl EventSender {
    /// Queues an event; the bell rings at the next [`Self::announce`]. Refusals beyond what one
    /// address may have told are withheld and counted.
    pub fn push(&mut self, mut event: Event) {
        if !self.fairness.admit(&mut event, Instant::now()) {
            self.shared.withheld.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match self.queue.try_send(Box::new(event)) {
            Ok(()) => self.unannounced = true,
            Err(TrySendError::Full(_)) => {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Rings once for all events of a wake.
    pub fn announce(&mut self) {
        if std::mem::take(&mut self.unannounced) {
            self.shared.bell.ring();
        }
    }
}

impl Clone for EventSender {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            shared: self.shared.clone(),
            fairness: Fairness::default(),
            unannounced: false,
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
}
