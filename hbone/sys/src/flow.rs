// SPDX-License-Identifier: Apache-2.0
//! Flow records: what the connect hook decided for one captured socket.
//!
//! [`FlowKey`] and [`FlowRecord`] mirror `struct flow_key` and `struct flow_record` of
//! `bpf/include/mesh_types.h`; `tests/layout.rs` compares sizes and offsets with a C compiler.

use crate::bpf;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// Two unread records met under one key: trust neither (`FLOW_POISONED`).
pub const FLOW_POISONED: u32 = 1 << 0;

/// Mirrors `struct flow_key`. Ports and addresses are in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub netns_cookie: u64,
    pub source: [u8; 16],
    pub source_port: [u8; 2],
    pub capture_port: [u8; 2],
    pub family: u8,
    pub pad: [u8; 3],
}

/// Mirrors `struct flow_record`. Ports and addresses are in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowRecord {
    pub original: [u8; 16],
    pub upstream: [u8; 16],
    pub original_port: [u8; 2],
    pub upstream_port: [u8; 2],
    pub source_workload: u32,
    pub upstream_workload: u32,
    pub service_id: u32,
    pub generation: u32,
    pub flags: u32,
    pub created_ns: u64,
}

const _: () = assert!(size_of::<FlowKey>() == 32 && size_of::<FlowRecord>() == 64);

impl FlowKey {
    /// The key of a connection as its capture listener sees it: `source` is the peer of the
    /// accepted socket, `local` its own end. IPv4-mapped addresses count as IPv4.
    pub fn new(netns_cookie: u64, source: SocketAddr, local: SocketAddr) -> Self {
        let ip = source.ip().to_canonical();
        Self {
            netns_cookie,
            source: encode_address(ip),
            source_port: source.port().to_be_bytes(),
            capture_port: local.port().to_be_bytes(),
            family: if ip.is_ipv4() { 4 } else { 6 },
            pad: [0; 3],
        }
    }
}

impl FlowRecord {
    /// Where the application dialled.
    pub fn original(&self) -> SocketAddr {
        decode(self.original, self.original_port)
    }

    /// The endpoint chosen for it.
    pub fn upstream(&self) -> SocketAddr {
        decode(self.upstream, self.upstream_port)
    }

    pub fn is_poisoned(&self) -> bool {
        self.flags & FLOW_POISONED != 0
    }
}

/// 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`: the form of `struct address`.
pub fn encode_address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn decode(address: [u8; 16], port: [u8; 2]) -> SocketAddr {
    let ip = Ipv6Addr::from(address).to_canonical();
    SocketAddr::new(ip, u16::from_be_bytes(port))
}

/// Where the core finds out what a captured connection wanted.
pub trait FlowRecords: Send + Sync {
    /// Removes and returns the record of one connection; `None` where the kernel left none.
    fn take(&self, key: &FlowKey) -> io::Result<Option<FlowRecord>>;
}

/// The pinned BPF hash map `flow_records`.
#[derive(Debug)]
pub struct BpfFlowRecords(OwnedFd);

impl BpfFlowRecords {
    /// Takes the map after checking that its keys and values have the size of the mirrors: the
    /// kernel writes that many bytes.
    pub fn new(map: OwnedFd) -> io::Result<Self> {
        let sizes = bpf::map_sizes(&map)?;
        let mirrored = (size_of::<FlowKey>() as u32, size_of::<FlowRecord>() as u32);
        if sizes != mirrored {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("flow_records has keys and values of {sizes:?} bytes, not {mirrored:?}"),
            ));
        }
        Ok(Self(map))
    }
}

impl FlowRecords for BpfFlowRecords {
    fn take(&self, key: &FlowKey) -> io::Result<Option<FlowRecord>> {
        bpf::lookup_and_delete(&self.0, key)
    }
}
