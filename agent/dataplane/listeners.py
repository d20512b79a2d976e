# SPDX-License-Identifier: Apache-2.0
"""The sockets that the agent listens on inside a pod, and the choice of their ports.

Made in the thread that has entered the pod's network namespace. No SO_REUSEPORT: any process of the
same user could join the group and take connections.
"""

import contextlib
import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from agent.abi.structs import CAPTURE_PORTS
from agent.errors import NetlinkError
from mesh.model.address import IpAddress

__all__ = [
    "BACKLOG",
    "HBONE_PORT",
    "PortConflictError",
    "choose_capture_ports",
    "close_all",
    "count_drops",
    "listen",
    "stop_listening",
]

HBONE_PORT: Final = 15008
"""Where peers reach a pod: HBONE's port in Istio."""

FIRST_CAPTURE_PORT: Final = 15001
"""Istio's outbound port: taken where it is free, so that people recognise it."""

BACKLOG: Final = 4096
"""Connections that may wait for accept() on one listener (net.core.somaxconn may be lower)."""

_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=9I")
"""sock_diag(7), struct at SK_MEMINFO_*; the last one is SK_MEMINFO_DROPS."""

_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78
_HIGH_PORTS: Final = range(61337, 65536)
_LOW_PORTS: Final = range(15101, 15999)


class PortConflictError(NetlinkError):
    """A process of the pod holds a port that the mesh needs. ``port`` is the number."""

    def __init__(self, port: int, address: IpAddress) -> None:
        super().__init__(
            f"A process of the pod already listens on port {port} of {address}; the mesh needs it."
        )
        self.port = port


def _local_port_range() -> range:
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    low, high = (int(word) for word in text.split())
    return range(low, high + 1)


def _candidates() -> Iterator[int]:
    """Ports in the order of preference: outside the range of ephemeral ports, then any."""
    ephemeral = _local_port_range()
    choice = [FIRST_CAPTURE_PORT, *_HIGH_PORTS, *_LOW_PORTS]
    yield from (port for port in choice if port not in ephemeral)
    yield from (port for port in choice if port in ephemeral)


def _is_free(port: int) -> bool:
    """No socket of the pod holds the port, on any address of either family."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            probe = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # a kernel without IPv6
        with probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return False
                if error.errno != errno.EADDRNOTAVAIL:
                    raise NetlinkError(
                        f"Port {port} cannot be probed in a pod: {error}."
                    ) from error
    return True


def choose_capture_ports() -> tuple[int, ...]:
    """Free ports of this pod for capture; NetlinkError where there are too few."""
    chosen: list[int] = []
    for port in _candidates():
        if _is_free(port):
            chosen.append(port)
            if len(chosen) == CAPTURE_PORTS:
                return tuple(chosen)
    raise NetlinkError("The pod has no free ports left for capture.")


def _listener(address: IpAddress, port: int) -> socket.socket:
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # After a restart, connections of the old agent may still be in TIME_WAIT on the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # An IPv6 address may not have passed duplicate address detection yet.
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        listener.bind((str(address), port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortConflictError(port, address) from error
        raise NetlinkError(f"Cannot listen on {address} port {port} in a pod: {error}.") from error
    return listener


def listen(addresses: Iterable[IpAddress], ports: Iterable[int]) -> list[int]:
    """Non-blocking listening fds, one for each address and port; all or none.

    Raises PortConflictError where a process of the pod holds one.
    """
    wanted = [(address, port) for address in addresses for port in ports]
    made: list[int] = []
    try:
        for address, port in wanted:
            made.append(_listener(address, port).detach())
    except BaseException:
        close_all(made)
        raise
    return made


def stop_listening(fds: Iterable[int]) -> None:
    """Ends each listener for everybody who has a copy of it, and frees its port; then closes it."""
    for fd in fds:
        with contextlib.suppress(OSError), socket.socket(fileno=fd) as listener:
            listener.shutdown(socket.SHUT_RD)


def close_all(fds: Iterable[int]) -> None:
    """Closes each fd."""
    for fd in fds:
        with contextlib.suppress(OSError):
            socket.close(fd)


def count_drops(listeners: Iterable[int]) -> int:
    """Connection attempts that found an accept queue full; the kernel dropped them, to be repeated.

    A descriptor that was closed meanwhile counts for nothing.
    """
    drops = 0
    for fd in listeners:
        with contextlib.suppress(OSError):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
            try:
                # The number may be another's by now: applying tables does not wait for a scrape.
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    raw = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
                    drops += _MEMINFO.unpack(raw)[-1]
            finally:
                sock.detach()
    return drops
