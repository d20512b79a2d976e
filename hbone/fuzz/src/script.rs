// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 connections in the state where a target wants them.

use hbone_proto::frame::{Header, PREFACE, flag, kind};
use hbone_proto::{Authority, Config, ConnectRequest, Connection, Forwarded, Millis, Role};

/// When every script begins.
pub const NOW: Millis = Millis(1000);

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let header = Header {
        length,
        kind,
        flags,
        stream,
    };
    [&header.encode()[..], payload].concat()
}

/// What a peer says first.
pub fn hello(to: Role) -> Vec<u8> {
    let preface: &[u8] = if to == Role::Server { PREFACE } else { &[] };
    let settings = frame(kind::SETTINGS, 0, 0, &[]);
    let ack = frame(kind::SETTINGS, flag::ACK, 0, &[]);
    [preface, &settings, &ack].concat()
}

/// A CONNECT with everything that HBONE says in one.
pub fn request() -> ConnectRequest {
    ConnectRequest {
        authority: Authority::Address("10.1.2.3:80".parse().expect("an address")),
        baggage: Some("k8s.namespace.name=shop".into()),
        forwarded: Forwarded {
            source: Some("10.0.0.1:5".parse().expect("an address")),
            host: Some("web.shop".into()),
        },
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            .parse()
            .ok(),
    }
}

/// A connection; as a client with three streams opened. `small`: windows and limits that an input of
/// some hundred bytes can reach.
pub fn connection(role: Role, small: bool) -> Connection {
    let mut config = match role {
        Role::Client => Config::client(),
        Role::Server => Config::server(),
    };
    if small {
        config.stream_window = 100;
        config.connection_window = 65_535;
        config.max_frame = 16_384;
        config.max_header_list = 300;
        config.max_streams = 3;
    }
    let mut connection = Connection::new(role, config, NOW);
    for user in 1..=3 {
        if role == Role::Client {
            connection.open(&request(), user).expect("room for three");
        }
    }
    connection
}
