// SPDX-License-Identifier: Apache-2.0
//! TLS 1.3 records (RFC 8446 section 5), sealed and opened where they lie.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ContentType};

use crate::error::RecordError;

/// Bytes of a record before its body.
pub const HEADER_LEN: usize = 5;
/// Bytes of a record after its content: the content type and the AEAD tag.
pub const TRAILER_LEN: usize = 1 + TAG_LEN;
/// What a record costs on top of its content.
pub const OVERHEAD: usize = HEADER_LEN + TRAILER_LEN;
/// The most content of one record (RFC 8446 section 5.1).
pub const MAX_PLAINTEXT: usize = 1 << 14;
/// The longest body of one record (RFC 8446 section 5.2).
pub const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 256;

const TAG_LEN: usize = 16;
const APPLICATION_DATA: u8 = 23;

/// The length of the body that follows this header, so that the caller knows how much to wait for.
///
/// # Errors
/// [`RecordError::Unexpected`] if it is not the header of a protected record, and
/// [`RecordError::TooLong`], before any of the body has arrived.
pub fn record_body_len(header: [u8; HEADER_LEN]) -> Result<usize, RecordError> {
    let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
    match header[0] {
        APPLICATION_DATA if len > MAX_CIPHERTEXT => Err(RecordError::TooLong),
        APPLICATION_DATA => Ok(len),
        20 => Err(RecordError::Unexpected(
            "a ChangeCipherSpec after the handshake",
        )),
        21 => Err(RecordError::Unexpected(
            "an unprotected alert after the handshake",
        )),
        22 => Err(RecordError::Unexpected(
            "an unprotected handshake message after the handshake",
        )),
        _ => Err(RecordError::Unexpected(
            "something that is not a TLS record",
        )),
    }
}

/// One direction's key, nonce base and sequence number.
struct TrafficKey {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl TrafficKey {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => return Err(RecordError::Misuse("a cipher suite other than AES-GCM")),
        };
        let wrong = RecordError::Misuse("a key or IV of the wrong length");
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| wrong)?;
        let iv = iv.as_ref().try_into().map_err(|_| wrong)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv,
            sequence,
        })
    }

    /// RFC 8446 section 5.3: the IV, with the sequence number added to its end by exclusive or.
    #[inline]
    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, part) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= part;
        }
        // Never wraps: the sealer stops at 2^24, and 2^64 records cannot arrive in a lifetime.
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Seals what we send.
pub(crate) struct Sealer {
    key: TrafficKey,
    first: u64,
}

impl Sealer {
    pub(crate) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        let first = secrets.0;
        Ok(Self {
            key: TrafficKey::new(secrets)?,
            first,
        })
    }

    /// Records sealed under this key.
    #[inline]
    pub(crate) fn records(&self) -> u64 {
        self.key.sequence - self.first
    }

    /// Seals `[header 5][content][type 1][tag 16]` in place; header, type and tag are written here.
    #[inline]
    pub(crate) fn seal(&mut self, record: &mut [u8], typ: ContentType) -> Result<(), RecordError> {
        if !(OVERHEAD..=OVERHEAD + MAX_PLAINTEXT).contains(&record.len()) {
            return Err(RecordError::Misuse(
                "a record of fewer than 22 or more than 16406 bytes",
            ));
        }
        let (head, body) = record.split_at_mut(HEADER_LEN);
        let [high, low] = (body.len() as u16).to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        head.copy_from_slice(&header);
        let (inner, tag) = body.split_at_mut(body.len() - TAG_LEN);
        inner[inner.len() - 1] = typ.into();
        let nonce = self.key.next_nonce();
        let sealed = self
            .key
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(header), inner);
        tag.copy_from_slice(sealed.map_err(|_| RecordError::KeyExhausted)?.as_ref());
        Ok(())
    }
}

/// Opens what the peer sent.
pub(crate) struct Opener {
    key: TrafficKey,
}

impl Opener {
    pub(crate) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        Ok(Self {
            key: TrafficKey::new(secrets)?,
        })
    }

    /// Opens a whole body in place: the content is then its first bytes, as many as returned.
    #[inline]
    pub(crate) fn open(
        &mut self,
        header: [u8; HEADER_LEN],
        body: &mut [u8],
    ) -> Result<(ContentType, usize), RecordError> {
        if record_body_len(header)? != body.len() {
            return Err(RecordError::Misuse(
                "a body whose length is not what its header says",
            ));
        }
        let nonce = self.key.next_nonce();
        let inner = self
            .key
            .key
            .open_in_place(nonce, Aad::from(header), body)
            .map_err(|_| RecordError::BadMac)?;
        if inner.len() > MAX_PLAINTEXT + 1 {
            return Err(RecordError::TooLong);
        }
        // RFC 8446 section 5.4: zeros are padding; the last other byte is the content type.
        match inner.iter().rposition(|&byte| byte != 0) {
            Some(end) => Ok((ContentType::from(inner[end]), end)),
            None => Err(RecordError::Unexpected("a record of nothing but padding")),
        }
    }
}

#[cfg(test)]
impl Sealer {
    /// As if so many records had been sealed under this key.
    pub(crate) fn pretend_sealed(&mut self, records: u64) {
        self.key.sequence = self.first + records;
    }

    /// Seals `content` and a zero, however much it is.
    pub(crate) fn seal_unchecked(&mut self, content: &[u8]) -> Vec<u8> {
        let [high, low] = ((content.len() + TRAILER_LEN) as u16).to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        let mut body = [content, &[0]].concat();
        let nonce = self.key.next_nonce();
        self.key
            .key
            .seal_in_place_append_tag(nonce, Aad::from(header), &mut body)
            .unwrap();
        [&header[..], &body].concat()
    }
}
