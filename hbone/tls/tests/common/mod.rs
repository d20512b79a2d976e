// SPDX-License-Identifier: Apache-2.0
//! Certificates, an independent peer (rustls' own buffered connections), and our sessions.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test file uses its own part of this"
)]

mod certificates;
mod peer;
mod wire;

pub use certificates::{Ca, Material};
pub use peer::{Outcome, PeerOptions, feed, read, send, shake, shake_with, take};
pub use wire::{open_all, ours, pending, seal, session_pair, with_rustls};

use hbone_tls::SpiffeId;

pub const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/curl";
pub const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/web";

pub fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}
