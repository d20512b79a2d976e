// SPDX-License-Identifier: Apache-2.0
//! An established connection: data in records, and the control messages between them.

use crate::error::RecordError;
use crate::identity::SpiffeId;
use crate::record::HEADER_LEN;

/// What a record was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The first so many bytes of the body are application data (perhaps none).
    Data(usize),
    /// It was for TLS itself. [`Session::pending_out`] may have an answer now.
    Control,
    /// The peer will send no more (`close_notify`). We may still send.
    Close,
}

/// The TLS state of one established connection.
pub struct Session {
    peer: SpiffeId,
}

impl Session {
    /// Who the peer has proved to be.
    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// Seals application data in place: `record` is `[5 bytes][content][17 bytes]`
    /// ([`crate::HEADER_LEN`], [`crate::TRAILER_LEN`]), content at most [`crate::MAX_PLAINTEXT`].
    /// Records must reach the wire in the order in which they were sealed, those of
    /// [`Self::pending_out`] among them.
    ///
    /// # Errors
    /// [`RecordError::KeyExhausted`] if [`Self::pending_out`] was not called for millions of
    /// records; [`RecordError::Misuse`] for a buffer of another shape; [`RecordError::Ended`] after
    /// [`Self::close`] or a fatal error.
    pub fn seal(&mut self, record: &mut [u8]) -> Result<(), RecordError> {
        let _ = record;
        todo!()
    }

    /// Opens a record in place, the body being exactly as long as
    /// [`crate::record_body_len`]`(header)` says.
    ///
    /// # Errors
    /// Every error ends the session; [`Self::pending_out`] then has the alert for the peer.
    pub fn open(
        &mut self,
        header: [u8; HEADER_LEN],
        body: &mut [u8],
    ) -> Result<Opened, RecordError> {
        let _ = (header, body);
        todo!()
    }

    /// A record of TLS's own (a `KeyUpdate`, an alert) to send now, sealed; ask until `None`, before
    /// each flush. Cheap when there is nothing.
    pub fn pending_out(&mut self) -> Option<Vec<u8>> {
        todo!()
    }

    /// Says that we send no more: queues a `close_notify` for [`Self::pending_out`].
    pub fn close(&mut self) {
        todo!()
    }

    /// Sends a `KeyUpdate` after this many records under one key instead of the default, which
    /// stays 10,000 below the 2^24 of RFC 8446 section 5.5.
    pub fn set_records_per_key(&mut self, records: u64) {
        let _ = records;
        todo!()
    }
}
