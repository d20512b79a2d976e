// SPDX-License-Identifier: Apache-2.0
//! System calls that the byte path needs and no safe crate offers.
//!
//! This is the only crate of the workspace that may say `unsafe`; each block says why it is sound.
//! What the `rustix` crate has (sockets, epoll, eventfd, vectored I/O) is re-exported from there, so
//! that the core names one crate for everything that enters the kernel.

pub mod flow;
pub mod netns;
pub mod poll;
pub mod socket;
pub mod verdict;

mod bpf;
mod sockopt;

pub use rustix::io::Errno;

/// How many descriptors this process may have open now (RLIMIT_NOFILE, getrlimit(2)).
pub fn descriptor_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}
