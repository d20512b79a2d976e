// SPDX-License-Identifier: Apache-2.0
//! The network namespace of the calling thread decides where its next socket lives.

use crate::{socket, sockopt};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The namespace that the calling thread is in now.
pub fn open_current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// The kernel's number for the namespace that the calling thread is in; never used twice while the
/// machine runs (SO_NETNS_COOKIE, since 5.14).
pub fn current_cookie() -> io::Result<u64> {
    let probe = socket::tcp(SocketAddr::from(([0, 0, 0, 0], 0)))?;
    sockopt::get_u64(probe.as_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE)
}

/// Moves the calling thread into a network namespace; needs CAP_SYS_ADMIN. Other threads stay.
pub fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(
        netns.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}
