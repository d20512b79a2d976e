// SPDX-License-Identifier: Apache-2.0
//! A victim and an attacker on one worker.

use super::raw::Client;
use super::*;
use hbone_core::{Event, EventKind};
use hbone_proto::Reason;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Where attackers come from.
pub const MALLORY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

pub mod kind {
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Far more than a busy machine needs, less than the shortest limit that ends a peer who stalls (5 s).
const VICTIM_WAITS_AT_MOST: Duration = Duration::from_secs(4);

/// A pair with one worker each, so that nobody is spared by chance, and a connection to watch.
pub struct Scene {
    pub pair: Pair,
    pub victim: (TcpStream, TcpStream),
}

impl Scene {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl Fn(&mut hbone_core::Config)) -> Self {
        let pair = Pair::with(|config| {
            config.workers = 1;
            change(config);
        });
        let victim = pair.connect();
        let scene = Self { pair, victim };
        scene.victim_is_well();
        scene
    }

    pub fn attacker(&self) -> Client {
        let svid = self.pair.authority.svid(CLIENT_ID);
        Client::connect_from(MALLORY, self.pair.hbone, &svid)
    }

    pub fn app(&self) -> SocketAddr {
        self.pair.app.local_addr().unwrap()
    }

    /// Bytes still pass both ways, and soon.
    pub fn victim_is_well(&self) {
        let (mut near, mut far) = (&self.victim.0, &self.victim.1);
        let (began, mut block) = (Instant::now(), [0; 64]);
        near.write_all(&[1; 64]).unwrap();
        far.read_exact(&mut block).unwrap();
        far.write_all(&block).unwrap();
        near.read_exact(&mut block).unwrap();
        let took = began.elapsed();
        assert!(took < VICTIM_WAITS_AT_MOST, "the victim waited {took:?}");
    }

    /// A new connection of the victim's pod comes through as well.
    pub fn newcomers_are_well(&self) {
        let (mut near, mut far) = self.pair.connect();
        near.write_all(b"hello").unwrap();
        far.read_exact(&mut [0; 5]).unwrap();
    }

    pub fn wait_tunnel_closed(&self, reason: Reason) -> Event {
        wait_for(&self.pair.server, |event| {
            event.kind == EventKind::TunnelClosed && is_reason(event, reason)
        })
    }
}
