# SPDX-License-Identifier: Apache-2.0
"""Verdicts as they happen: the last refusals, and a feed for whoever looks on.

A node may open 10,000 connections a second and refuse as many. So what happened stays what the
kernel or the core told, and is put into words only for somebody who looks; while nobody does, what
was allowed is counted, not kept. A slow reader loses verdicts, counted, and holds up nobody.
"""

import asyncio
import contextlib
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from agent.abi.policy import Direction
from agent.abi.structs import Event as RawEvent
from agent.abi.structs import EventKind
from agent.telemetry.connections import ConnectionRecord, split_endpoint
from agent.telemetry.directory import Directory
from agent.telemetry.kernel_flows import KernelFlows
from agent.telemetry.labels import reason_text
from mesh.reasons import Reason

__all__ = ["REFUSALS", "Feed", "Happened", "Told", "TunnelEnd", "Verdict", "Watcher"]

_KEPT: Final = 1_000
"""Refusals that are remembered for who asks later."""

_WAITING: Final = 4_096
"""Verdicts that wait for one reader, as many as one reading of the ring buffer brings."""

REFUSALS: Final = frozenset(
    {
        *(Reason(number) for number in range(Reason.POLICY_DENY, Reason.SOURCE_FORGED + 1)),
        Reason.NO_FLOW_RECORD,
        Reason.FLOW_RECORD_POISONED,
        Reason.CONNECT_DENIED,
        Reason.BAD_AUTHORITY,
        Reason.UNKNOWN_WORKLOAD,
        Reason.NOT_CONNECT,
        Reason.TUNNEL_BYPASSED,
    }
)
"""Reasons of the core by which it, or the far agent, refused. Others are ends, not verdicts."""


@unique
class Verdict(StrEnum):
    """What was decided."""

    ALLOWED = "allowed"
    DENIED = "denied"
    DRY_RUN = "dry-run"
    """It passed, but policies in dry run would refuse it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One verdict in words. Empty text means not known; see ConnectionRecord for most of it."""

    time: float
    """Seconds since 1970."""
    verdict: Verdict
    told_by: str
    """``kernel`` or ``tunnel``."""
    direction: str
    protocol: str
    source: str
    destination: str
    original_destination: str = ""
    source_workload: str = ""
    destination_workload: str = ""
    service: str = ""
    source_identity: str = ""
    destination_identity: str = ""
    reason: str = ""
    detail: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def is_from(self, wanted: str) -> bool:
        """Whether the source is this ``namespace/name`` or address."""
        return wanted in (self.source_workload, split_endpoint(self.source)[0])

    def is_to(self, wanted: str) -> bool:
        """Whether the destination, or what was dialled, is this."""
        namespace, _, name = wanted.partition("/")
        return wanted in (
            self.destination_workload,
            split_endpoint(self.destination)[0],
            split_endpoint(self.original_destination)[0],
        ) or (bool(name) and self.service.startswith(f"{name}.{namespace}."))


class Happened(NamedTuple):
    """A verdict that is not put into words yet."""

    verdict: Verdict
    direction: str
    tell: Callable[[], Told]


class TunnelEnd(Protocol):
    """A connection of the tunnel that ended."""

    @property
    def ended_at(self) -> float:
        """Seconds since 1970."""

    @property
    def reason(self) -> int:
        """A number of mesh.reasons."""

    @property
    def is_outbound(self) -> bool:
        """Whether the pod of this node began it."""

    def ends(self) -> tuple[bool, int, int, str, str]:
        """Whether it is outbound, the two workload ids, and the addresses with their ports."""

    def make(self) -> ConnectionRecord:
        """Make the record."""


class Watcher:
    """What waits for one reader."""

    def __init__(self, verdicts: frozenset[Verdict]) -> None:
        self.wanted = verdicts
        self._waiting: deque[Happened] = deque()
        self._some = asyncio.Event()
        self.lost = 0
        """Verdicts that found no room, because the reader is slower than they come."""

    def offer(self, happened: Happened) -> None:
        """Let one wait, if it is wanted and there is room."""
        if happened.verdict not in self.wanted:
            return
        if len(self._waiting) >= _WAITING:
            self.lost += 1
            return
        self._waiting.append(happened)
        self._some.set()

    async def take(self, seconds: float) -> list[Told]:
        """What waits, once there is some; nothing where none came in time."""
        return [happened.tell() for happened in await self.take_untold(seconds)]

    async def take_untold(self, seconds: float) -> list[Happened]:
        """The same for who puts few of them into words."""
        with contextlib.suppress(TimeoutError):
            # Python 3.11's wait_for() loses a cancellation that comes together with what it awaits.
            async with asyncio.timeout(seconds):
                await self._some.wait()
        self._some.clear()
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


class Feed:
    """Takes everything in. Lives on the event loop's thread."""

    def __init__(
        self, directory: Directory, flows: KernelFlows, *, now: Callable[[], float]
    ) -> None:
        self._directory = directory
        self._flows = flows
        self._now = now
        self._recent: deque[Happened] = deque(maxlen=_KEPT)
        self._watchers: set[Watcher] = set()
        self.verdicts: Counter[tuple[str, Verdict, str, int]] = Counter()
        """Ever since: by who told, verdict, direction, and number of the reason."""

    def recent(self) -> list[Told]:
        """Return the last refusals, and what dry run would refuse, oldest first."""
        return [happened.tell() for happened in self._recent]

    @contextlib.contextmanager
    def watch(self, *verdicts: Verdict) -> Iterator[Watcher]:
        """Follow what happens from now on; every verdict, if none is named."""
        watcher = Watcher(frozenset(verdicts or Verdict))
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def kernel(self, events: Iterable[bytes]) -> None:
        """Take records of the ring buffer."""
        now, looked_at = self._now(), self._is_looked_at()
        for raw in events:
            verdict = _OF_KIND.get(raw[_KIND])
            if verdict is None:
                continue
            allowed = verdict is Verdict.ALLOWED
            reason = 0 if allowed else int.from_bytes(raw[_REASON], sys.byteorder)
            direction = "inbound" if raw[_DIRECTION] == Direction.INGRESS else "outbound"
            self.verdicts["kernel", verdict, direction, reason] += 1
            if not allowed or looked_at:
                tell = partial(self._kernel_told, raw, verdict, now)
                self._happened(Happened(verdict, direction, tell))

    def tunnelled(self, ended: Sequence[TunnelEnd]) -> None:
        """Take connections of the tunnel that ended: they are told of when their end is known."""
        looked_at = self._is_looked_at()
        for connection in ended:
            refused = connection.reason in REFUSALS
            verdict = Verdict.DENIED if refused else Verdict.ALLOWED
            direction = "outbound" if connection.is_outbound else "inbound"
            reason = connection.reason if refused else 0
            self.verdicts["tunnel", verdict, direction, reason] += 1
            if refused or looked_at:
                tell = partial(_tunnel_told, connection, verdict)
                self._happened(Happened(verdict, direction, tell))

    def refused_by_core(self, event: Mapping[str, Any]) -> None:
        """Take what the core refused before there was a connection: handshakes and captures."""
        direction = event.get("direction", "") or "outbound"
        self.verdicts["tunnel", Verdict.DENIED, direction, event.get("reason", 0)] += 1
        tell = partial(self._core_told, event, self._now())
        self._happened(Happened(Verdict.DENIED, direction, tell))

    def _is_looked_at(self) -> bool:
        """Whether somebody follows what is allowed, too."""
        return any(Verdict.ALLOWED in watcher.wanted for watcher in self._watchers)

    def _happened(self, happened: Happened) -> None:
        if happened.verdict is not Verdict.ALLOWED:
            self._recent.append(happened)
        for watcher in self._watchers:
            watcher.offer(happened)

    def _kernel_told(self, raw: bytes, verdict: Verdict, now: float) -> Told:
        record, protocol = self._flows.of_one(raw, now)
        return _told(record, verdict, now, by="kernel", protocol=_PROTOCOLS.get(protocol, ""))

    def _core_told(self, event: Mapping[str, Any], now: float) -> Told:
        own = self._directory.workload(event.get("workload_id", 0))
        peer = self._directory.workload(event.get("peer_workload_id", 0))
        inbound = event.get("direction", "") == "inbound"
        source, destination = (peer, own) if inbound else (own, peer)
        reason = event.get("reason", 0)
        return Told(
            time=now,
            verdict=Verdict.DENIED,
            told_by="tunnel",
            direction=event.get("direction", "") or "outbound",
            protocol="TCP",
            source=event.get("source", ""),
            destination=event.get("destination", "") or event.get("hbone_address", ""),
            source_workload=source.text if source else "",
            destination_workload=destination.text if destination else "",
            reason=reason_text(reason) if reason else "",
            detail=event.get("detail", ""),
        )


_KIND: Final = RawEvent.kind.offset
_DIRECTION: Final = RawEvent.direction.offset
_REASON: Final = slice(RawEvent.reason.offset, RawEvent.reason.offset + RawEvent.reason.size)
_PROTOCOLS: Final = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMP", 132: "SCTP"}
_OF_KIND: Final = {
    int(EventKind.CONNECTED): Verdict.ALLOWED,
    int(EventKind.PASSTHROUGH): Verdict.ALLOWED,
    int(EventKind.ATTESTED): Verdict.ALLOWED,
    int(EventKind.DENIED): Verdict.DENIED,
    int(EventKind.DROPPED): Verdict.DENIED,
    int(EventKind.DRY_DENIED): Verdict.DRY_RUN,
}


def _tunnel_told(connection: TunnelEnd, verdict: Verdict) -> Told:
    record = connection.make()
    return _told(record, verdict, connection.ended_at, by="tunnel", protocol="TCP")


def _told(
    record: ConnectionRecord, verdict: Verdict, now: float, *, by: str, protocol: str
) -> Told:
    return Told(
        time=now,
        verdict=verdict,
        told_by=by,
        direction=record.direction,
        protocol=protocol,
        source=record.source,
        destination=record.destination,
        original_destination=record.original_destination,
        source_workload=record.source_workload,
        destination_workload=record.destination_workload,
        service=record.service,
        source_identity=record.source_identity,
        destination_identity=record.destination_identity,
        reason="" if record.reason == Reason.NONE.text else record.reason,
        detail=record.detail,
    )
