// SPDX-License-Identifier: Apache-2.0
//! The handshake, by rustls, one record at a time.

use crate::config::Svid;
use crate::error::HandshakeError;
use crate::identity::ExpectedPeers;
use crate::session::Session;

/// How far a [`Handshake::step`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Drop so many bytes from the front of the input before the next step.
    pub consumed: usize,
    /// The handshake is done: call [`Handshake::finish`]. Input beyond `consumed` is for
    /// [`Session::open`].
    pub done: bool,
}

/// A handshake under way.
pub struct Handshake {}

impl Handshake {
    /// Begins as a client; the first step, with empty input, yields the ClientHello.
    ///
    /// The server must prove one of `expected`: its chain must lead to our roots and *any* of its
    /// URI names be one of them. This is judged before our certificate is sent.
    pub fn client(svid: &Svid, expected: &ExpectedPeers) -> Result<Self, HandshakeError> {
        let _ = (svid, expected);
        todo!()
    }

    /// Begins as a server.
    ///
    /// The client must prove an identity of our own trust domain: its chain must lead to our roots,
    /// and its first URI name that is a SPIFFE ID is who it is.
    pub fn server(svid: &Svid) -> Result<Self, HandshakeError> {
        let _ = svid;
        todo!()
    }

    /// Goes as far as `input`, all that was received and not consumed yet, allows, and appends what
    /// must be sent to `out`. `input` may be decrypted in place: keep its bytes as they are left.
    ///
    /// The input buffer must be able to hold 64 KiB and a record; more than that is never needed.
    ///
    /// # Errors
    /// On any error the handshake is over; `out` then ends with the alert for the peer, if one is
    /// due, and should be sent before closing.
    pub fn step(&mut self, input: &mut [u8], out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        let _ = (input, out);
        todo!()
    }

    /// The established session.
    ///
    /// # Errors
    /// [`HandshakeError::Internal`] if the handshake is not done.
    pub fn finish(self) -> Result<Session, HandshakeError> {
        todo!()
    }
}
