// SPDX-License-Identifier: Apache-2.0
//! What the policy says of a connection: asked of the kernel's own `decide()`, so that the tunnel and
//! the hooks cannot differ.
//!
//! [`VerdictQuery`] and [`Verdict`] mirror the structs of `bpf/include/mesh_policy.h`;
//! `tests/layout.rs` compares sizes and offsets with a C compiler.

use crate::bpf;
use crate::flow::encode_address;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// `enum direction`: what the subject receives.
pub const INGRESS: u8 = 1;
/// `enum direction`: what the subject sends.
pub const EGRESS: u8 = 2;

/// The peer has proven who it is (`QUERY_ATTESTED`).
pub const QUERY_ATTESTED: u16 = 1 << 0;

/// `POLICY_NO_RULE`: no rule decided.
pub const NO_RULE: u32 = u32::MAX;

const TCP: u8 = 6;

/// Mirrors `struct verdict_query`. Port and address are in network order; `pad` stays zero, else the
/// query would look like a frame of IP to BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerdictQuery {
    pub subject: u32,
    pub peer: u32,
    pub port: [u8; 2],
    pub protocol: u8,
    pub direction: u8,
    pub pad: u16,
    pub flags: u16,
    pub address: [u8; 16],
}

/// Mirrors `struct verdict`. `reason` 0: it may pass.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub reason: u32,
    pub generation: u32,
    pub set_id: u32,
    pub rule: u32,
    pub dry_rule: u32,
    pub flags: u32,
    pub peer_class: u32,
    pub pad: u32,
}

const _: () = assert!(size_of::<VerdictQuery>() == 32 && size_of::<Verdict>() == 32);

impl VerdictQuery {
    /// A TCP connection that `peer` (0: nobody known) at this address opens to a port of the
    /// subject; `attested` where its certificate has proven it.
    pub fn ingress(subject: u32, peer: u32, from: SocketAddr, port: u16, attested: bool) -> Self {
        Self {
            direction: INGRESS,
            flags: if attested { QUERY_ATTESTED } else { 0 },
            ..Self::of(subject, peer, from, port)
        }
    }

    /// A TCP connection that the subject opens to `peer` at this address and port.
    pub fn egress(subject: u32, peer: u32, to: SocketAddr) -> Self {
        Self {
            direction: EGRESS,
            ..Self::of(subject, peer, to, to.port())
        }
    }

    fn of(subject: u32, peer: u32, other: SocketAddr, port: u16) -> Self {
        Self {
            subject,
            peer,
            port: port.to_be_bytes(),
            protocol: TCP,
            address: encode_address(other.ip()),
            ..Self::default()
        }
    }
}

/// Who answers. An error is no answer: whoever asks must then refuse.
pub trait Verdicts: Send + Sync + Debug {
    fn ask(&self, query: &VerdictQuery) -> io::Result<Verdict>;
}

/// The program `mesh_query`, run by BPF_PROG_TEST_RUN: about a microsecond, and nothing is counted.
#[derive(Debug)]
pub struct BpfVerdicts(OwnedFd);

impl BpfVerdicts {
    pub fn new(program: OwnedFd) -> Self {
        Self(program)
    }
}

impl Verdicts for BpfVerdicts {
    fn ask(&self, query: &VerdictQuery) -> io::Result<Verdict> {
        bpf::run_query(&self.0, query)
    }
}

/// Lets everything pass: for a core that runs without a kernel half, as in its own tests.
#[derive(Debug)]
pub struct Unjudged;

impl Verdicts for Unjudged {
    fn ask(&self, _: &VerdictQuery) -> io::Result<Verdict> {
        Ok(Verdict {
            rule: NO_RULE,
            dry_rule: NO_RULE,
            ..Verdict::default()
        })
    }
}
