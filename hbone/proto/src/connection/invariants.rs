// SPDX-License-Identifier: Apache-2.0
//! What must hold between any two calls, whatever the peer and the caller do.

use crate::settings::DEFAULT_WINDOW;
use crate::stream::Half;

use super::Connection;

impl Connection {
    /// Walks every stream and compares the books: windows, credit and bytes held add up, and the
    /// counters are what they count. For tests, simulations and fuzz targets; nothing calls it on
    /// the byte path. A failed connection has no books to keep.
    ///
    /// # Panics
    /// If anything does not add up: a bug of this crate.
    pub fn assert_invariants(&self) {
        let core = &self.core;
        if core.failed.is_some() {
            return;
        }
        let mut held = 0;
        let mut active = 0;
        for stream in core.streams.iter() {
            assert!(stream.set_aside <= stream.held, "stream {}", stream.id);
            held += i64::from(stream.held - stream.set_aside);
            active += usize::from(!stream.is_closed());
            if stream.recv != Half::Ended {
                let window = stream.recv_window;
                let sum = window.left() + i64::from(window.owed()) + i64::from(stream.held);
                assert_eq!(sum, i64::from(core.stream_window), "stream {}", stream.id);
            }
        }
        let window = core.recv_window;
        assert!(window.left() >= 0);
        let size = i64::from(core.config.connection_window.max(DEFAULT_WINDOW));
        assert_eq!(window.left() + i64::from(window.owed()) + held, size);
        assert_eq!(core.active, active);
        assert!(core.parked.len() <= 2 * core.streams.len() + 65);
    }
}
