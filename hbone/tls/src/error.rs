// SPDX-License-Identifier: Apache-2.0
//! What can go wrong with a peer, as sentences for the person on call and stable tokens for
//! metrics.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use crate::identity::IdentityError;

/// Reason 16 of the mesh's numbered reasons.
pub const REASON_TLS_HANDSHAKE_FAILED: u16 = 16;
/// Reason 17 of the mesh's numbered reasons.
pub const REASON_PEER_IDENTITY_MISMATCH: u16 = 17;
/// Reason 23 of the mesh's numbered reasons.
pub const REASON_TUNNEL_LOST: u16 = 23;
/// Reason 38 of the mesh's numbered reasons.
pub const REASON_TLS_PROTOCOL_ERROR: u16 = 38;

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer sent no certificate.
    NoCertificate,
    /// The peer's chain leads to none of our roots.
    UnknownIssuer,
    /// The peer's certificate, or one it chains through, ended this many seconds ago.
    Expired(u64),
    /// The peer's certificate, or one it chains through, begins in this many seconds.
    NotYetValid(u64),
    /// The peer's certificate is malformed or may not be used so, or its proof of the key is wrong.
    BadCertificate(String),
    /// The chain is good, but not the identity in it.
    Identity(IdentityError),
    /// The peer did not agree on HTTP/2 by ALPN.
    NoAlpn,
    /// The peer does not speak TLS 1.3.
    TlsVersion,
    /// No cipher suite, group or signature scheme in common.
    NothingInCommon(String),
    /// The peer ended the handshake with this alert.
    Alert(AlertDescription),
    /// What arrived is not TLS.
    NotTls,
    /// It is TLS, but breaks its rules.
    Malformed(String),
    /// The failure is ours: no entropy, no clock, or a bug.
    Internal(String),
}

impl HandshakeError {
    /// A short stable name for metrics and logs.
    pub fn token(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::UnknownIssuer => "unknown-issuer",
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) => "not-yet-valid",
            Self::BadCertificate(_) => "bad-certificate",
            Self::Identity(IdentityError::WrongTrustDomain { .. }) => "wrong-trust-domain",
            Self::Identity(IdentityError::Unexpected { .. }) => "identity-mismatch",
            Self::Identity(IdentityError::SeveralUriNames(_)) => "several-identities",
            Self::Identity(_) => "no-identity",
            Self::NoAlpn => "no-alpn",
            Self::TlsVersion => "tls-version",
            Self::NothingInCommon(_) => "nothing-in-common",
            Self::Alert(_) => "alert",
            Self::NotTls => "not-tls",
            Self::Malformed(_) => "malformed",
            Self::Internal(_) => "internal",
        }
    }

    /// The numbered reason of the mesh: [`REASON_PEER_IDENTITY_MISMATCH`] if the peer proved an
    /// identity that is not acceptable, else [`REASON_TLS_HANDSHAKE_FAILED`].
    pub fn reason(&self) -> u16 {
        match self {
            Self::Identity(
                IdentityError::WrongTrustDomain { .. } | IdentityError::Unexpected { .. },
            ) => REASON_PEER_IDENTITY_MISMATCH,
            _ => REASON_TLS_HANDSHAKE_FAILED,
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str(
                "the peer sent no certificate; HBONE is mutual TLS, so it is likely no mesh agent",
            ),
            Self::UnknownIssuer => f.write_str(
                "the peer's certificate was not issued by any of our roots; it may be of another \
                 mesh, or the trust bundle here or there may be out of date",
            ),
            Self::Expired(seconds) => write!(
                f,
                "the peer's certificate expired {seconds} s ago; its agent could not renew it, or \
                 the clocks of the nodes differ"
            ),
            Self::NotYetValid(seconds) => write!(
                f,
                "the peer's certificate becomes valid only in {seconds} s; the clocks of the nodes \
                 differ"
            ),
            Self::BadCertificate(why) => write!(f, "the peer's certificate is refused: {why}"),
            Self::Identity(why) => write!(f, "the peer's identity is refused: {why}"),
            Self::NoAlpn => f.write_str(
                "the peer did not agree on HTTP/2 (ALPN h2), so it does not speak HBONE",
            ),
            Self::TlsVersion => {
                f.write_str("the peer does not speak TLS 1.3, which HBONE requires")
            }
            Self::NothingInCommon(why) => {
                write!(
                    f,
                    "the peer and we have no TLS parameters in common ({why})"
                )
            }
            Self::Alert(alert) => write!(
                f,
                "the peer ended the handshake: {}{}",
                alert_name(*alert),
                alert_hint(*alert)
            ),
            Self::NotTls => f.write_str(
                "what arrived is not TLS; something that speaks plaintext dialled the HBONE port",
            ),
            Self::Malformed(why) => write!(f, "the peer broke the TLS protocol: {why}"),
            Self::Internal(why) => write!(f, "TLS failed on our side: {why}"),
        }
    }
}

impl std::error::Error for HandshakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Identity(why) => Some(why),
            _ => None,
        }
    }
}

impl From<IdentityError> for HandshakeError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::BadCertificate(why) => Self::BadCertificate(why),
            other => Self::Identity(other),
        }
    }
}

impl From<Error> for HandshakeError {
    fn from(error: Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(why) => from_certificate_error(why),
            Error::NoApplicationProtocol => Self::NoAlpn,
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::NoAlpn,
            Error::AlertReceived(AlertDescription::ProtocolVersion) => Self::TlsVersion,
            Error::AlertReceived(alert) => Self::Alert(alert),
            Error::PeerIncompatible(why) => from_incompatible(why),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls,
            Error::FailedToGetCurrentTime
            | Error::FailedToGetRandomBytes
            | Error::General(_)
            | Error::EncryptError
            | Error::HandshakeNotComplete
            | Error::InconsistentKeys(_)
            | Error::BadMaxFragmentSize => Self::Internal(error.to_string()),
            other => Self::Malformed(other.to_string()),
        }
    }
}

fn from_incompatible(why: PeerIncompatible) -> HandshakeError {
    match why {
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::Tls13RequiredForQuic
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired => HandshakeError::TlsVersion,
        other => HandshakeError::NothingInCommon(format!("{other:?}")),
    }
}

fn from_certificate_error(why: CertificateError) -> HandshakeError {
    match why {
        CertificateError::UnknownIssuer => HandshakeError::UnknownIssuer,
        CertificateError::Expired => HandshakeError::Expired(0),
        CertificateError::ExpiredContext { time, not_after } => {
            HandshakeError::Expired(time.as_secs().saturating_sub(not_after.as_secs()))
        }
        CertificateError::NotValidYet => HandshakeError::NotYetValid(0),
        CertificateError::NotValidYetContext { time, not_before } => {
            HandshakeError::NotYetValid(not_before.as_secs().saturating_sub(time.as_secs()))
        }
        CertificateError::Other(ref inner) => match inner.0.downcast_ref::<IdentityError>() {
            Some(identity) => identity.clone().into(),
            None => HandshakeError::BadCertificate(inner.0.to_string()),
        },
        other => HandshakeError::BadCertificate(other.to_string()),
    }
}

/// Why a record was refused after the handshake. Every one of these ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// The record is longer than RFC 8446 section 5 allows.
    TooLong,
    /// It does not decrypt: damaged, forged, or out of order.
    BadMac,
    /// A record or message that is not allowed here.
    Unexpected(&'static str),
    /// A message that cannot be decoded.
    Undecodable(&'static str),
    /// More control messages and empty records without data than a sane peer sends.
    TooManyControlMessages,
    /// The peer ended the connection with this alert.
    Alert(AlertDescription),
    /// This many records were sealed under one key without a `KeyUpdate` having been sent.
    KeyExhausted,
    /// The caller's buffer does not have the shape that the call asks for.
    Misuse(&'static str),
    /// The failure is ours.
    Internal(&'static str),
    /// An earlier record already ended the connection.
    Ended,
}

impl RecordError {
    /// A short stable name for metrics and logs.
    pub fn token(&self) -> &'static str {
        match self {
            Self::TooLong => "record-too-long",
            Self::BadMac => "bad-mac",
            Self::Unexpected(_) => "unexpected-message",
            Self::Undecodable(_) => "undecodable",
            Self::TooManyControlMessages => "too-many-control-messages",
            Self::Alert(_) => "alert",
            Self::KeyExhausted => "key-exhausted",
            Self::Misuse(_) => "misuse",
            Self::Internal(_) => "internal",
            Self::Ended => "ended",
        }
    }

    /// Whether the peer refuses *us*: in TLS 1.3 a server judges the client's certificate after the
    /// client holds the handshake for done, so the refusal arrives as an alert on the session.
    pub fn is_refusal_of_our_certificate(&self) -> bool {
        matches!(self, Self::Alert(alert) if !alert_hint(*alert).is_empty())
    }

    /// The numbered reason of the mesh: [`REASON_TLS_PROTOCOL_ERROR`] if the peer, or something on
    /// the way, broke a rule; [`REASON_TUNNEL_LOST`] if it said goodbye or the failure is ours.
    pub fn reason(self) -> u16 {
        match self {
            Self::TooLong
            | Self::BadMac
            | Self::Unexpected(_)
            | Self::Undecodable(_)
            | Self::TooManyControlMessages => REASON_TLS_PROTOCOL_ERROR,
            Self::KeyExhausted
            | Self::Alert(_)
            | Self::Misuse(_)
            | Self::Internal(_)
            | Self::Ended => REASON_TUNNEL_LOST,
        }
    }

    /// What to tell the peer, if anything.
    pub(crate) fn alert(self) -> Option<AlertDescription> {
        match self {
            Self::TooLong => Some(AlertDescription::RecordOverflow),
            Self::BadMac => Some(AlertDescription::BadRecordMac),
            Self::Unexpected(_) | Self::TooManyControlMessages => {
                Some(AlertDescription::UnexpectedMessage)
            }
            Self::Undecodable(_) => Some(AlertDescription::DecodeError),
            Self::KeyExhausted | Self::Internal(_) => Some(AlertDescription::InternalError),
            Self::Alert(_) | Self::Misuse(_) | Self::Ended => None,
        }
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("a TLS record is longer than the protocol allows"),
            Self::BadMac => f.write_str(
                "a TLS record does not decrypt: it was damaged or forged on the way, or the \
                 peer lost count",
            ),
            Self::Unexpected(what) => write!(f, "the peer sent {what}, which is not allowed here"),
            Self::Undecodable(what) => write!(f, "the peer sent {what} that cannot be decoded"),
            Self::TooManyControlMessages => {
                f.write_str("the peer sent too many TLS control messages, or empty records, with too little data between")
            }
            Self::Alert(alert) => {
                write!(
                    f,
                    "the peer ended TLS: {}{}",
                    alert_name(*alert),
                    alert_hint(*alert)
                )
            }
            Self::KeyExhausted => {
                f.write_str("the key has sealed all it may, and no KeyUpdate was sent in time")
            }
            Self::Misuse(what) => write!(f, "the TLS record layer was called wrongly: {what}"),
            Self::Internal(what) => write!(f, "TLS failed on our side: {what}"),
            Self::Ended => f.write_str("the TLS session had ended before"),
        }
    }
}

impl std::error::Error for RecordError {}

fn alert_name(alert: AlertDescription) -> String {
    alert
        .as_str()
        .map_or_else(|| format!("alert {}", u8::from(alert)), str::to_owned)
}

/// The likely cause, for the alerts that speak of our certificate.
fn alert_hint(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnknownCA => {
            "; it does not trust the issuer of our certificate: its trust bundle may be out of date"
        }
        AlertDescription::CertificateExpired => {
            "; it holds our certificate for expired or not yet valid: the clocks may differ"
        }
        AlertDescription::CertificateRequired
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => "; it refuses our certificate or the identity in it",
        _ => "",
    }
}
