// SPDX-License-Identifier: Apache-2.0
//! Mutual TLS 1.3 for HBONE, without sockets: bytes in, bytes out.
//!
//! ```text
//! Svid ──► Handshake::client / server ──step(input, out)──► … done ──finish()──► Session
//!                        (rustls, SPIFFE verification)            (our in-place record layer)
//! ```
//!
//! An [`Svid`] is built once per identity and rotation; every [`Handshake`] of that identity
//! shares what it prepared. rustls does the handshake; after it, [`Session`] seals and opens
//! records in the caller's own buffers with the keys rustls derived, and keeps rustls' key schedule
//! for `KeyUpdate` (RFC 8446 section 4.6.3).
//!
//! Who may be the peer is decided inside the handshake, before our certificate or any byte of an
//! application is sent: see [`ExpectedPeers`] (client side) and [`Handshake::server`].
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod config;
mod control;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handshake;
mod identity;
mod record;
mod session;
mod usage;
mod verify;

pub use config::{Svid, SvidError};
pub use error::{
    HandshakeError, REASON_PEER_IDENTITY_MISMATCH, REASON_TLS_HANDSHAKE_FAILED,
    REASON_TLS_PROTOCOL_ERROR, REASON_TUNNEL_LOST, RecordError,
};
pub use handshake::{Handshake, Step};
pub use identity::{ExpectedPeers, IdentityError, SpiffeId};
pub use record::{
    HEADER_LEN, MAX_CIPHERTEXT, MAX_PLAINTEXT, OVERHEAD, TRAILER_LEN, record_body_len,
};
pub use rustls::AlertDescription;
pub use session::{Opened, Session};

#[cfg(test)]
extern crate self as hbone_tls;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
