// SPDX-License-Identifier: Apache-2.0
//! Errors: whose fault, how far they reach, and the stable token that the peer is told.

use std::fmt;

/// An HTTP/2 error code (RFC 9113 section 7). Unknown codes are kept as they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// Graceful end.
    pub const NO_ERROR: Self = Self(0x0);
    /// The peer broke a rule that has no code of its own.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// Our own fault.
    pub const INTERNAL_ERROR: Self = Self(0x2);
    /// A window was overrun or overflowed.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    /// A frame came for a half that had ended.
    pub const STREAM_CLOSED: Self = Self(0x5);
    /// A frame of impossible size.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// The stream was not processed at all: it may be tried again elsewhere.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// The stream is no longer wanted.
    pub const CANCEL: Self = Self(0x8);
    /// HPACK state is lost.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// The TCP connection behind a CONNECT broke.
    pub const CONNECT_ERROR: Self = Self(0xa);
    /// A limit against floods was exceeded.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);

    /// The name in the RFC, or `UNKNOWN`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0x0 => "NO_ERROR",
            0x1 => "PROTOCOL_ERROR",
            0x2 => "INTERNAL_ERROR",
            0x3 => "FLOW_CONTROL_ERROR",
            0x4 => "SETTINGS_TIMEOUT",
            0x5 => "STREAM_CLOSED",
            0x6 => "FRAME_SIZE_ERROR",
            0x7 => "REFUSED_STREAM",
            0x8 => "CANCEL",
            0x9 => "COMPRESSION_ERROR",
            0xa => "CONNECT_ERROR",
            0xb => "ENHANCE_YOUR_CALM",
            0xc => "INADEQUATE_SECURITY",
            0xd => "HTTP_1_1_REQUIRED",
            _ => "UNKNOWN",
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:#x})", self.name(), self.0)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The peer broke the protocol.
    PeerBroke,
    /// The peer stayed within the protocol but beyond one of our limits.
    PeerFlooded,
    /// Nothing was heard for too long: the peer or the path is gone.
    Path,
    /// We were misused or are broken.
    Us,
}

/// The whole connection is lost. Streams that only concern themselves end with
/// [`Event::Reset`](crate::Event::Reset) instead and never become this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionError {
    /// What GOAWAY says.
    pub code: ErrorCode,
    /// Short and stable, for GOAWAY's debug data, logs and metrics: `too_many_resets`.
    pub token: &'static str,
    /// Whose fault it is.
    pub blame: Blame,
}

impl ConnectionError {
    pub(crate) const fn broke(code: ErrorCode, token: &'static str) -> Self {
        Self {
            code,
            token,
            blame: Blame::PeerBroke,
        }
    }

    pub(crate) const fn protocol(token: &'static str) -> Self {
        Self::broke(ErrorCode::PROTOCOL_ERROR, token)
    }

    pub(crate) const fn flood(token: &'static str) -> Self {
        Self {
            code: ErrorCode::ENHANCE_YOUR_CALM,
            token,
            blame: Blame::PeerFlooded,
        }
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.blame {
            Blame::PeerBroke => "the peer broke HTTP/2",
            Blame::PeerFlooded => "the peer exceeded a limit",
            Blame::Path => "the peer or the path to it is gone",
            Blame::Us => "internal error",
        };
        write!(f, "{who}: {} ({})", self.token, self.code)
    }
}

impl std::error::Error for ConnectionError {}

/// Why no stream could be opened on this connection. Another connection may take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// GOAWAY was sent or received, or the connection failed.
    Closing,
    /// The peer's (or our own) limit of concurrent streams is reached.
    Full,
    /// Stream ids are used up (RFC 9113 section 5.1.1): dial a new connection.
    Exhausted,
    /// The header list is larger than the peer takes.
    TooLarge,
    /// Only clients open streams.
    NotClient,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closing => "the tunnel is closing",
            Self::Full => "the tunnel carries as many streams as it may",
            Self::Exhausted => "the tunnel has used up its stream ids",
            Self::TooLarge => "the CONNECT request is larger than the peer accepts",
            Self::NotClient => "only the client side opens streams",
        })
    }
}

impl std::error::Error for OpenError {}

/// Why a frame could not be sent on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// The stream is gone: reset, ended or of a failed connection.
    Gone,
    /// A server must answer the CONNECT first, and may do so once.
    NotNow,
    /// More bytes than [`Connection::capacity`](crate::Connection::capacity) said.
    NoCapacity,
    /// An empty DATA frame that does not end the stream. Peers close the tunnel after some of them.
    Empty,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the stream is gone",
            Self::NotNow => "the stream does not allow this now",
            Self::NoCapacity => "more bytes than the windows allow",
            Self::Empty => "an empty frame that ends nothing",
        })
    }
}

impl std::error::Error for SendError {}
