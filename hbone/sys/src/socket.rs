// SPDX-License-Identifier: Apache-2.0
//! TCP sockets: all of them non-blocking and close-on-exec.

use crate::sockopt;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType,
    ipproto, sockopt as options,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A new TCP socket of the address' family, in the netns of the calling thread.
pub fn tcp(family_of: SocketAddr) -> io::Result<OwnedFd> {
    let family = match family_of {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        flags,
        Some(ipproto::TCP),
    )?)
}

/// The next connection of a listener and its peer; `WouldBlock` when there is none.
pub fn accept(listener: impl AsFd) -> Result<(OwnedFd, Option<SocketAddr>), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (fd, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    Ok((
        fd,
        peer.and_then(|address| SocketAddr::try_from(address).ok()),
    ))
}

/// The local end; for an accepted socket, the address that was dialled.
pub fn local_address(fd: impl AsFd) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(rustix::net::getsockname(fd)?)?)
}

/// Starts a connect; EINPROGRESS is success, the outcome comes by epoll and [`take_error`].
pub fn start_connect(fd: impl AsFd, to: SocketAddr) -> io::Result<()> {
    match rustix::net::connect(fd, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Binds to an address and lets connect() choose the port, so that a port counts per 4-tuple and
/// not once for all destinations (IP_BIND_ADDRESS_NO_PORT, ip(7)).
pub fn bind_address(fd: impl AsFd, ip: IpAddr) -> io::Result<()> {
    let fd = fd.as_fd();
    sockopt::set_int(fd, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    Ok(rustix::net::bind(fd, &SocketAddr::new(ip, 0))?)
}

/// Allows a bind to an address that is not this host's, and marks what the socket sends so that
/// policy routing brings the answers back (ip(7), socket(7); needs CAP_NET_ADMIN).
pub fn set_transparent(fd: impl AsFd, ip: IpAddr, mark: u32) -> io::Result<()> {
    let fd = fd.as_fd();
    if ip.is_ipv4() {
        sockopt::set_int(fd, libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
    } else {
        sockopt::set_int(fd, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?;
    }
    sockopt::set_int(fd, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())
}

pub fn set_nodelay(fd: impl AsFd) -> io::Result<()> {
    Ok(options::set_tcp_nodelay(fd, true)?)
}

/// Probes a silent peer after `idle`, then every `idle`; gives it up after 9 (tcp(7)).
pub fn set_keepalive(fd: impl AsFd, idle: Duration) -> io::Result<()> {
    let fd = fd.as_fd();
    options::set_socket_keepalive(fd, true)?;
    options::set_tcp_keepidle(fd, idle)?;
    Ok(options::set_tcp_keepintvl(fd, idle)?)
}

/// Bounds what the kernel holds of received bytes (SO_RCVBUF, socket(7); it doubles the number). For
/// tests: a number of our own would end the kernel's tuning.
pub fn set_receive_buffer(fd: impl AsFd, bytes: usize) -> io::Result<()> {
    Ok(options::set_socket_recv_buffer_size(fd, bytes)?)
}

/// The congestion control algorithm by name; a netns may use only the allowed ones.
pub fn set_congestion_control(fd: impl AsFd, name: &str) -> io::Result<()> {
    Ok(options::set_tcp_congestion(fd, name)?)
}

/// Closing this socket will send RST and drop what is unsent (SO_LINGER 0, socket(7)).
pub fn set_abort_on_close(fd: impl AsFd) {
    let _ = options::set_socket_linger(fd, Some(Duration::ZERO));
}

/// The pending error of a socket, cleared by the call; the outcome of a connect.
pub fn take_error(fd: impl AsFd) -> Result<(), Errno> {
    options::socket_error(fd).and_then(|outcome| outcome)
}

/// No more will be sent: FIN after what is queued.
pub fn shutdown_write(fd: impl AsFd) {
    let _ = rustix::net::shutdown(fd, Shutdown::Write);
}

/// Whether the other end has acknowledged everything sent so far, FIN included: a reset from here on
/// takes nothing back.
pub fn has_delivered_all(fd: impl AsFd) -> bool {
    sockopt::unacknowledged(fd.as_fd()).is_ok_and(|count| count == 0)
}

pub fn receive(fd: impl AsFd, into: &mut [u8]) -> Result<usize, Errno> {
    retry(|| rustix::net::recv(fd.as_fd(), &mut *into, RecvFlags::empty())).map(|(count, _)| count)
}

pub fn receive_vectored(fd: impl AsFd, into: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
    retry(|| rustix::io::readv(fd.as_fd(), into))
}

pub fn send(fd: impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
    retry(|| rustix::net::send(fd.as_fd(), bytes, SendFlags::NOSIGNAL))
}

/// Several pieces in one call. `fin_follows`: [`shutdown_write`] or a close comes next, so the last
/// segment may wait for it and carry the FIN (MSG_MORE, send(2)): one segment less through the stack.
/// Should it not come after all, the kernel sends what waits after 200 ms.
pub fn send_vectored(
    fd: impl AsFd,
    bytes: &[IoSlice<'_>],
    fin_follows: bool,
) -> Result<usize, Errno> {
    let flags = if fin_follows {
        SendFlags::NOSIGNAL | SendFlags::MORE
    } else {
        SendFlags::NOSIGNAL
    };
    retry(|| {
        if let [one] = bytes {
            return rustix::net::send(fd.as_fd(), one, flags);
        }
        let mut ancillary = SendAncillaryBuffer::default();
        rustix::net::sendmsg(fd.as_fd(), bytes, &mut ancillary, flags)
    })
}

/// Listens on an address; port 0 takes a free one. For tests and tools: the agent passes its
/// listeners in as descriptors.
pub fn listen(at: SocketAddr) -> io::Result<OwnedFd> {
    let fd = tcp(at)?;
    options::set_socket_reuseaddr(&fd, true)?;
    if at.is_ipv6() {
        options::set_ipv6_v6only(&fd, true)?;
    }
    rustix::net::bind(&fd, &at)?;
    rustix::net::listen(&fd, 1024)?;
    Ok(fd)
}

/// Duplicates a descriptor that a caller keeps (fcntl(2), F_DUPFD_CLOEXEC).
pub fn duplicate(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    fd.try_clone_to_owned()
}

/// Duplicates a descriptor known by its number only, as Python hands them over.
pub fn duplicate_raw(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes any number and answers EBADF for one that is not open; what it returns
    // is a new descriptor that nobody else owns.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `copy` was just returned by the kernel and is owned by no one else.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) })
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}
