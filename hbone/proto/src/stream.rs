// SPDX-License-Identifier: Apache-2.0
//! One stream: its two halves, windows and the caller's mark.

use crate::flow::{RecvWindow, SendWindow};

/// Names one stream of one connection. It holds the place in a slab and the stream id (ids are never
/// used twice), so that a key kept too long never names the stream that took the place later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamKey {
    pub(crate) index: u32,
    pub(crate) id: u32,
}

impl StreamKey {
    /// The HTTP/2 stream id, for logs.
    pub const fn id(self) -> u32 {
        self.id
    }
}

/// One direction of a stream.
///
/// ```text
///            headers            END_STREAM
///  Expecting ───────▶ Flowing ────────────▶ Ended
///       └───────────── END_STREAM ────────────▲
/// ```
///
/// RFC 9113 section 5.1 names the pairs: open is (Flowing, Flowing), half-closed has one half Ended,
/// closed is (Ended, Ended). A reset removes the stream, so it is no state. Expecting is the half that
/// answers before it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    Expecting,
    Flowing,
    Ended,
}

/// Whether a stream waits for room to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parked {
    /// It is not waiting.
    No,
    /// Its own window is shut: wait for its WINDOW_UPDATE.
    Shut,
    /// It is in the connection's queue.
    Queued,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub id: u32,
    pub user: u64,
    pub send: Half,
    pub recv: Half,
    pub send_window: SendWindow,
    pub recv_window: RecvWindow,
    /// Bytes charged to the windows and not consumed by the app.
    pub held: u32,
    /// Those of `held` that the connection's window has back already.
    pub set_aside: u32,
    pub parked: Parked,
}

impl Stream {
    /// A client's stream whose HEADERS are queued.
    pub fn requested(id: u32, user: u64, send_window: u32, recv_window: u32) -> Self {
        Self::new(
            id,
            user,
            (Half::Flowing, Half::Expecting),
            send_window,
            recv_window,
        )
    }

    /// A server's stream whose HEADERS came.
    pub fn arrived(id: u32, end: bool, send_window: u32, recv_window: u32) -> Self {
        let recv = if end { Half::Ended } else { Half::Flowing };
        Self::new(id, 0, (Half::Expecting, recv), send_window, recv_window)
    }

    fn new(id: u32, user: u64, halves: (Half, Half), send_window: u32, recv_window: u32) -> Self {
        Self {
            id,
            user,
            send: halves.0,
            recv: halves.1,
            send_window: SendWindow::new(send_window),
            recv_window: RecvWindow::new(recv_window),
            held: 0,
            set_aside: 0,
            parked: Parked::No,
        }
    }

    /// Both halves have ended: the stream counts for nobody's limit.
    pub fn is_closed(&self) -> bool {
        self.send == Half::Ended && self.recv == Half::Ended
    }

    /// DATA may be sent, windows permitting.
    pub fn may_send(&self) -> bool {
        self.send == Half::Flowing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Slab;

    #[test]
    fn an_old_key_never_names_a_new_stream() {
        let mut slab = Slab::default();
        let old = slab.insert(Stream::arrived(1, false, 10, 10));
        assert_eq!(slab.find(1), Some(old));
        assert!(slab.remove(old).is_some());
        assert_eq!(slab.find(1), None);
        let new = slab.insert(Stream::arrived(3, false, 10, 10));
        assert_eq!(old.index, new.index);
        assert!(slab.get(old).is_none());
        assert!(slab.get_mut(old).is_none());
        assert!(slab.remove(old).is_none());
        assert_eq!(slab.find(3), Some(new));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn halves() {
        let client = Stream::requested(1, 7, 10, 10);
        assert!(client.may_send() && !client.is_closed());
        let mut server = Stream::arrived(1, true, 10, 10);
        assert!(!server.may_send() && !server.is_closed());
        server.send = Half::Ended;
        assert!(server.is_closed());
    }
}
