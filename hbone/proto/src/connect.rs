// SPDX-License-Identifier: Apache-2.0
//! The CONNECT request and its answer, as HBONE words them.

use std::net::SocketAddr;

/// The target of a CONNECT: `:authority`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authority {
    /// `10.1.2.3:80` or `[fd00::1]:80`.
    Address(SocketAddr),
    /// `name.ns.svc.cluster.local:80`, lower case.
    Host {
        /// The host name.
        host: Box<str>,
        /// The port.
        port: u16,
    },
}

/// What `forwarded` (RFC 7239) may tell: both parts are optional.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forwarded {
    /// `for=`: the client's address. A claim, never used for policy.
    pub source: Option<SocketAddr>,
    /// `host=`: the service that the client dialled.
    pub host: Option<Box<str>>,
}

/// W3C Trace Context, version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Not zero.
    pub trace_id: u128,
    /// Not zero.
    pub parent_id: u64,
    /// Bit 0: sampled.
    pub flags: u8,
}

/// A CONNECT request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Where to.
    pub authority: Authority,
    /// The source workload's attributes (W3C Baggage), a claim for telemetry only.
    pub baggage: Option<Box<str>>,
    /// Client address and service.
    pub forwarded: Forwarded,
    /// The trace this connection belongs to.
    pub traceparent: Option<TraceParent>,
}

/// The answer to a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectResponse {
    /// 200: the stream is the connection from now on. Anything else: refused.
    pub status: u16,
    /// The destination workload's attributes.
    pub baggage: Option<Box<str>>,
}
