// SPDX-License-Identifier: Apache-2.0
//! Roles, and the numbers of one connection.

use crate::limits::Limits;
use crate::time::Millis;

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens streams.
    Client,
    /// Answers them.
    Server,
}

/// Windows, sizes and times of one connection. Start from [`Config::client`] or [`Config::server`].
///
/// On the wire they equal what ztunnel sends, so that neither side meets limits it was never run with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes a peer may send on one stream before the app takes any. 4 MiB fill 10 Gb/s at 3 ms.
    pub stream_window: u32,
    /// The same over all streams, and so the most that slow apps can make us hold per tunnel. Four
    /// stream windows, so that one slow app never stops the others; never below the RFC's 65,535.
    pub connection_window: u32,
    /// The largest frame we take. DATA is never gathered, so a large one costs nothing.
    pub max_frame: u32,
    /// The most DATA we put in one frame: with its header it fills one TLS record (2^14 bytes).
    pub max_send: usize,
    /// The largest header list we take, 32 bytes counted per field.
    pub max_header_list: u32,
    /// Streams at once: as a server what we allow (and say), as a client what we use at most even if
    /// the peer allows more. A client keeps to 100 so that one lost tunnel hurts few connections; a
    /// server allows twice that to the client that thinks otherwise.
    pub max_streams: u32,
    /// A PING goes out after this much silence.
    pub keepalive_interval: Millis,
    /// Silence after a PING that ends the connection.
    pub keepalive_timeout: Millis,
    /// How long the peer may take to acknowledge our SETTINGS (RFC 9113 section 6.5.3 leaves it to
    /// us). As long as a peer may be silent before it counts as gone: it answers PINGs the same way.
    pub settings_timeout: Millis,
    /// How long the peer may keep the connection's send window all but shut
    /// ([`STALL_CREDIT`](crate::limits::STALL_CREDIT)) while streams wait for it. Envoy ends streams
    /// that wait for a window after 5 minutes too; h2, hyper and ztunnel wait for ever.
    pub stall_timeout: Millis,
    /// How long the warning of a draining server waits for its PING before the true GOAWAY.
    pub drain_timeout: Millis,
    /// Rates against floods.
    pub limits: Limits,
}

impl Config {
    /// What a client uses.
    pub fn client() -> Self {
        Self {
            max_header_list: 16 << 10,
            max_streams: 100,
            ..Self::server()
        }
    }

    /// What a server uses.
    pub fn server() -> Self {
        Self {
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            max_frame: 1 << 20,
            max_send: (1 << 14) - crate::frame::HEADER_LEN,
            max_header_list: 64 << 10,
            max_streams: 200,
            keepalive_interval: Millis::seconds(10),
            keepalive_timeout: Millis::seconds(20),
            settings_timeout: Millis::seconds(30),
            stall_timeout: Millis::seconds(300),
            drain_timeout: Millis::seconds(1),
            limits: Limits::default(),
        }
    }
}
