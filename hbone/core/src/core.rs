// SPDX-License-Identifier: Apache-2.0
//! The owner's handle: starts the workers, tells them, asks them, ends them.

use crate::config::{Config, LONGEST};
use crate::counters::{ConnectionInfo, Counters, Stats, TunnelInfo, merge};
use crate::error::Error;
use crate::event::{Event, EventKind, EventSender, Events};
use crate::memory::memory_limit;
use crate::message::{ListenerKind, Message};
use crate::model::{Listeners, Peer, Workload};
use crate::worker::{Mailbox, Setup, Shared, Worker};
use hbone_proto::placement::MAX_WORKERS;
use hbone_sys::flow::FlowRecords;
use hbone_sys::poll::Bell;
use hbone_tls::Svid;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Messages that wait for one worker at most. Commands wait for room; connections handed over by
/// another worker are refused instead.
const MAILBOX: usize = 8192;

/// Answers are waited for so long; a worker that needs more is stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The byte path: workers that live until [`Core::stop`].
pub struct Core {
    config: Arc<Config>,
    events: Events,
    mailboxes: Vec<Mailbox>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Where the listeners of the next workload begin, so that they spread over the workers.
    turn: Mutex<usize>,
}

impl Core {
    /// Starts one thread per worker. `records` says where captured connections wanted to go.
    pub fn start(config: Config, records: Arc<dyn FlowRecords>) -> Result<Self, Error> {
        let mut config = config.bounded();
        let count = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        }
        .min(MAX_WORKERS);
        config.fit_into(memory_limit(), count);
        let config = Arc::new(config);
        let (events, sender) =
            Events::new(config.max_events).map_err(|e| Error::System("eventfd", e))?;
        let mut mailboxes = Vec::new();
        let mut inboxes = Vec::new();
        for _ in 0..count {
            let (queue, inbox) = sync_channel(MAILBOX);
            let bell = Arc::new(Bell::new().map_err(|e| Error::System("eventfd", e))?);
            mailboxes.push(Mailbox { queue, bell });
            inboxes.push(inbox);
        }
        let core = Self {
            config: config.clone(),
            events,
            mailboxes: mailboxes.clone(),
            threads: Mutex::new(Vec::new()),
            turn: Mutex::new(0),
        };
        let (ready, started) = channel();
        let shared = Arc::new(Shared::new(count));
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let setup = Setup {
                index,
                config: config.clone(),
                records: records.clone(),
                inbox,
                mates: mailboxes.clone(),
                events: sender.clone(),
                shared: shared.clone(),
            };
            core.spawn(setup, ready.clone())?;
        }
        for _ in 0..count {
            started.recv().map_err(|_| Error::Stopped)??;
        }
        Ok(core)
    }

    fn spawn(&self, setup: Setup, ready: Sender<Result<(), Error>>) -> Result<(), Error> {
        let name = format!("hbone-{}", setup.index);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || work(setup, &ready))
            .map_err(|e| Error::System("a worker thread", e))?;
        self.threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        Ok(())
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Readable while events wait.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.events.bell().as_fd()
    }

    /// Every waiting event, oldest first.
    pub fn drain_events(&self) -> Vec<Event> {
        self.events.drain()
    }

    /// New handshakes of this identity use it; open tunnels live on.
    pub fn put_svid(&self, identity: &str, svid: &Svid) -> Result<(), Error> {
        let identity: Arc<str> = identity.into();
        self.tell_all(|| Message::PutSvid(identity.clone(), svid.clone()))
    }

    pub fn remove_svid(&self, identity: &str) -> Result<(), Error> {
        let identity: Arc<str> = identity.into();
        self.tell_all(|| Message::RemoveSvid(identity.clone()))
    }

    /// Serves a pod of this node. Every worker knows it before the first accepts for it.
    pub fn put_workload(&self, workload: Workload, listeners: Listeners) -> Result<(), Error> {
        let workload = Arc::new(workload);
        self.tell_all(|| Message::PutWorkload(workload.clone()))?;
        let capture = listeners
            .capture
            .into_iter()
            .map(|fd| (ListenerKind::Capture, fd));
        let inbound = listeners
            .inbound
            .into_iter()
            .map(|fd| (ListenerKind::Inbound, fd));
        let mut shares: Vec<Vec<(ListenerKind, OwnedFd)>> = Vec::new();
        shares.resize_with(self.mailboxes.len(), Vec::new);
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for listener in capture.chain(inbound) {
            shares[*turn % self.mailboxes.len()].push(listener);
            *turn += 1;
        }
        drop(turn);
        for (worker, share) in shares.into_iter().enumerate() {
            if !share.is_empty() {
                self.tell(worker, Message::Listen(workload.id, share))?;
            }
        }
        Ok(())
    }

    /// Stops accepting at once; what is open ends within `drain`.
    pub fn remove_workload(&self, id: u32, drain: Duration) -> Result<(), Error> {
        self.tell_all(|| Message::RemoveWorkload(id, drain))
    }

    /// Replaces these peers, and leaves the others as they are.
    pub fn put_peers(&self, peers: Vec<Peer>) -> Result<(), Error> {
        let peers: Arc<[Arc<Peer>]> = peers.into_iter().map(Arc::new).collect();
        self.tell_all(|| Message::PutPeers(peers.clone()))
    }

    /// Forgets them and closes the tunnels to them at once.
    pub fn remove_peers(&self, ids: Vec<u32>) -> Result<(), Error> {
        let ids: Arc<[u32]> = ids.into();
        self.tell_all(|| Message::RemovePeers(ids.clone()))
    }

    /// The hostnames that `forwarded: host=` tells; an empty one forgets the service.
    pub fn put_services(&self, services: Vec<(u32, Box<str>)>) -> Result<(), Error> {
        let services: Arc<[(u32, Box<str>)]> = services.into();
        self.tell_all(|| Message::PutServices(services.clone()))
    }

    pub fn counters(&self) -> Result<Counters, Error> {
        let mut all = Counters::default();
        self.ask(Message::Counters)?
            .into_iter()
            .for_each(|counters| merge(&mut all, counters));
        Ok(all)
    }

    /// Drops the series that name these workloads.
    pub fn forget_counters(&self, ids: Vec<u32>) -> Result<(), Error> {
        let ids: Arc<[u32]> = ids.into();
        self.tell_all(|| Message::ForgetCounters(ids.clone()))
    }

    pub fn connections(&self) -> Result<Vec<ConnectionInfo>, Error> {
        Ok(self
            .ask(Message::Connections)?
            .into_iter()
            .flatten()
            .collect())
    }

    pub fn tunnels(&self) -> Result<Vec<TunnelInfo>, Error> {
        Ok(self.ask(Message::Tunnels)?.into_iter().flatten().collect())
    }

    pub fn stats(&self) -> Result<Stats, Error> {
        let mut all = Stats {
            events_dropped: self.events.dropped(),
            events_withheld: self.events.withheld(),
            ..Stats::default()
        };
        self.ask(Message::Stats)?
            .iter()
            .for_each(|stats| all.add(stats));
        Ok(all)
    }

    /// Moves every tunnel that may move to the next worker, as if all were badly placed: for tests of
    /// moving, which otherwise takes seconds of load.
    #[doc(hidden)]
    pub fn shuffle(&self) -> Result<(), Error> {
        self.tell_all(|| Message::Shuffle)
    }

    /// The policy has changed: open streams that it refuses now are ended, with its reason.
    pub fn judge_again(&self) -> Result<(), Error> {
        self.tell_all(|| Message::JudgeAgain)
    }

    /// GOAWAY everywhere, no new connections; returns when nothing is open any more, at the latest
    /// a moment after the deadline.
    pub fn drain(&self, deadline: Duration) -> Result<(), Error> {
        let deadline = deadline.min(LONGEST);
        let (reply, done) = channel();
        self.tell_all(|| Message::Drain(deadline, reply.clone()))?;
        drop(reply);
        let until = Instant::now() + deadline + ANSWER_TIMEOUT;
        for _ in &self.mailboxes {
            done.recv_timeout(until.saturating_duration_since(Instant::now()))
                .map_err(|_| Error::Stopped)?;
        }
        Ok(())
    }

    /// Ends and joins the workers; everything that is open closes. Safe to call twice.
    pub fn stop(&self) {
        // First nobody listens any more, then the first ends: else a peer whose tunnel ends with one
        // worker would be let in by the next, for a moment.
        let _ = self.ask(Message::Deafen);
        for mailbox in &self.mailboxes {
            let _ = mailbox.queue.send(Message::Stop);
            mailbox.bell.ring();
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            let _ = thread.join();
        }
    }

    fn tell(&self, worker: usize, message: Message) -> Result<(), Error> {
        self.mailboxes[worker]
            .queue
            .send(message)
            .map_err(|_| Error::Stopped)?;
        self.mailboxes[worker].bell.ring();
        Ok(())
    }

    fn tell_all(&self, message: impl Fn() -> Message) -> Result<(), Error> {
        (0..self.mailboxes.len()).try_for_each(|worker| self.tell(worker, message()))
    }

    /// One answer of each worker.
    fn ask<T>(&self, question: impl Fn(Sender<T>) -> Message) -> Result<Vec<T>, Error> {
        let (reply, answers) = channel();
        self.tell_all(|| question(reply.clone()))?;
        drop(reply);
        collect(&answers, self.mailboxes.len())
    }
}

impl Drop for Core {
    /// A net for owners that forget to stop; the workers hold no reference to them.
    fn drop(&mut self) {
        self.stop();
    }
}

fn collect<T>(answers: &Receiver<T>, count: usize) -> Result<Vec<T>, Error> {
    let until = Instant::now() + ANSWER_TIMEOUT;
    let answer = || answers.recv_timeout(until.saturating_duration_since(Instant::now()));
    (0..count)
        .map(|_| answer().map_err(|_| Error::Stopped))
        .collect()
}

/// A worker's life. A panic stops all workers: a core that has lost one would let some connections
/// hang and others through, and must fail as a whole.
fn work(setup: Setup, ready: &Sender<Result<(), Error>>) {
    let mates = setup.mates.clone();
    let shared = setup.shared.clone();
    let mut events: EventSender = setup.events.clone();
    let outcome = catch_unwind(AssertUnwindSafe(|| match Worker::new(setup) {
        Ok(mut worker) => {
            let _ = ready.send(Ok(()));
            worker.run()
        }
        Err(error) => {
            let _ = ready.send(Err(error));
            Ok(())
        }
    }));
    let detail = match outcome {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_text(panic.as_ref()),
    };
    events.push(Event {
        detail,
        ..Event::new(EventKind::WorkerPanicked)
    });
    events.announce();
    shared.failed.store(true, Ordering::Relaxed);
    for mate in mates {
        mate.bell.ring();
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a worker panicked".to_owned())
}
