# SPDX-License-Identifier: Apache-2.0
"""sock_diag(7): a network namespace's TCP sockets, what the guard knows of them, and ending one.

``INET_DIAG_REQ_SK_BPF_STORAGES`` (Linux 5.7) lets the kernel add a socket's storage to its message.
``SOCK_DESTROY`` needs CONFIG_INET_DIAG_DESTROY: the socket's owner gets ECONNABORTED, the other end
a reset.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from agent.errors import NetlinkError

__all__ = ["Diag", "OpenSocket", "can_destroy"]

_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_DESTROY: Final = 21
_ERROR: Final = 2
_DONE: Final = 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300

_HEADER: Final = struct.Struct("=IHHII")
"""struct nlmsghdr."""

_QUERY: Final = struct.Struct("=BBBxI48s")
"""struct inet_diag_req_v2: family, protocol, extensions, states, and the id of a socket."""

_MESSAGE: Final = struct.Struct("=BBBB48s20x")
"""struct inet_diag_msg."""

_ID: Final = struct.Struct(">HH16s16s")
"""The begin of struct inet_diag_sockid: ports and addresses; interface and cookie follow."""

_ATTRIBUTE: Final = struct.Struct("=HH")
_STORAGES_WANTED: Final = 2
"""INET_DIAG_REQ_SK_BPF_STORAGES."""

_STORAGES: Final = 20
"""INET_DIAG_SK_BPF_STORAGES."""

_STORAGE, _MAP_FD, _MAP_VALUE = 1, 1, 3
_TYPE_MASK: Final = 0x3FFF

_OPEN: Final = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8
"""ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT: in the others nothing flows any more."""

_RECEIVE_BYTES: Final = 1 << 18
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """One TCP socket. Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d."""

    family: int
    number: bytes
    """struct inet_diag_sockid: with the kernel's cookie, so it never means another socket."""
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    storage: bytes
    """The value of the map that was asked for; empty where there is none."""


class Diag:
    """A sock_diag socket of the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def open_tcp(self, family: int, storage: int) -> Iterator[OpenSocket]:
        """Yield every open TCP socket; ``storage`` is the fd of a map of socket storage.

        Read to the end before another call. Raises NetlinkError.
        """
        wanted = _attribute(_STORAGES_WANTED, _attribute(_MAP_FD, struct.pack("=I", storage)))
        query = _QUERY.pack(family, socket.IPPROTO_TCP, 0, _OPEN, bytes(48))
        for payload in self._ask(_BY_FAMILY, _DUMP, query + wanted):
            yield _decode(payload)

    def destroy(self, one: OpenSocket) -> bool:
        """End a socket; False where it has ended already. Raises NetlinkError."""
        query = _QUERY.pack(one.family, socket.IPPROTO_TCP, 0, 0, one.number)
        try:
            for _ in self._ask(_DESTROY, _ACK, query):
                pass
        except NetlinkError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in (errno.ENOENT, errno.ESTALE):
                return False
            raise
        return True

    def _ask(self, kind: int, flags: int, content: bytes) -> Iterator[bytes]:
        """The payloads of the answer; returns at its end."""
        self._sequence += 1
        size = _HEADER.size + len(content)
        header = _HEADER.pack(size, kind, _REQUEST | flags, self._sequence, 0)
        try:
            self._socket.send(header + content)
            while True:
                raw = self._socket.recv(_RECEIVE_BYTES)
                for answer, payload in _messages(raw):
                    if answer == _DONE:
                        return
                    if answer == _ERROR:
                        _check(payload)
                        return
                    yield payload
        except OSError as error:
            raise NetlinkError(f"A pod's sockets cannot be looked at: {error}.") from error


def can_destroy() -> bool:
    """Whether the kernel can end sockets (CONFIG_INET_DIAG_DESTROY): asked of one that is none."""
    nobody = OpenSocket(socket.AF_INET, bytes(40) + b"\1" * 8, b"", 0, b"", 0, b"")
    with Diag() as diag:
        try:
            diag.destroy(nobody)
        except NetlinkError:
            return False
    return True


def _check(payload: bytes) -> None:
    (code,) = struct.unpack_from("=i", payload)
    if code:
        raise OSError(-code, os.strerror(-code))


def _attribute(kind: int, content: bytes) -> bytes:
    """With padding; everything here is a multiple of four already."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(content), kind) + content


def _messages(raw: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(raw):
        size, kind, _flags, _sequence, _pid = _HEADER.unpack_from(raw, offset)
        if size < _HEADER.size:
            return
        yield kind, raw[offset + _HEADER.size : offset + size]
        offset += size + 3 & ~3


def _attributes(raw: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(raw):
        size, kind = _ATTRIBUTE.unpack_from(raw, offset)
        if size < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, raw[offset + _ATTRIBUTE.size : offset + size]
        offset += size + 3 & ~3


def _find(raw: bytes, *kinds: int) -> bytes:
    """The content of an attribute within attributes; empty where there is none."""
    for kind in kinds:
        raw = next((content for found, content in _attributes(raw) if found == kind), b"")
    return raw


def _decode(payload: bytes) -> OpenSocket:
    family, _state, _timer, _retransmits, number = _MESSAGE.unpack_from(payload)
    local_port, remote_port, local, remote = _ID.unpack_from(number)
    if family == socket.AF_INET:
        local, remote = _V4_MAPPED + local[:4], _V4_MAPPED + remote[:4]
    storage = _find(payload[_MESSAGE.size :], _STORAGES, _STORAGE, _MAP_VALUE)
    return OpenSocket(family, number, local, local_port, remote, remote_port, storage)
