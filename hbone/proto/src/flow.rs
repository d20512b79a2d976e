// SPDX-License-Identifier: Apache-2.0
//! Flow control windows (RFC 9113 section 5.2).

/// The largest window (RFC 9113 section 6.9.1).
pub const MAX_WINDOW: i64 = 0x7fff_ffff;

/// What a window would have become beyond [`MAX_WINDOW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

/// What we may send. Below zero after the peer lowered its initial window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendWindow(i64);

impl SendWindow {
    /// A fresh window.
    pub const fn new(size: u32) -> Self {
        Self(size as i64)
    }

    /// Bytes that may be sent now.
    pub const fn available(self) -> usize {
        if self.0 > 0 { self.0 as usize } else { 0 }
    }

    /// Sent `n` bytes, which must have been available.
    pub fn take(&mut self, n: usize) {
        debug_assert!(n <= self.available());
        self.0 -= n as i64;
    }

    /// The peer gave credit, or changed its initial window by `delta`.
    ///
    /// # Errors
    /// If the window would leave the range; it is left as it was.
    pub fn shift(&mut self, delta: i64) -> Result<(), Overflow> {
        let sum = self.0 + delta;
        if sum > MAX_WINDOW {
            return Err(Overflow);
        }
        self.0 = sum;
        Ok(())
    }
}

/// What the peer may send, and what the app has taken of it but the peer was not told.
///
/// `left + owed + (bytes received and not consumed) == size`, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecvWindow {
    left: i64,
    owed: u32,
    size: u32,
}

impl RecvWindow {
    /// A window of `size` bytes, at most 2^31-1.
    pub const fn new(size: u32) -> Self {
        Self {
            left: size as i64,
            owed: 0,
            size,
        }
    }

    /// The peer sent `n` bytes.
    ///
    /// # Errors
    /// If it may not.
    pub fn charge(&mut self, n: u32) -> Result<(), Overflow> {
        let left = self.left - i64::from(n);
        // An empty frame (the end of a stream) needs no room, also where a lowered size left less
        // than none (RFC 9113 sections 6.9 and 6.9.2).
        if left < 0 && n > 0 {
            return Err(Overflow);
        }
        self.left = left;
        Ok(())
    }

    /// `n` charged bytes are done with. Gives the increment to announce once half a window is owed:
    /// rarely enough to cost nothing, early enough that the sender never waits on a full pipe.
    #[must_use]
    pub fn credit(&mut self, n: u32) -> Option<u32> {
        self.owed = self.owed.saturating_add(n);
        debug_assert!(self.left + i64::from(self.owed) <= i64::from(self.size));
        if self.owed == 0 || self.owed < self.size / 2 {
            return None;
        }
        let owed = self.owed;
        self.left += i64::from(owed);
        self.owed = 0;
        Some(owed)
    }

    /// The peer acknowledged another size. Gives an increment to announce, as [`RecvWindow::credit`].
    #[must_use]
    pub fn resize(&mut self, size: u32) -> Option<u32> {
        self.left += i64::from(size) - i64::from(self.size);
        self.size = size;
        self.credit(0)
    }

    /// Bytes the peer may still send.
    pub const fn left(self) -> i64 {
        self.left
    }

    /// Bytes consumed and not announced.
    pub const fn owed(self) -> u32 {
        self.owed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn send_window_goes_below_zero_and_never_beyond_the_limit() {
        let mut window = SendWindow::new(100);
        window.take(60);
        window.shift(-100).unwrap();
        assert_eq!(window.available(), 0);
        window.shift(61).unwrap();
        assert_eq!(window.available(), 1);
        assert_eq!(window.shift(MAX_WINDOW), Err(Overflow));
        assert_eq!(window.available(), 1);
        window.shift(MAX_WINDOW - 1).unwrap();
    }

    #[test]
    fn credit_comes_at_half_a_window() {
        let mut window = RecvWindow::new(100);
        window.charge(100).unwrap();
        assert_eq!(window.charge(1), Err(Overflow));
        assert_eq!(window.credit(49), None);
        assert_eq!(window.credit(1), Some(50));
        assert_eq!(window.left(), 50);
        assert_eq!(window.credit(49), None);
        assert_eq!(window.owed(), 49);
    }

    #[test]
    fn a_stream_may_end_on_a_window_below_zero() {
        let mut window = RecvWindow::new(100);
        window.charge(60).unwrap();
        assert_eq!(window.resize(10), None);
        assert_eq!(window.left(), -50);
        window.charge(0).unwrap();
        assert_eq!(window.charge(1), Err(Overflow));
    }

    #[test]
    fn a_window_of_one_byte_still_moves() {
        let mut window = RecvWindow::new(1);
        window.charge(1).unwrap();
        assert_eq!(window.credit(0), None);
        assert_eq!(window.credit(1), Some(1));
    }
}
