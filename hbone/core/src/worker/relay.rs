// SPDX-License-Identifier: Apache-2.0
//! Bytes from an application's socket into its stream.

use super::outbox::{FillError, Filled};
use super::stream::Phase;
use super::token::Token;
use super::tunnel::State;
use super::tunnel_io::{put_control, record_lost};
use super::{Worker, is_hang_up};
use crate::config::{RECORDS_PER_READ, ROUNDS_PER_WAKE, UNSENT_HIGH};
use crate::slab::Handle;
use hbone_proto::{Reason, StreamKey};
use hbone_sys::Errno;
use hbone_sys::poll::EventFlags;

/// A read that brought this much is likely followed by more: take several records next time.
const BULK: usize = 32 * 1024;

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
            return self.app_lost(handle);
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
        if let Some(stream) = self.streams.get(handle)
            && stream.cut_off.is_some()
            && stream.write_shut
        {
            return self.discard(handle);
        }
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
        let Some((tunnel_handle, key)) = self.may_pump(handle) else {
            return Pumped::Done;
        };
        let (Some(stream), Some(tunnel)) = (
            self.streams.get_mut(handle),
            self.tunnels.get_mut(tunnel_handle),
        ) else {
            return Pumped::Done;
        };
        let State::Open(open) = &mut tunnel.state else {
            return Pumped::Done;
        };
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
        self.after_fill(handle, filled)
    }

    /// Whether the application has something that its tunnel has room for; if only the room is
    /// missing, the stream waits for its turn.
    fn may_pump(&mut self, handle: Handle) -> Option<(Handle, StreamKey)> {
        let stream = self.streams.get(handle)?;
        if stream.phase != Phase::Open || stream.local_ended || !stream.readable {
            return None;
        }
        let carrier = stream.carrier?;
        let tunnel = self.tunnels.get(carrier.0)?;
        if tunnel.outbox.unsent() > UNSENT_HIGH || self.must_wait(tunnel) {
            self.put_off(handle);
            return None;
        }
        Some(carrier)
    }

    fn after_fill(&mut self, handle: Handle, filled: Result<Filled, FillError>) -> Pumped {
        let Some(stream) = self.streams.get_mut(handle) else {
            return Pumped::Done;
        };
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
                if let Some((tunnel, _)) = stream.carrier {
                    self.mark_dirty(tunnel);
                }
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
        if stream.doomed.is_some() {
            // After an error the socket reads as ended; that is no FIN.
            return Pumped::Done;
        }
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
}
