# SPDX-License-Identifier: Apache-2.0
"""Doing something inside a pod's network namespace.

setns(2) binds the calling thread, so each visit has a thread of its own that ends with it. What is
made inside (sockets, netlink changes) works from anywhere afterwards.
"""

import ctypes
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from agent.errors import NetlinkError

__all__ = ["all_namespaces", "netns_cookie", "open_netns", "own_netns_cookie", "run_in_netns"]

_CLONE_NEWNET = 0x40000000
_SO_NETNS_COOKIE = 71
_libc = ctypes.CDLL(None, use_errno=True)
_Result = TypeVar("_Result")


def open_netns(path: str) -> int:
    """An fd of the network namespace at ``path``; FileNotFoundError where it is gone."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            raise FileNotFoundError(f"The network namespace {path} is gone.") from error
        raise NetlinkError(f"The network namespace {path} cannot be opened: {error}.") from error


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        error = os.strerror(ctypes.get_errno())
        raise NetlinkError(f"A pod's network cannot be entered: {error}.")


def run_in_netns(fd: int, function: Callable[[], _Result]) -> _Result:
    """What ``function`` returns or raises, run in a thread that has entered the namespace."""
    results: list[_Result] = []
    errors: list[BaseException] = []

    def visit() -> None:
        try:
            _enter(fd)
            results.append(function())
        except BaseException as error:  # noqa: BLE001 # raised again in the calling thread
            errors.append(error)

    thread = threading.Thread(target=visit, name="netns-visit", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def own_netns_cookie() -> int:
    """The cookie of the network namespace of the calling thread."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])


def netns_cookie(fd: int) -> int:
    """The number that the kernel never gives to another namespace until the next boot."""
    return run_in_netns(fd, own_netns_cookie)


def all_namespaces() -> Iterator[int]:
    """An fd of every network namespace that has a name or a process; closed by the generator."""
    seen: set[int] = set()
    candidates = [*Path("/run/netns").glob("*"), *Path("/var/run/netns").glob("*")]
    candidates += Path("/proc").glob("[0-9]*/ns/net")
    for candidate in candidates:
        try:
            fd = os.open(candidate, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # a process that has ended meanwhile
        try:
            number = os.fstat(fd).st_ino
            if number not in seen:
                seen.add(number)
                yield fd
        finally:
            os.close(fd)
