// SPDX-License-Identifier: Apache-2.0
//! Bytes between an application's socket and its stream.

use super::outbox::FillError;
use super::stream::Phase;
use super::token::Token;
use super::tunnel::State;
use super::tunnel_io::{put_control, record_lost};
use super::{Worker, is_hang_up};
use crate::config::{PENDING_SOFT_LIMIT, RECORDS_PER_READ, ROUNDS_PER_WAKE, UNSENT_HIGH};
use crate::slab::Handle;
use hbone_proto::Reason;
use hbone_sys::poll::EventFlags;
use hbone_sys::{Errno, socket};
use std::io::IoSlice;
use std::ops::Range;

/// Pieces that one sendmsg takes; a read of 256 KiB brings some 17.
const SLICES: usize = 64;

/// A read that brought this much is likely followed by more: take several records next time.
const BULK: usize = 32 * 1024;

/// Keep what an application has not taken in one piece; tidy when this much of it is gone.
const TIDY_PENDING: usize = 1 << 20;

enum Pumped {
    /// The socket is drained, or the stream waits for its turn.
    Done,
    More,
    /// The application has sent FIN, and that is on its way.
    Ended,
    AppLost,
    TunnelLost(super::tunnel_io::Lost),
}

impl Worker {
    pub(super) fn stream_event(&mut self, handle: Handle, flags: EventFlags) {
        let Some(stream) = self.streams.get_mut(handle) else {
            return;
        };
        stream.hung_up |= is_hang_up(flags);
        stream.readable |= stream.hung_up || flags.contains(EventFlags::IN);
        stream.writable |= flags.contains(EventFlags::OUT);
        if stream.phase == Phase::Dialling {
            if stream.writable || stream.hung_up {
                self.app_dialled(handle);
            }
        } else if flags.contains(EventFlags::ERR) {
            return self.end_stream(handle, Reason::AppReset);
        }
        self.write_pending(handle);
        self.pump(handle);
    }

    pub(super) fn pump_token(&mut self, token: u64) {
        if let Token::Stream(handle) = Token::decode(token) {
            self.pump(handle);
        }
    }

    /// Reads the application straight to where its bytes get sealed.
    pub(super) fn pump(&mut self, handle: Handle) {
        for _ in 0..ROUNDS_PER_WAKE {
            match self.pump_once(handle) {
                Pumped::Done => return,
                Pumped::More => {}
                Pumped::Ended => return self.half_ended(handle),
                Pumped::AppLost => return self.end_stream(handle, Reason::AppReset),
                Pumped::TunnelLost(lost) => {
                    if let Some((tunnel, _)) = self.streams[handle].carrier {
                        self.close_tunnel(tunnel, lost);
                    }
                    return;
                }
            }
        }
        self.put_off(handle);
    }

    fn put_off(&mut self, handle: Handle) {
        let Some(stream) = self.streams.get(handle) else {
            return;
        };
        let Some((tunnel, key)) = stream.carrier else {
            return;
        };
        let Some(tunnel) = self.tunnels.get_mut(tunnel) else {
            return;
        };
        tunnel.put_off = true;
        if let Some(open) = tunnel.open_mut() {
            open.h2.queue_writable(key);
        }
    }

    fn pump_once(&mut self, handle: Handle) -> Pumped {
        let Some(stream) = self.streams.get_mut(handle) else {
            return Pumped::Done;
        };
        if stream.phase != Phase::Open || stream.local_ended || !stream.readable {
            return Pumped::Done;
        }
        let Some((tunnel_handle, key)) = stream.carrier else {
            return Pumped::Done;
        };
        let Some(tunnel) = self.tunnels.get_mut(tunnel_handle) else {
            return Pumped::Done;
        };
        let State::Open(open) = &mut tunnel.state else {
            return Pumped::Done;
        };
        if tunnel.outbox.unsent() > UNSENT_HIGH || self.buffers.is_exhausted() {
            tunnel.put_off = true;
            open.h2.queue_writable(key);
            return Pumped::Done;
        }
        // At 0 the protocol core remembers the stream until the window opens.
        let records = if stream.bulk { RECORDS_PER_READ } else { 1 };
        let limit = open.h2.capacity(key);
        if limit == 0 {
            return Pumped::Done;
        }
        if let Err(error) = put_control(&mut tunnel.outbox, &mut self.buffers, open) {
            return Pumped::TunnelLost(record_lost(error));
        }
        let h2 = &mut open.h2;
        let filled = tunnel.outbox.fill(
            &mut self.buffers,
            &mut open.session,
            &stream.fd,
            (limit, records),
            |count| {
                h2.data_header(key, count, false)
                    .expect("within the capacity just asked for")
            },
        );
        match filled {
            Ok(filled) if filled.count == 0 => self.send_end(handle),
            Ok(filled) => {
                stream.bytes_sent += filled.count as u64;
                stream.bulk = filled.count == filled.asked || filled.count > BULK;
                if filled.count < filled.asked && !stream.hung_up {
                    stream.readable = false;
                }
                if stream.is_half_closed() {
                    stream.deadline = Some(self.now + self.config.half_close_idle);
                }
                self.mark_dirty(tunnel_handle);
                Pumped::More
            }
            Err(FillError::App(Errno::AGAIN)) => {
                stream.readable = false;
                stream.bulk = false;
                Pumped::Done
            }
            Err(FillError::App(_)) => Pumped::AppLost,
            Err(FillError::Tunnel(error)) => Pumped::TunnelLost(record_lost(error)),
        }
    }

    /// The application's FIN becomes END_STREAM.
    fn send_end(&mut self, handle: Handle) -> Pumped {
        let stream = &mut self.streams[handle];
        stream.readable = false;
        let Some((tunnel_handle, key)) = stream.carrier else {
            return Pumped::Done;
        };
        let tunnel = &mut self.tunnels[tunnel_handle];
        let State::Open(open) = &mut tunnel.state else {
            return Pumped::Done;
        };
        let Ok(header) = open.h2.data_header(key, 0, true) else {
            return Pumped::Done;
        };
        stream.local_ended = true;
        let put = tunnel
            .outbox
            .put(&mut self.buffers, &mut open.session, &header);
        self.mark_dirty(tunnel_handle);
        match put {
            Ok(()) => Pumped::Ended,
            Err(error) => Pumped::TunnelLost(record_lost(error)),
        }
    }

    /// DATA of a stream lies at `range` of the receive buffer until [`Self::deliver`].
    pub(super) fn arrived(&mut self, handle: Handle, range: Range<usize>, end: bool) {
        let Some(stream) = self.streams.get_mut(handle) else {
            return;
        };
        if !range.is_empty() {
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
                self.end_stream(handle, Reason::AppReset);
                continue;
            };
            self.keep_rest(handle, buffer, &arrived, written);
            self.took(handle, written);
            arrived.clear();
            self.streams[handle].arrived = arrived;
            self.finish_writing(handle);
        }
    }

    fn write_slices(
        &mut self,
        handle: Handle,
        buffer: &[u8],
        ranges: &[Range<usize>],
    ) -> Result<usize, Errno> {
        let stream = &mut self.streams[handle];
        let mut written = 0;
        for chunk in ranges.chunks(SLICES) {
            let wanted: usize = chunk.iter().map(Range::len).sum();
            let sent = if let [range] = chunk {
                socket::send(&stream.fd, &buffer[range.clone()])
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                for (slice, range) in slices.iter_mut().zip(chunk) {
                    *slice = IoSlice::new(&buffer[range.clone()]);
                }
                socket::send_vectored(&stream.fd, &slices[..chunk.len()])
            };
            match sent {
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
        if kept == 0 || self.pending_bytes > PENDING_SOFT_LIMIT {
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
                Err(_) => return self.end_stream(handle, Reason::AppReset),
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
        if let Some(open) = self
            .tunnels
            .get_mut(tunnel)
            .and_then(|tunnel| tunnel.open_mut())
        {
            open.h2.consumed(key, count);
        }
        self.mark_dirty(tunnel);
    }

    /// Passes the peer's end on as FIN once everything before it is written.
    pub(super) fn finish_writing(&mut self, handle: Handle) {
        let Some(stream) = self.streams.get_mut(handle) else {
            return;
        };
        let done = stream.phase == Phase::Open && stream.pending_len() == 0;
        if stream.remote_ended && !stream.write_shut && done {
            stream.write_shut = true;
            if !stream.local_ended {
                socket::shutdown_write(&stream.fd);
            }
            self.half_ended(handle);
        }
    }

    /// One half has ended: the end of the connection, or of its right to stay silent for ever.
    fn half_ended(&mut self, handle: Handle) {
        let stream = &mut self.streams[handle];
        if stream.local_ended && stream.write_shut {
            self.end_stream(handle, Reason::None);
        } else {
            stream.deadline = Some(self.now + self.config.half_close_idle);
        }
    }
}
