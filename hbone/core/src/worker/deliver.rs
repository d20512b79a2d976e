// SPDX-License-Identifier: Apache-2.0
//! Bytes from a stream into its application's socket.

use super::Worker;
use super::load::TURN_COSTS;
use super::stream::Phase;
use crate::config::PENDING_SOFT_LIMIT;
use crate::slab::Handle;
use hbone_proto::Reason;
use hbone_sys::{Errno, socket};
use std::io::IoSlice;
use std::ops::Range;

/// Pieces that one sendmsg takes; a read of 256 KiB brings some 17.
const SLICES: usize = 64;

/// Keep what an application has not taken in one piece; tidy when this much of it is gone.
const TIDY_PENDING: usize = 1 << 20;

/// Lists of pieces kept for the next streams: those of one read, each for a moment.
const KEPT_LISTS: usize = 64;

impl Worker {
    /// DATA of a stream lies at `range` of the receive buffer until [`Self::deliver`].
    pub(super) fn arrived(&mut self, handle: Handle, range: Range<usize>, end: bool) {
        let Some(stream) = self.streams.get_mut(handle) else {
            return;
        };
        if !range.is_empty() {
            if stream.arrived.capacity() == 0 {
                stream.arrived = self.lists.pop().unwrap_or_default();
            }
            stream.arrived.push(range);
        }
        stream.remote_ended |= end;
        if !stream.touched {
            stream.touched = true;
            self.touched.push(handle);
        }
    }

    /// Writes what arrived, one call per application; what it does not take is kept.
    pub(super) fn deliver(&mut self, buffer: &[u8]) {
        while let Some(handle) = self.touched.pop() {
            let Some(stream) = self.streams.get_mut(handle) else {
                continue;
            };
            stream.touched = false;
            let mut arrived = std::mem::take(&mut stream.arrived);
            let total: usize = arrived.iter().map(Range::len).sum();
            stream.bytes_received += total as u64;
            let direct =
                stream.phase == Phase::Open && stream.writable && stream.pending_len() == 0;
            let written = if direct {
                self.write_slices(handle, buffer, &arrived)
            } else {
                Ok(0)
            };
            let Ok(written) = written else {
                self.app_lost(handle);
                continue;
            };
            self.keep_rest(handle, buffer, &arrived, written);
            self.took(handle, written);
            if arrived.capacity() > 0 && self.lists.len() < KEPT_LISTS {
                arrived.clear();
                self.lists.push(arrived);
            }
            if let Some(reason) = self.streams[handle].doomed {
                self.end_stream(handle, reason);
            } else {
                self.finish_writing(handle);
            }
        }
        self.shed_pending();
    }

    fn write_slices(
        &mut self,
        handle: Handle,
        buffer: &[u8],
        ranges: &[Range<usize>],
    ) -> Result<usize, Errno> {
        let stream = &mut self.streams[handle];
        let mut written = 0;
        // As finish_writing() does once all is written. A reset would take what waits with it.
        let fin_follows = stream.remote_ended && stream.doomed.is_none();
        for chunk in ranges.chunks(SLICES) {
            let wanted: usize = chunk.iter().map(Range::len).sum();
            let mut slices = [IoSlice::new(&[]); SLICES];
            for (slice, range) in slices.iter_mut().zip(chunk) {
                *slice = IoSlice::new(&buffer[range.clone()]);
            }
            match socket::send_vectored(&stream.fd, &slices[..chunk.len()], fin_follows) {
                Ok(count) => {
                    written += count;
                    if count < wanted {
                        stream.writable = false;
                        break;
                    }
                }
                Err(Errno::AGAIN) => {
                    stream.writable = false;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn keep_rest(&mut self, handle: Handle, buffer: &[u8], ranges: &[Range<usize>], skip: usize) {
        let stream = &mut self.streams[handle];
        let (mut skip, before) = (skip, stream.pending.len());
        for range in ranges {
            let skipped = skip.min(range.len());
            skip -= skipped;
            stream
                .pending
                .extend_from_slice(&buffer[range.start + skipped..range.end]);
        }
        let kept = stream.pending.len() - before;
        self.pending_bytes += kept;
        if kept == 0 || self.pending_bytes > PENDING_SOFT_LIMIT.min(self.config.pending_limit / 4) {
            return;
        }
        if let Some((tunnel, key)) = stream.carrier
            && let Some(open) = self
                .tunnels
                .get_mut(tunnel)
                .and_then(|tunnel| tunnel.open_mut())
        {
            open.h2.set_aside(key, kept);
            self.mark_dirty(tunnel);
        }
    }

    /// The application is writable again, or was just dialled.
    pub(super) fn write_pending(&mut self, handle: Handle) {
        let Some(stream) = self.streams.get_mut(handle) else {
            return;
        };
        if stream.phase != Phase::Open || !stream.writable {
            return;
        }
        let mut written = 0;
        while stream.pending_len() > 0 {
            match socket::send(&stream.fd, &stream.pending[stream.pending_start..]) {
                Ok(count) => {
                    written += count;
                    stream.pending_start += count;
                }
                Err(Errno::AGAIN) => {
                    stream.writable = false;
                    break;
                }
                Err(_) => return self.app_lost(handle),
            }
        }
        if stream.pending_len() == 0 {
            stream.pending = Vec::new();
            stream.pending_start = 0;
        } else if stream.pending_start > TIDY_PENDING {
            stream.pending.drain(..stream.pending_start);
            stream.pending_start = 0;
        }
        self.pending_bytes -= written;
        self.took(handle, written);
        self.finish_writing(handle);
    }

    /// Window credit goes back only now that the application has the bytes.
    fn took(&mut self, handle: Handle, count: usize) {
        let stream = &mut self.streams[handle];
        if count == 0 {
            return;
        }
        if stream.is_half_closed() {
            stream.deadline = Some(self.now + self.config.half_close_idle);
        }
        let Some((tunnel, key)) = stream.carrier else {
            return;
        };
        if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
            tunnel.work += TURN_COSTS;
            if let Some(open) = tunnel.open_mut() {
                open.h2.consumed(key, count);
            }
        }
        self.mark_dirty(tunnel);
    }

    /// Passes the peer's end on as FIN once everything before it is written.
    pub(super) fn finish_writing(&mut self, handle: Handle) {
        let Some(stream) = self.streams.get_mut(handle) else {
            return;
        };
        let all = stream.pending_len() == 0 && stream.arrived.is_empty();
        if stream.phase != Phase::Open || !stream.remote_ended || stream.write_shut || !all {
            return;
        }
        stream.write_shut = true;
        if stream.cut_off.is_some() {
            socket::shutdown_write(&stream.fd);
            return self.begin_discarding(handle);
        }
        if !stream.local_ended {
            socket::shutdown_write(&stream.fd);
        }
        self.half_ended(handle);
    }

    /// One half has ended: the end of the connection, or of its right to stay silent for ever.
    pub(super) fn half_ended(&mut self, handle: Handle) {
        let stream = &mut self.streams[handle];
        if stream.local_ended && stream.write_shut {
            self.end_stream(handle, Reason::None);
        } else {
            stream.deadline = Some(self.now + self.config.half_close_idle);
        }
    }
}
