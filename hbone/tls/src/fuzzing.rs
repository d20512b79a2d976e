// SPDX-License-Identifier: Apache-2.0
//! Doors for fuzz targets to what lies behind the cryptography.

use rustls::ContentType;
use rustls::pki_types::CertificateDer;

use crate::control::KEY_UPDATE_MESSAGE;
use crate::error::RecordError;
use crate::identity::{ExpectedPeers, IdentityError, SpiffeId, spiffe_id, uri_names};
use crate::session::Session;

/// Seals a record of any content type, as a hostile peer with the right keys would.
///
/// # Errors
/// As [`Session::seal`].
pub fn seal_as(session: &mut Session, typ: u8, content: &[u8]) -> Result<Vec<u8>, RecordError> {
    session.seal_control(ContentType::from(typ), content)
}

/// Changes the session's own key now, and asks the peer to change its own if `requested`.
///
/// # Errors
/// As [`Session::seal`].
pub fn seal_key_update(session: &mut Session, requested: bool) -> Result<Vec<u8>, RecordError> {
    let [typ, a, b, c, _] = KEY_UPDATE_MESSAGE;
    session.seal_key_update([typ, a, b, c, u8::from(requested)])
}

/// Every URI name of a DER certificate.
///
/// # Errors
/// If it cannot be read.
pub fn uris(der: &[u8]) -> Result<Vec<String>, IdentityError> {
    uri_names(&CertificateDer::from(der))
}

/// Whether the key usage of a DER certificate lets it be one end of a connection.
pub fn allows_tls(der: &[u8]) -> bool {
    crate::usage::allows_tls(der)
}

/// The identity a DER certificate proves to a server.
///
/// # Errors
/// If it proves none.
pub fn identity(der: &[u8]) -> Result<SpiffeId, IdentityError> {
    spiffe_id(&CertificateDer::from(der))
}

/// The identity among `expected` that a DER certificate proves to a client.
///
/// # Errors
/// If it proves none of them.
pub fn find(expected: &ExpectedPeers, der: &[u8]) -> Result<SpiffeId, IdentityError> {
    expected.find(&CertificateDer::from(der))
}
