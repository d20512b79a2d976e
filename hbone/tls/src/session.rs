// SPDX-License-Identifier: Apache-2.0
//! An established connection: data in records, and the control messages between them.

use std::fmt;

use rustls::{AlertDescription, ContentType, ExtractedSecrets};

use crate::control::{Inbox, KEY_UPDATE_MESSAGE, Kernel};
use crate::error::RecordError;
use crate::identity::SpiffeId;
use crate::record::{HEADER_LEN, OVERHEAD, Opener, Sealer, record_body_len};

/// RFC 8446 section 5.5: 2^24.5 full records of AES-GCM under one key; rustls stops at 2^24.
const MAX_RECORDS_PER_KEY: u64 = 1 << 24;
/// How far before that limit a `KeyUpdate` goes out: room for whatever is sealed in one go.
const KEY_UPDATE_MARGIN: u64 = 10_000;

/// What a record was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The first so many bytes of the body are application data (perhaps none).
    Data(usize),
    /// It was for TLS itself. [`Session::pending_out`] may have an answer now.
    Control,
    /// The peer will send no more (`close_notify`); anything after it is ignored. We may still send.
    Close,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Receiving {
    Open,
    Closed,
    Failed,
}

/// The TLS state of one established connection.
pub struct Session {
    sealer: Sealer,
    opener: Opener,
    kernel: Kernel,
    inbox: Inbox,
    peer: SpiffeId,
    records_per_key: u64,
    receiving: Receiving,
    /// Set once nothing but the pending alert may be sent any more.
    send_ended: bool,
    key_update_due: bool,
    alert: Option<AlertDescription>,
}

impl Session {
    pub(crate) fn new(
        secrets: ExtractedSecrets,
        kernel: Kernel,
        peer: SpiffeId,
    ) -> Result<Self, RecordError> {
        Ok(Self {
            sealer: Sealer::new(secrets.tx)?,
            opener: Opener::new(secrets.rx)?,
            kernel,
            inbox: Inbox::default(),
            peer,
            records_per_key: MAX_RECORDS_PER_KEY - KEY_UPDATE_MARGIN,
            receiving: Receiving::Open,
            send_ended: false,
            key_update_due: false,
            alert: None,
        })
    }

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
    #[inline]
    pub fn seal(&mut self, record: &mut [u8]) -> Result<(), RecordError> {
        if self.send_ended {
            return Err(RecordError::Ended);
        }
        if self.sealer.records() >= MAX_RECORDS_PER_KEY {
            return Err(RecordError::KeyExhausted);
        }
        self.sealer.seal(record, ContentType::ApplicationData)
    }

    /// [`crate::record_body_len`] of a header that has arrived; what it refuses ends the session.
    ///
    /// # Errors
    /// As [`Self::open`].
    #[inline]
    pub fn body_len(&mut self, header: [u8; HEADER_LEN]) -> Result<usize, RecordError> {
        record_body_len(header).inspect_err(|&error| self.fail(error))
    }

    /// Opens a record in place, the body being exactly as long as
    /// [`crate::record_body_len`]`(header)` says.
    ///
    /// # Errors
    /// Every error ends the session; [`Self::pending_out`] then has the alert for the peer.
    #[inline]
    pub fn open(
        &mut self,
        header: [u8; HEADER_LEN],
        body: &mut [u8],
    ) -> Result<Opened, RecordError> {
        match self.receiving {
            Receiving::Open => {}
            // RFC 8446 section 6.1: data after a closure alert is ignored.
            Receiving::Closed => return Ok(Opened::Close),
            Receiving::Failed => return Err(RecordError::Ended),
        }
        let result = self
            .opener
            .open(header, body)
            .and_then(|opened| match opened {
                (ContentType::ApplicationData, len) => {
                    self.inbox.data(len).map(|()| Opened::Data(len))
                }
                (typ, len) => self.control(typ, &body[..len]),
            });
        if let Err(error) = result {
            self.fail(error);
        }
        result
    }

    /// A record of TLS's own (a `KeyUpdate`, an alert) to send now, sealed; ask until `None`, before
    /// each flush. Cheap when there is nothing.
    #[inline]
    pub fn pending_out(&mut self) -> Option<Vec<u8>> {
        if self.alert.is_none() && !self.key_update_due && !self.key_is_worn() {
            return None;
        }
        self.next_control_record()
    }

    /// Says that we send no more: queues a `close_notify` for [`Self::pending_out`].
    pub fn close(&mut self) {
        if !self.send_ended {
            self.alert = Some(AlertDescription::CloseNotify);
            self.send_ended = true;
        }
    }

    /// Sends a `KeyUpdate` after this many records under one key (at least 1) instead of the
    /// default, which stays 10,000 below the 2^24 that RFC 8446 section 5.5 leaves AES-GCM.
    pub fn set_records_per_key(&mut self, records: u64) {
        self.records_per_key = records.clamp(1, MAX_RECORDS_PER_KEY - KEY_UPDATE_MARGIN);
    }

    /// An error has ended the session: nothing but its alert may be sent any more.
    pub fn has_failed(&self) -> bool {
        self.receiving == Receiving::Failed
    }

    /// Ends the session with a fatal alert of the caller's choice.
    pub(crate) fn abort(&mut self, alert: AlertDescription) {
        if !self.send_ended {
            self.alert = Some(alert);
        }
        self.send_ended = true;
        self.receiving = Receiving::Failed;
    }

    fn key_is_worn(&self) -> bool {
        self.sealer.records() >= self.records_per_key && !self.send_ended
    }

    fn control(&mut self, typ: ContentType, content: &[u8]) -> Result<Opened, RecordError> {
        self.inbox.without_data()?;
        match typ {
            ContentType::Handshake => {
                if let Some(update) = self.inbox.handshake(content, &self.kernel)? {
                    self.opener = Opener::new(self.kernel.next_rx()?)?;
                    // Several requests may be answered at once (RFC 8446 section 4.6.3).
                    self.key_update_due |= update.requested && !self.send_ended;
                }
                Ok(Opened::Control)
            }
            ContentType::Alert => {
                self.inbox.expect_whole()?;
                self.read_alert(content)
            }
            ContentType::ChangeCipherSpec => {
                Err(RecordError::Unexpected("a protected ChangeCipherSpec"))
            }
            _ => Err(RecordError::Unexpected("a record of unknown content type")),
        }
    }

    /// RFC 8446 section 6: the level says nothing; all but two alerts are fatal.
    fn read_alert(&mut self, content: &[u8]) -> Result<Opened, RecordError> {
        let &[_level, description] = content else {
            return Err(RecordError::Undecodable("an alert"));
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => {
                self.receiving = Receiving::Closed;
                Ok(Opened::Close)
            }
            AlertDescription::UserCanceled => Ok(Opened::Control),
            alert => Err(RecordError::Alert(alert)),
        }
    }

    fn fail(&mut self, error: RecordError) {
        self.receiving = Receiving::Failed;
        if !self.send_ended {
            self.alert = error.alert();
        }
        self.send_ended = true;
        self.key_update_due = false;
    }

    fn next_control_record(&mut self) -> Option<Vec<u8>> {
        if let Some(alert) = self.alert.take() {
            self.key_update_due = false;
            let level = if alert == AlertDescription::CloseNotify {
                1
            } else {
                2
            };
            return self
                .seal_control(ContentType::Alert, &[level, alert.into()])
                .ok();
        }
        // Sealed under the old key here, so that it stands in the right place among the records
        // sealed before and after, however late the caller asks.
        self.key_update_due = false;
        let record = self.seal_key_update(KEY_UPDATE_MESSAGE);
        record.inspect_err(|&error| self.fail(error)).ok()
    }

    /// The last record under the old key; what is sealed next is under the new one.
    pub(crate) fn seal_key_update(&mut self, message: [u8; 5]) -> Result<Vec<u8>, RecordError> {
        let record = self.seal_control(ContentType::Handshake, &message)?;
        self.sealer = Sealer::new(self.kernel.next_tx()?)?;
        Ok(record)
    }

    pub(crate) fn seal_control(
        &mut self,
        typ: ContentType,
        content: &[u8],
    ) -> Result<Vec<u8>, RecordError> {
        let mut record = vec![0; OVERHEAD + content.len()];
        record[HEADER_LEN..HEADER_LEN + content.len()].copy_from_slice(content);
        self.sealer.seal(&mut record, typ)?;
        Ok(record)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
