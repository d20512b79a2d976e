// SPDX-License-Identifier: Apache-2.0
//! Frames that wait to be sent before any further DATA.

use crate::error::{ConnectionError, ErrorCode};
use crate::frame::{self, HEADER_LEN, Header, flag, kind};
use crate::limits::MAX_UNSENT_REPLIES;

/// Debug data of GOAWAY that a peer will log at most.
const NO_DEBUG: &str = "";

#[derive(Debug, Default)]
pub(super) struct Control {
    bytes: Vec<u8>,
    /// Answers the peer made us queue since all was taken the last time.
    replies: u32,
}

impl Control {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn taken(&mut self, n: usize) {
        if n >= self.bytes.len() {
            self.bytes.clear();
            self.replies = 0;
        } else {
            self.bytes.drain(..n);
        }
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn settings(&mut self, payload: &[u8]) {
        frame::put(&mut self.bytes, kind::SETTINGS, 0, 0, payload);
    }

    pub fn settings_ack(&mut self) -> Result<(), ConnectionError> {
        self.reply()?;
        frame::put(&mut self.bytes, kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    pub fn ping(&mut self, payload: [u8; 8]) {
        frame::put(&mut self.bytes, kind::PING, 0, 0, &payload);
    }

    pub fn ping_ack(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        self.reply()?;
        frame::put(&mut self.bytes, kind::PING, flag::ACK, 0, payload);
        Ok(())
    }

    pub fn window_update(&mut self, stream: u32, increment: u32) {
        frame::put(
            &mut self.bytes,
            kind::WINDOW_UPDATE,
            0,
            stream,
            &increment.to_be_bytes(),
        );
    }

    pub fn reset(&mut self, stream: u32, code: ErrorCode) {
        frame::put(
            &mut self.bytes,
            kind::RST_STREAM,
            0,
            stream,
            &code.0.to_be_bytes(),
        );
    }

    pub fn go_away(&mut self, last: u32, code: ErrorCode) {
        self.go_away_because(last, code, NO_DEBUG);
    }

    pub fn go_away_because(&mut self, last: u32, code: ErrorCode, token: &str) {
        let mut payload = Vec::with_capacity(8 + token.len());
        payload.extend_from_slice(&last.to_be_bytes());
        payload.extend_from_slice(&code.0.to_be_bytes());
        payload.extend_from_slice(token.as_bytes());
        frame::put(&mut self.bytes, kind::GOAWAY, 0, 0, &payload);
    }

    /// HEADERS, and CONTINUATION if the block is larger than one frame.
    pub fn headers(&mut self, stream: u32, end: bool, block: &[u8], max_frame: usize) {
        let mut kind = kind::HEADERS;
        let mut flags = if end { flag::END_STREAM } else { 0 };
        let mut rest = block;
        loop {
            let (fragment, more) = rest.split_at(rest.len().min(max_frame));
            if more.is_empty() {
                flags |= flag::END_HEADERS;
            }
            let length = fragment.len() as u32;
            self.bytes.reserve(HEADER_LEN + fragment.len());
            self.bytes.extend_from_slice(
                &Header {
                    length,
                    kind,
                    flags,
                    stream,
                }
                .encode(),
            );
            self.bytes.extend_from_slice(fragment);
            if more.is_empty() {
                return;
            }
            (kind, flags, rest) = (kind::CONTINUATION, 0, more);
        }
    }

    /// Counts an answer that the peer made us queue.
    pub fn reply(&mut self) -> Result<(), ConnectionError> {
        self.replies += 1;
        if self.replies > MAX_UNSENT_REPLIES {
            return Err(ConnectionError::flood("too_many_unsent_replies"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_block_is_continued() {
        let mut control = Control::default();
        control.headers(5, true, &[7; 25], 10);
        let bytes = control.bytes();
        let heads: Vec<Header> = [0, 19, 38]
            .map(|at| Header::decode(bytes[at..].first_chunk().unwrap()))
            .to_vec();
        assert_eq!(heads.iter().map(|h| h.kind).collect::<Vec<_>>(), [1, 9, 9]);
        assert_eq!(heads.iter().map(|h| h.flags).collect::<Vec<_>>(), [1, 0, 4]);
        assert_eq!(
            heads.iter().map(|h| h.length).collect::<Vec<_>>(),
            [10, 10, 5]
        );
        control.taken(19);
        assert_eq!(control.bytes().len(), 33);
    }

    #[test]
    fn replies_are_bounded_until_the_peer_reads() {
        let mut control = Control::default();
        for _ in 0..MAX_UNSENT_REPLIES {
            control.ping_ack(&[0; 8]).unwrap();
        }
        assert_eq!(
            control.settings_ack().unwrap_err().token,
            "too_many_unsent_replies"
        );
        let all = control.bytes().len();
        control.taken(all);
        control.ping_ack(&[0; 8]).unwrap();
    }
}
