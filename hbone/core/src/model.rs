// SPDX-License-Identifier: Apache-2.0
//! What the owner tells the core about pods, peers and services.

use hbone_tls::ExpectedPeers;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Seen from the workload of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// A captured connection that leaves through a tunnel.
    Outbound,
    /// A stream of a peer's tunnel that ends at an application here.
    Inbound,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// A pod of this node.
#[derive(Debug)]
pub struct Workload {
    pub id: u32,
    pub uid: String,
    /// SPIFFE ID; the key under which its SVID is found.
    pub identity: Arc<str>,
    /// Ports of its capture listeners: no tunnel may end there.
    pub capture_ports: Vec<u16>,
    /// Its sockets are made in here.
    pub netns: OwnedFd,
    pub netns_cookie: u64,
    pub addresses: Vec<IpAddr>,
    /// SO_MARK of the sockets that dial its applications with the client's address. 0: neither
    /// mark nor IP_TRANSPARENT (which need CAP_NET_ADMIN), for clients whose address is local.
    pub mark: u32,
    /// Sent as `baggage` with CONNECT and with its answer; percent-encoded already.
    pub baggage: Arc<str>,
}

impl Workload {
    /// The pod's own address of the same family, to dial peers from.
    pub fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|ip| ip.is_ipv4() == other.is_ipv4())
    }
}

/// The sockets on which a pod is served; the core owns these duplicates.
#[derive(Debug, Default)]
pub struct Listeners {
    pub capture: Vec<OwnedFd>,
    pub inbound: Vec<OwnedFd>,
}

/// A workload anywhere in the mesh and who may answer at its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub id: u32,
    pub addresses: Vec<IpAddr>,
    /// Any of which the peer's certificate must carry.
    pub expected: ExpectedPeers,
}
