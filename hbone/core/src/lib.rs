// SPDX-License-Identifier: Apache-2.0
//! The byte path of nodemesh: captured connections out through HBONE tunnels, and tunnels in to
//! applications. One thread per worker, no locks and no allocation per frame.
//!
//! [`Core`] is the whole surface. Protocol and cryptography live in `hbone-proto` and `hbone-tls`
//! and know no sockets; system calls live in `hbone-sys`; this crate joins them.

#![forbid(unsafe_code)]

mod balance;
mod config;
mod core;
mod counters;
mod error;
mod event;
mod fairness;
mod ids;
mod memory;
mod message;
mod model;
mod random;
mod slab;
mod worker;

pub use crate::core::Core;
pub use config::Config;
pub use counters::{ConnectionInfo, Counter, CounterKey, Counters, Stats, TunnelInfo, WorkerShare};
pub use error::Error;
pub use event::{Event, EventKind};
pub use ids::{IdHasher, IdMap};
pub use model::{Direction, Listeners, Peer, Workload};
