// SPDX-License-Identifier: Apache-2.0
//! Numbered reasons: why a connection was refused, closed or not captured.
//!
//! The same numbers stand in `mesh/reasons.py`, the source of all of them, and in
//! `bpf/include/mesh_reasons.h`. One number, one meaning, for ever.

use crate::error::{Blame, ConnectionError, ErrorCode};

/// Why a connection ended or was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Reason {
    /// The connection ended in order.
    None = 0,
    /// A DENY AuthorizationPolicy matches. `nodemesh explain` names its rule.
    PolicyDeny = 1,
    /// The policies of this workload have not arrived yet, so nothing may pass (unless its
    /// namespace chose to fail open).
    PolicyUnknown = 2,
    /// NetworkPolicies isolate the pod in this direction, and none of their rules permits this.
    NetworkPolicy = 3,
    /// ALLOW AuthorizationPolicies select the workload, and none of their rules matches.
    NoAllowRule = 4,
    /// PeerAuthentication STRICT: the peer has proven no identity, neither by a certificate nor
    /// by the kernel of this node.
    NotAttested = 5,
    /// A packet of a connection, or an ICMP error, whose beginning the guard has not seen.
    HandshakeUnknown = 6,
    /// The packet's headers contradict themselves or cannot be followed (more than 8 IPv6
    /// extension headers, for instance).
    PacketMalformed = 7,
    /// A packet left the pod without passing its guard: by AF_XDP, by PACKET_QDISC_BYPASS, or
    /// because something in the pod removed the guard.
    NotStamped = 8,
    /// A packet left the pod with a source address that is not the pod's.
    SourceForged = 9,
    /// A connection reached a capture port but the kernel left no flow record for it: nothing
    /// says where it wanted to go, so it is closed. Likely a process that dialled the capture
    /// port itself.
    NoFlowRecord = 10,
    /// Two unread flow records met under one key, so neither can be trusted to belong to this
    /// connection. The client may try again at once.
    FlowRecordPoisoned = 11,
    /// The flow record names a workload that the agent does not know (any more): it was removed
    /// between connect() and accept().
    UpstreamUnknown = 12,
    /// The workload's own certificate has not been issued yet, or has expired and could not be
    /// renewed. See `nodemesh certificates`.
    NoSvid = 13,
    /// The peer's HBONE port 15008 refused or could not be reached. Its agent may be down, or a
    /// NetworkPolicy may be blocking port 15008.
    UpstreamConnectFailed = 14,
    /// The peer's HBONE port 15008 did not answer in time. A NetworkPolicy or firewall may be
    /// dropping port 15008.
    UpstreamConnectTimeout = 15,
    /// The mutual TLS handshake failed: no, expired or foreign certificate, or no common
    /// version (TLS 1.3 is required).
    TlsHandshakeFailed = 16,
    /// The peer proved an identity, but not one that the workload at this address may have.
    PeerIdentityMismatch = 17,
    /// The peer broke HTTP/2 or exceeded a limit; its tunnel was closed.
    H2ProtocolError = 18,
    /// The far agent answered CONNECT with 401: its policy refuses the client.
    ConnectDenied = 19,
    /// The far agent answered CONNECT with 503: the application refused the connection, or the
    /// workload is not (or no longer) there.
    ConnectUnavailable = 20,
    /// The far agent answered CONNECT with another status: it did not accept the request.
    ConnectBadRequest = 21,
    /// The peer reset the stream.
    StreamReset = 22,
    /// The tunnel that carried this stream broke.
    TunnelLost = 23,
    /// The agent is draining and takes no new connections.
    Draining = 24,
    /// One side had closed and the other stayed idle beyond the limit.
    IdleTimeout = 25,
    /// The application in the pod refused or did not answer the dial.
    AppConnectFailed = 26,
    /// The CONNECT authority is malformed or names another address than the one that was
    /// dialled.
    BadAuthority = 27,
    /// The CONNECT authority names no workload of this node.
    UnknownWorkload = 28,
    /// A request on the HBONE port used another method than CONNECT.
    NotConnect = 29,
    /// The service has no healthy endpoint.
    NoEndpoint = 30,
    /// The service address has no such port.
    NoServicePort = 31,
    /// An application tried to bind a port that the mesh reserved in this pod for capture.
    CapturePortReserved = 32,
    /// A packet from outside the pod was addressed to a capture port and was dropped.
    CapturePortFromOutside = 33,
    /// The application reset its connection.
    AppReset = 34,
    /// A limit of the agent (file descriptors, memory, streams) was reached.
    ResourceLimit = 35,
    /// The workload left the mesh or the node.
    WorkloadRemoved = 36,
    /// The pod has no address of the family that this connection needs, so it cannot be
    /// captured.
    NoCaptureAddress = 37,
    /// The peer broke TLS after the handshake (a record that does not decrypt, a message that may
    /// not come, too many control messages); its tunnel was closed.
    TlsProtocolError = 38,
    /// A TCP packet for a workload that is reached through the tunnel only, from something that is
    /// no captured socket: a raw socket, or a process that the connect hook does not see.
    TunnelBypassed = 39,
}

impl Reason {
    /// Every reason, in order of its number.
    pub const ALL: &'static [Self] = &[
        Self::None,
        Self::PolicyDeny,
        Self::PolicyUnknown,
        Self::NetworkPolicy,
        Self::NoAllowRule,
        Self::NotAttested,
        Self::HandshakeUnknown,
        Self::PacketMalformed,
        Self::NotStamped,
        Self::SourceForged,
        Self::NoFlowRecord,
        Self::FlowRecordPoisoned,
        Self::UpstreamUnknown,
        Self::NoSvid,
        Self::UpstreamConnectFailed,
        Self::UpstreamConnectTimeout,
        Self::TlsHandshakeFailed,
        Self::PeerIdentityMismatch,
        Self::H2ProtocolError,
        Self::ConnectDenied,
        Self::ConnectUnavailable,
        Self::ConnectBadRequest,
        Self::StreamReset,
        Self::TunnelLost,
        Self::Draining,
        Self::IdleTimeout,
        Self::AppConnectFailed,
        Self::BadAuthority,
        Self::UnknownWorkload,
        Self::NotConnect,
        Self::NoEndpoint,
        Self::NoServicePort,
        Self::CapturePortReserved,
        Self::CapturePortFromOutside,
        Self::AppReset,
        Self::ResourceLimit,
        Self::WorkloadRemoved,
        Self::NoCaptureAddress,
        Self::TlsProtocolError,
        Self::TunnelBypassed,
    ];

    /// The stable number used in events, logs and metrics.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The stable text form, such as `no-flow-record`.
    pub const fn text(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::PolicyDeny => "policy-deny",
            Self::PolicyUnknown => "policy-unknown",
            Self::NetworkPolicy => "network-policy",
            Self::NoAllowRule => "no-allow-rule",
            Self::NotAttested => "not-attested",
            Self::HandshakeUnknown => "handshake-unknown",
            Self::PacketMalformed => "packet-malformed",
            Self::NotStamped => "not-stamped",
            Self::SourceForged => "source-forged",
            Self::NoFlowRecord => "no-flow-record",
            Self::FlowRecordPoisoned => "flow-record-poisoned",
            Self::UpstreamUnknown => "upstream-unknown",
            Self::NoSvid => "no-svid",
            Self::UpstreamConnectFailed => "upstream-connect-failed",
            Self::UpstreamConnectTimeout => "upstream-connect-timeout",
            Self::TlsHandshakeFailed => "tls-handshake-failed",
            Self::PeerIdentityMismatch => "peer-identity-mismatch",
            Self::H2ProtocolError => "h2-protocol-error",
            Self::ConnectDenied => "connect-denied",
            Self::ConnectUnavailable => "connect-unavailable",
            Self::ConnectBadRequest => "connect-bad-request",
            Self::StreamReset => "stream-reset",
            Self::TunnelLost => "tunnel-lost",
            Self::Draining => "draining",
            Self::IdleTimeout => "idle-timeout",
            Self::AppConnectFailed => "app-connect-failed",
            Self::BadAuthority => "bad-authority",
            Self::UnknownWorkload => "unknown-workload",
            Self::NotConnect => "not-connect",
            Self::NoEndpoint => "no-endpoint",
            Self::NoServicePort => "no-service-port",
            Self::CapturePortReserved => "capture-port-reserved",
            Self::CapturePortFromOutside => "capture-port-from-outside",
            Self::AppReset => "app-reset",
            Self::ResourceLimit => "resource-limit",
            Self::WorkloadRemoved => "workload-removed",
            Self::NoCaptureAddress => "no-capture-address",
            Self::TlsProtocolError => "tls-protocol-error",
            Self::TunnelBypassed => "tunnel-bypassed",
        }
    }

    /// The reason with this number, if there is one.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.number() == number)
    }

    /// What a far agent's answer to CONNECT means. 200 is [`Reason::None`].
    pub const fn from_status(status: u16) -> Self {
        match status {
            200 => Self::None,
            401 | 403 => Self::ConnectDenied,
            503 => Self::ConnectUnavailable,
            _ => Self::ConnectBadRequest,
        }
    }

    /// The status with which a server refuses a CONNECT for this reason, as ztunnel does: 401 for
    /// policy, 400 for what the client got wrong, 503 for the rest.
    pub const fn status(self) -> u16 {
        match self {
            Self::None => 200,
            Self::PolicyDeny
            | Self::PolicyUnknown
            | Self::NetworkPolicy
            | Self::NoAllowRule
            | Self::NotAttested
            | Self::PeerIdentityMismatch => 401,
            Self::NotConnect | Self::BadAuthority => 400,
            _ => 503,
        }
    }

    /// What the peer's RST_STREAM means. NO_ERROR and CANCEL end a stream in order.
    pub const fn from_reset(code: ErrorCode) -> Self {
        match code {
            ErrorCode::NO_ERROR | ErrorCode::CANCEL => Self::None,
            _ => Self::StreamReset,
        }
    }
}

impl From<&ConnectionError> for Reason {
    fn from(error: &ConnectionError) -> Self {
        match error.blame {
            Blame::PeerBroke | Blame::PeerFlooded => Self::H2ProtocolError,
            Blame::Path | Blame::Us => Self::TunnelLost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `    NAME = 7` lines of the enumeration that is the source of all reasons.
    fn source() -> Vec<(String, u32)> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../mesh/reasons.py");
        let text = std::fs::read_to_string(path).expect("mesh/reasons.py");
        let entry = |line: &str| {
            let (name, number) = line.strip_prefix("    ")?.split_once(" = ")?;
            let upper = name
                .bytes()
                .all(|b| matches!(b, b'A'..=b'Z' | b'0'..=b'9' | b'_'));
            let number = number.parse().ok()?;
            upper.then(|| (name.to_lowercase().replace('_', "-"), number))
        };
        text.lines().filter_map(entry).collect()
    }

    #[test]
    fn the_numbers_are_those_of_the_mesh() {
        let ours: Vec<_> = Reason::ALL
            .iter()
            .map(|r| (r.text().to_owned(), r.number()))
            .collect();
        assert_eq!(ours, source());
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason.number()), Some(reason));
        }
        assert_eq!(Reason::from_number(9999), None);
    }

    #[test]
    fn statuses_as_ztunnel_has_them() {
        assert_eq!(Reason::PolicyDeny.status(), 401);
        assert_eq!(Reason::NotConnect.status(), 400);
        assert_eq!(Reason::BadAuthority.status(), 400);
        assert_eq!(Reason::UnknownWorkload.status(), 503);
        assert_eq!(Reason::AppConnectFailed.status(), 503);
        assert_eq!(Reason::from_status(401), Reason::ConnectDenied);
        assert_eq!(Reason::from_status(503), Reason::ConnectUnavailable);
        assert_eq!(Reason::from_status(418), Reason::ConnectBadRequest);
        assert_eq!(Reason::from_status(200), Reason::None);
    }
}
