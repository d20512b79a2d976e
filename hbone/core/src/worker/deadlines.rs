// SPDX-License-Identifier: Apache-2.0
//! Deadlines: a look at everything, four times a second, while there is anything.
//!
//! Some nanoseconds for each stream and tunnel cost less than keeping a timer for each connection
//! that lives for a millisecond, and no deadline here needs to be finer.

use super::Worker;
use super::stream::Phase;
use super::token::Token;
use crate::slab::Handle;
use hbone_proto::Reason;
use std::sync::atomic::Ordering;

impl Worker {
    pub(super) fn check_deadlines(&mut self) {
        // prlimit(1) may have changed it.
        self.descriptors = hbone_sys::descriptor_limit();
        self.resume_accepting();
        self.check_streams();
        self.check_tunnels();
        self.release_idle();
        self.check_drain();
    }

    fn check_streams(&mut self) {
        let now = self.now;
        let late = |deadline: Option<std::time::Instant>| deadline.is_some_and(|at| at <= now);
        let late: Vec<Handle> = self
            .streams
            .iter()
            .filter(|(_, stream)| late(stream.deadline))
            .map(|(handle, _)| handle)
            .collect();
        for handle in late {
            let Some(stream) = self.streams.get(handle) else {
                continue;
            };
            match stream.phase {
                Phase::Dialling => self.refuse_dialling(handle, Reason::AppConnectFailed),
                Phase::Open => self.end_stream(handle, Reason::IdleTimeout),
                Phase::Waiting | Phase::Requested => {
                    self.end_stream(handle, Reason::UpstreamConnectTimeout);
                }
            }
        }
    }

    fn check_tunnels(&mut self) {
        let clock = self.millis();
        for handle in self.tunnels.handles() {
            let Some(tunnel) = self.tunnels.get_mut(handle) else {
                continue;
            };
            tunnel.rate = (tunnel.rate + std::mem::take(&mut tunnel.work)) / 2;
            if tunnel.put_off {
                self.turn_again(handle);
            }
            if let Some((reason, why)) = self.overdue(&self.tunnels[handle]) {
                self.close_tunnel(handle, (reason, why.into()));
                continue;
            }
            let Some(open) = self.tunnels[handle].open_mut() else {
                continue;
            };
            if open.h2.next_deadline().is_some_and(|at| at <= clock) {
                let outcome = open.h2.on_time(clock);
                self.mark_dirty(handle);
                if let Err(error) = outcome {
                    self.close_tunnel(handle, (Reason::from(&error), error.to_string()));
                }
            }
        }
    }

    /// Tunnels that nobody has used for long.
    pub(super) fn release_idle(&mut self) {
        let mut released = Vec::new();
        self.pool.expire(self.millis(), &mut released);
        for id in released {
            if let Token::Tunnel(handle) = Token::decode(id)
                && self.tunnels.get(handle).is_some()
            {
                self.begin_drain(handle);
            }
        }
    }

    fn check_drain(&mut self) {
        let Some((deadline, _)) = &self.draining else {
            return;
        };
        if *deadline <= self.now {
            for handle in self.tunnels.handles() {
                self.close_tunnel(handle, (Reason::Draining, "draining".into()));
            }
            for handle in self.streams.handles() {
                self.end_stream(handle, Reason::Draining);
            }
        }
        if self.tunnels.len() == 0
            && self.streams.len() == 0
            && self.shared.moving.load(Ordering::Acquire) == 0
            && let Some((_, reply)) = self.draining.take()
        {
            let _ = reply.send(());
        }
    }
}
