# SPDX-License-Identifier: Apache-2.0
"""Connections as people look at them: one record for all paths, and the last closed ones."""

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol

from mesh.reasons import Reason

__all__ = [
    "ConnectionLedger",
    "ConnectionRecord",
    "Ended",
    "EndedLater",
    "Own",
    "Path",
    "split_endpoint",
]


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Address and port of ``10.0.0.1:80`` or ``[fd00::1]:80``; of other text nothing and 0."""
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), int(port) if host and port.isdecimal() else 0


@unique
class Path(StrEnum):
    """How the bytes of a connection travel."""

    KERNEL = "kernel"
    """Between pods of this node, by the kernel alone; the SYN nonce proves the source."""

    TUNNEL = "tunnel"
    """Over HBONE, mutual TLS."""

    PASSTHROUGH = "passthrough"
    """Untouched: one end is outside the mesh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRecord:
    """One connection as seen by one side of it. Empty text means not known."""

    path: Path
    direction: Literal["outbound", "inbound"]
    """Seen at the client's pod (outbound) or at the server's pod (inbound)."""

    source: str
    """Address and port of the client, ``10.0.0.1:4000`` or ``[fd00::1]:4000``."""

    destination: str
    """Address and port of the server's application, after any service was resolved."""

    original_destination: str = ""
    """What the client dialled: a service's VIP, or the same as destination."""

    hbone_address: str = ""
    """The peer's address on the HBONE port, for the tunnel path."""

    source_workload: str = ""
    destination_workload: str = ""
    """``namespace/name``."""

    service: str = ""
    """Host name of the service that was dialled."""

    source_identity: str = ""
    destination_identity: str = ""
    """SPIFFE IDs."""

    attested: bool = False
    """The source's identity is proven (certificate, or the kernel's nonce), not only claimed."""

    bytes_sent: int = 0
    bytes_received: int = 0
    """As this side sees it: to and from the peer that it was connected to."""

    connect_us: int = 0
    """Time from the client's connect to the server's answer, microseconds; 0 if not measured."""

    duration_us: int = 0
    """Life so far, or life in all once closed, microseconds."""

    open: bool = False
    ended_at: float = 0.0
    """Seconds since 1970; 0 while open."""

    reason: str = ""
    """Why it ended, a text of mesh.reasons; empty while open."""

    detail: str = ""
    trace_id: str = ""

    @property
    def is_orderly(self) -> bool:
        """Whether it ended, or goes on, without a fault."""
        return self.reason in ("", Reason.NONE.text)

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Own(NamedTuple):
    """What a connection does not have in common with others between the same two workloads."""

    source: str
    destination: str
    original_destination: str
    hbone_address: str
    bytes_sent: int
    bytes_received: int
    connect_us: int
    duration_us: int
    trace_id: str


class Ended(Protocol):
    """A connection that ended, as cheap as can be: the record is made only if somebody looks.

    A node may end 10,000 connections a second; most are dropped from memory unseen.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def ended_at(self) -> float:
        """Seconds since 1970."""

    @property
    def orderly(self) -> bool: ...  # noqa: D102

    def make(self) -> ConnectionRecord:
        """Make the record."""

    def brief(self) -> tuple[Hashable, Own] | None:
        """What equals for equal records but for their Own, and that; None where it is not known."""


class EndedLater:
    """An end whose record is made by a call."""

    __slots__ = ("ended_at", "make", "orderly", "path")

    def __init__(
        self,
        path: Path,
        ended_at: float,
        orderly: bool,  # noqa: FBT001 - made by the thousand, and keywords cost
        make: Callable[[], ConnectionRecord],
    ) -> None:
        self.path = path
        self.ended_at = ended_at
        self.orderly = orderly
        self.make = make

    @classmethod
    def of(cls, record: ConnectionRecord) -> "EndedLater":
        """Wrap a record that exists already."""
        return cls(record.path, record.ended_at, record.is_orderly, lambda: record)

    def brief(self) -> None:
        """Nothing is known before the record is made."""


class ConnectionLedger:
    """The last connections that ended: so many of each path, the oldest dropped first.

    Each path has room of its own, so that a pod's DNS lookups cannot push out everything else.
    """

    def __init__(self, *, kept: int) -> None:
        self._recent: dict[Path, deque[Ended]] = {path: deque(maxlen=kept) for path in Path}
        self.total = 0

    def add(self, ended: Iterable[Ended]) -> None:
        """Remember ended connections."""
        for item in ended:
            self._recent[item.path].append(item)
            self.total += 1

    def recent(self, limit: int | None = None) -> list[Ended]:
        """Return the newest ``limit`` that ended, newest first."""
        each = (reversed(records) for records in self._recent.values())
        newest = heapq.merge(*each, key=lambda item: item.ended_at, reverse=True)
        return list(islice(newest, limit))
