// SPDX-License-Identifier: Apache-2.0
//! Handshake messages that arrive after the handshake (RFC 8446 section 4.6).

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error};

use crate::error::RecordError;

/// RFC 8446 section 4, `HandshakeType`.
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// Type and 24-bit length.
const MESSAGE_HEADER_LEN: usize = 4;
/// The longest message worth waiting for; a ticket is a few hundred bytes.
const MAX_MESSAGE_LEN: usize = 1 << 14;
/// Records without data at once. rustls (`TemperCounters`) and BoringSSL (`kMaxKeyUpdates`) take 32
/// KeyUpdates; of empty records BoringSSL (`kMaxEmptyRecords`) and OpenSSL (`MAX_EMPTY_RECORDS`) take
/// 32, Go (`maxUselessRecords`) 16.
const MAX_DATALESS_RECORDS: u64 = 32;
/// Data that makes up for one of them. The peers above forgive them all for a single byte, which buys
/// an attacker a new key of ours, and one of his, for every few bytes. A tunnel that carries nothing
/// but keepalive (17 bytes in 10 s) could still change keys every three minutes; nobody does.
const DATA_PER_DATALESS_RECORD: u64 = 256;

/// A `KeyUpdate` message that asks for none in return.
pub(crate) const KEY_UPDATE_MESSAGE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

/// rustls' key schedule of an established connection.
pub(crate) enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Kernel {
    pub(crate) fn next_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), RecordError> {
        match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        }
        .map_err(no_next_key)
    }

    pub(crate) fn next_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), RecordError> {
        match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        }
        .map_err(no_next_key)
    }

    fn is_client(&self) -> bool {
        matches!(self, Self::Client(_))
    }
}

fn no_next_key(_: Error) -> RecordError {
    RecordError::Internal("the next traffic key could not be derived")
}

/// The peer has changed its key; what follows is under the next one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeyUpdated {
    /// It wants us to change ours too.
    pub(crate) requested: bool,
}

/// Puts messages together from records, and counts what a peer may not do for ever.
#[derive(Default)]
pub(crate) struct Inbox {
    partial: Vec<u8>,
    dataless_records: u64,
    /// Data since the last of them.
    data: u64,
}

impl Inbox {
    /// Application data arrived.
    ///
    /// # Errors
    /// RFC 8446 section 5.1: it may not come in the middle of a handshake message. An empty record
    /// counts as one without data.
    #[inline]
    pub(crate) fn data(&mut self, len: usize) -> Result<(), RecordError> {
        if len == 0 {
            self.without_data()?;
        }
        self.data += len as u64;
        self.expect_whole()
    }

    /// Counts a control record, or an empty one of data.
    pub(crate) fn without_data(&mut self) -> Result<(), RecordError> {
        let paid = self.data / DATA_PER_DATALESS_RECORD;
        self.data %= DATA_PER_DATALESS_RECORD;
        self.dataless_records = self.dataless_records.saturating_sub(paid) + 1;
        if self.dataless_records > MAX_DATALESS_RECORDS {
            return Err(RecordError::TooManyControlMessages);
        }
        Ok(())
    }

    /// No message may be half read now.
    #[inline]
    pub(crate) fn expect_whole(&self) -> Result<(), RecordError> {
        if self.partial.is_empty() {
            return Ok(());
        }
        Err(RecordError::Unexpected(
            "another record in the middle of a handshake message",
        ))
    }

    /// Reads the content of a handshake record.
    pub(crate) fn handshake(
        &mut self,
        content: &[u8],
        kernel: &Kernel,
    ) -> Result<Option<KeyUpdated>, RecordError> {
        if content.is_empty() {
            return Err(RecordError::Unexpected("an empty handshake record"));
        }
        self.partial.extend_from_slice(content);
        let mut rest = &self.partial[..];
        let mut update = None;
        while let [typ, a, b, c, body @ ..] = rest {
            let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if len > MAX_MESSAGE_LEN {
                return Err(RecordError::Unexpected("an overlong handshake message"));
            }
            check_type(*typ, kernel)?;
            let Some((body, after)) = body.split_at_checked(len) else {
                break;
            };
            rest = after;
            // Tickets are dropped unread: tunnels are pooled, sessions never resumed.
            if *typ == KEY_UPDATE {
                update = Some(read_key_update(body)?);
                if !rest.is_empty() {
                    return Err(RecordError::Unexpected("a message after a KeyUpdate"));
                }
            }
        }
        let kept = self.partial.len() - rest.len();
        self.partial.drain(..kept);
        debug_assert!(self.partial.len() <= MESSAGE_HEADER_LEN + 2 * MAX_MESSAGE_LEN);
        Ok(update)
    }
}

fn check_type(typ: u8, kernel: &Kernel) -> Result<(), RecordError> {
    match typ {
        KEY_UPDATE => Ok(()),
        NEW_SESSION_TICKET if kernel.is_client() => Ok(()),
        NEW_SESSION_TICKET => Err(RecordError::Unexpected("a session ticket, to a server")),
        _ => Err(RecordError::Unexpected(
            "a handshake message that is not a KeyUpdate or ticket",
        )),
    }
}

fn read_key_update(body: &[u8]) -> Result<KeyUpdated, RecordError> {
    match body {
        [0] => Ok(KeyUpdated { requested: false }),
        [1] => Ok(KeyUpdated { requested: true }),
        _ => Err(RecordError::Undecodable("a KeyUpdate")),
    }
}
