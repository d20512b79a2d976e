// SPDX-License-Identifier: Apache-2.0
//! The CONNECT request and its answer, as HBONE words them.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::hpack::Encoder;

mod fields;
mod forwarded;
mod trace;

pub(crate) use fields::{Refusal, RequestFields, ResponseFields};
pub use forwarded::Forwarded;
pub use trace::TraceParent;

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

impl Authority {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

/// The text is neither `ip:port`, `[ip]:port` nor `host:port`, or the port is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidAuthority;

impl FromStr for Authority {
    type Err = InvalidAuthority;

    fn from_str(text: &str) -> Result<Self, InvalidAuthority> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAuthority)?;
        let port = parse_port(port).ok_or(InvalidAuthority)?;
        // A scope id (`%`) means something on the sender's node only.
        if !text.contains('%')
            && let Ok(address) = text.parse::<SocketAddr>()
        {
            return Ok(Self::Address(address));
        }
        if !is_host(host) {
            return Err(InvalidAuthority);
        }
        Ok(Self::Host {
            host: host.to_ascii_lowercase().into(),
            port,
        })
    }
}

/// Digits only (`u16::from_str` takes a sign), not 0.
fn parse_port(text: &str) -> Option<u16> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&port| digits && port != 0)
}

/// A DNS name. A name whose last label is a number is refused: it is an address written in a way that
/// two readers may understand differently (`10.1`, `010.0.0.1`).
fn is_host(host: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// A CONNECT request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Where to.
    pub authority: Authority,
    /// The source workload's attributes (W3C Baggage), a claim for telemetry only. Visible ASCII.
    pub baggage: Option<Box<str>>,
    /// Client address and service.
    pub forwarded: Forwarded,
    /// The trace this connection belongs to.
    pub traceparent: Option<TraceParent>,
}

impl ConnectRequest {
    pub(crate) fn encode(&self, encoder: &mut Encoder<'_>) {
        // One buffer for all: this runs once for each connection.
        let mut text = String::with_capacity(128);
        encoder.connect(written(&mut text, &self.authority));
        if let Some(baggage) = &self.baggage {
            encoder.field("baggage", baggage);
        }
        if !self.forwarded.is_empty() {
            encoder.field("forwarded", written(&mut text, &self.forwarded));
        }
        if let Some(trace) = self.traceparent {
            encoder.field("traceparent", written(&mut text, &trace));
        }
    }
}

/// The text of a value, in place of what the buffer held.
fn written<'a>(text: &'a mut String, value: &impl fmt::Display) -> &'a str {
    text.clear();
    // Writing to a String does not fail.
    let _ = fmt::write(text, format_args!("{value}"));
    text
}

/// The answer to a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectResponse {
    /// 200: the stream is the connection from now on. Anything else: refused.
    pub status: u16,
    /// The destination workload's attributes. Visible ASCII.
    pub baggage: Option<Box<str>>,
}

impl ConnectResponse {
    /// Whether the stream is now the connection (RFC 9110 section 9.3.6: any 2xx).
    pub const fn is_success(&self) -> bool {
        self.status / 100 == 2
    }

    pub(crate) fn encode(&self, encoder: &mut Encoder<'_>) {
        encoder.status(self.status);
        if let Some(baggage) = &self.baggage {
            encoder.field("baggage", baggage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_survive() {
        for text in [
            "10.1.2.3:80",
            "[fd00::1]:65535",
            "web.shop.svc.cluster.local:8080",
            "a_b:1",
        ] {
            assert_eq!(text.parse::<Authority>().unwrap().to_string(), text);
        }
        assert_eq!(
            "Web.Shop:80".parse::<Authority>().unwrap().to_string(),
            "web.shop:80"
        );
        assert_eq!("10.1.2.3:80".parse::<Authority>().unwrap().port(), 80);
    }

    #[test]
    fn bad_authorities() {
        for text in [
            "",
            ":",
            "web",
            "web:",
            "web:0",
            "web:65536",
            "web:+80",
            "web: 80",
            ":80",
            "fd00::1:80",
            "[fe80::1%1]:80",
            "[fd00::1]",
            "10.1.2.3",
            "10.1:80",
            "010.1.2.3:80",
            "1.2.3.4.:80",
            "a..b:80",
            "user@web:80",
            "web:80:80",
            "we b:80",
            "http://web:80",
            "wéb:80",
        ] {
            assert_eq!(text.parse::<Authority>(), Err(InvalidAuthority), "{text}");
        }
        let long = format!("{}:80", "a".repeat(64));
        assert!(long.parse::<Authority>().is_err());
    }
}
