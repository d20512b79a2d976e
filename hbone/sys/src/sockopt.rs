// SPDX-License-Identifier: Apache-2.0
//! Socket options that rustix has no name for.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets an option whose value is one C int.
pub(crate) fn set_int(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the kernel reads exactly the four bytes of `value`, which lives across the call, and
    // `fd` is borrowed from an open descriptor.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads an option whose value is one u64.
pub(crate) fn get_u64(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`, and both outlive the
    // call; any bit pattern is a valid u64.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(&mut value).cast(),
            std::ptr::from_mut(&mut length),
        )
    };
    if result == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Bytes of a TCP socket that its peer has not acknowledged, FIN counted as one (SIOCOUTQ, tcp(7)).
pub(crate) fn unacknowledged(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int at the pointer, which outlives the
    // call, and `fd` is borrowed from an open descriptor.
    let result = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::TIOCOUTQ,
            std::ptr::from_mut(&mut count),
        )
    };
    if result == 0 {
        Ok(usize::try_from(count).unwrap_or(0))
    } else {
        Err(io::Error::last_os_error())
    }
}
