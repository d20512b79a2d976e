// SPDX-License-Identifier: Apache-2.0
//! An SVID, and the rustls configuration prepared from it once.

use std::fmt;

use crate::identity::SpiffeId;

/// A workload's certificate, key and trust bundle, checked and ready for handshakes.
///
/// Cloning is cheap; handshakes and sessions outlive it.
#[derive(Clone)]
pub struct Svid {
    id: SpiffeId,
}

impl Svid {
    /// From DER: the chain leaf first, the key as PKCS#8, the roots of the trust domain.
    ///
    /// # Errors
    /// [`SvidError`] names the field that is wrong.
    pub fn new(
        chain: &[Vec<u8>],
        private_key: &[u8],
        roots: &[Vec<u8>],
    ) -> Result<Self, SvidError> {
        let _ = (chain, private_key, roots);
        todo!()
    }

    /// Whose it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }
}

/// What is wrong with the material of an SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvidError {
    /// `chain[0]`, `private_key`, `roots[2]`, …
    pub field: String,
    /// The problem, as a sentence.
    pub problem: String,
}

impl fmt::Display for SvidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for SvidError {}
