# SPDX-License-Identifier: Apache-2.0
"""Who has talked to whom lately, so that a policy can be tried before it is in force.

Of many connections between the same two workloads, at the same port, one entry is kept, with how
often and when last. What happened stays what the kernel or the core told, as in ``feed``, and is
put into words for who asks. Each entry is some 400 bytes; the oldest goes first.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

from agent.abi.structs import Event, EventKind
from agent.telemetry.connections import ConnectionRecord, Path, split_endpoint
from agent.telemetry.feed import REFUSALS, TunnelEnd
from agent.telemetry.kernel_flows import KernelFlows

__all__ = ["KEPT_SECONDS", "RecentConnections", "Seen"]

KEPT_SECONDS: Final = 3600.0
"""What nobody has done for an hour is forgotten."""

_KEPT: Final = 10_000
"""Entries between workloads that are known: 100 pods of a node, each with 100 others."""

_KEPT_STRANGERS: Final = 2_000
"""Entries with an end that is no known workload. They have room of their own: a scan with a
thousand addresses must not push out what the pods of the mesh do."""

_TCP: Final = 6
_KIND: Final = Event.kind.offset
_WHAT: Final = slice(Event.kind.offset, Event.protocol.offset + 1)
_WAY: Final = slice(Event.direction.offset, Event.direction.offset + 1)
_ADDRESSES: Final = slice(Event.source.offset, Event.original.offset)
_PORT: Final = slice(Event.destination_port.offset, Event.destination_port.offset + 2)
_SOURCE: Final = slice(Event.source_workload.offset, Event.source_workload.offset + 4)
_DESTINATION: Final = slice(
    Event.destination_workload.offset, Event.destination_workload.offset + 4
)
_WORKLOADS: Final = slice(_SOURCE.start, _DESTINATION.stop)
_NOBODY: Final = bytes(4)
_ALLOWED: Final = frozenset({EventKind.CONNECTED, EventKind.PASSTHROUGH, EventKind.ATTESTED})
_REFUSED: Final = frozenset({EventKind.DENIED, EventKind.DROPPED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Connections of one client to one port of one server. Empty text means not known."""

    source_workload: str
    """``namespace/name``."""
    source: str
    """Address of the last of them."""
    destination_workload: str
    destination: str
    port: int
    """The destination's, after any service was resolved."""
    protocol: int
    """IP protocol number."""
    attested: bool
    """The source's identity was proven."""
    count: int
    refused: int
    """So many of ``count`` were refused."""
    last_seen: float
    """Seconds since 1970."""

    @property
    def key(self) -> Hashable:
        """What is the same of all that is told of them, at either end."""
        source = self.source_workload or self.source
        return source, self.destination_workload, self.destination, self.port, self.protocol

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class _Entry:
    __slots__ = ("count", "last", "refused", "told")

    def __init__(self, told: bytes | TunnelEnd) -> None:
        self.told = told
        self.count = self.refused = 0
        self.last = 0.0


class RecentConnections:
    """Takes everything in. Lives on the event loop's thread."""

    def __init__(self, flows: KernelFlows, *, now: Callable[[], float]) -> None:
        self._flows = flows
        self._now = now
        self._known: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._strangers: OrderedDict[Hashable, _Entry] = OrderedDict()

    def kernel(self, events: Iterable[bytes]) -> None:
        """Take records of the ring buffer."""
        now = self._now()
        for raw in events:
            kind = raw[_KIND]
            refused = kind in _REFUSED
            if not refused and kind not in _ALLOWED:
                continue
            key = raw[_ADDRESSES] + raw[_PORT] + raw[_WHAT] + raw[_WAY] + raw[_WORKLOADS]
            table = self._table(raw[_SOURCE] != _NOBODY != raw[_DESTINATION])
            entry = table.get(key)
            if entry is None:
                entry = table[key] = _Entry(raw)
            self._count(table, key, entry, now, refused=refused)

    def tunnelled(self, ended: Sequence[TunnelEnd]) -> None:
        """Take connections of the tunnel that ended."""
        for connection in ended:
            outbound, own, peer, source, destination = connection.ends()
            client = source.rpartition(":")[0]
            key = (outbound, own, peer, client, destination)
            table = self._table(bool(own and peer))
            entry = table.get(key)
            if entry is None:
                entry = table[key] = _Entry(connection)
            refused = connection.reason in REFUSALS
            self._count(table, key, entry, connection.ended_at, refused=refused)

    def _table(self, known: bool) -> OrderedDict[Hashable, _Entry]:  # noqa: FBT001 - it is one
        return self._known if known else self._strangers

    def _count(
        self,
        table: OrderedDict[Hashable, _Entry],
        key: Hashable,
        entry: _Entry,
        now: float,
        *,
        refused: bool,
    ) -> None:
        entry.count += 1
        entry.refused += refused
        entry.last = now
        table.move_to_end(key)
        if len(table) > (_KEPT if table is self._known else _KEPT_STRANGERS):
            table.popitem(last=False)

    def snapshot(self) -> Callable[[Iterable[ConnectionRecord]], list[Seen]]:
        """What is remembered now, as a call that puts it into words; in any thread.

        It takes the connections that are open: those count as seen right now.
        """
        now = self._now()
        for table in (self._known, self._strangers):
            while table and next(iter(table.values())).last < now - KEPT_SECONDS:
                table.popitem(last=False)
        entries = [
            (self._maker(entry), entry.count, entry.refused, entry.last)
            for table in (self._known, self._strangers)
            for entry in table.values()
        ]
        return partial(_describe, entries, now)

    def _maker(self, entry: _Entry) -> Callable[[], tuple[ConnectionRecord, int]]:
        told = entry.told
        if isinstance(told, bytes):
            return partial(self._flows.of_one, told, entry.last)
        return partial(_of_tunnel, told)


_Taken = tuple[Callable[[], tuple[ConnectionRecord, int]], int, int, float]


class _Way(NamedTuple):
    """How something was told of: one connection is told of in several."""

    outbound: bool
    tunnel: bool
    refused: bool
    """By the kernel, which tells of a refusal and of what it lets pass in events of two kinds."""


def _of_tunnel(connection: TunnelEnd) -> tuple[ConnectionRecord, int]:
    return connection.make(), _TCP


def _describe(entries: list[_Taken], now: float, opened: Iterable[ConnectionRecord]) -> list[Seen]:
    """Newest first. A connection that is told of at both of its ends is one."""
    found: dict[Hashable, dict[_Way, Seen]] = {}
    for make, count, refused, last in entries:
        record, protocol = make()
        _add(found, _seen(record, protocol, count=count, refused=refused, last=last), record)
    for record in opened:
        seen = _seen(record, _TCP, count=1, refused=0, last=now)
        # The kernel's were counted when they were opened; the tunnel's are when they end.
        if record.path != Path.TUNNEL and _way(record, seen) in found.get(seen.key, {}):
            seen = replace(seen, count=0)
        _add(found, seen, record)
    merged = [_merge(ways) for ways in found.values()]
    return sorted(merged, key=lambda seen: -seen.last_seen)


def _seen(
    record: ConnectionRecord, protocol: int, *, count: int, refused: int, last: float
) -> Seen:
    destination, port = split_endpoint(record.destination)
    return Seen(
        source_workload=record.source_workload,
        source=split_endpoint(record.source)[0],
        destination_workload=record.destination_workload,
        destination=destination,
        port=port,
        protocol=protocol,
        attested=record.attested,
        count=count,
        refused=refused,
        last_seen=last,
    )


def _way(record: ConnectionRecord, seen: Seen) -> _Way:
    tunnel = record.path == Path.TUNNEL
    return _Way(record.direction == "outbound", tunnel, not tunnel and bool(seen.refused))


def _add(found: dict[Hashable, dict[_Way, Seen]], seen: Seen, record: ConnectionRecord) -> None:
    ways, way = found.setdefault(seen.key, {}), _way(record, seen)
    before = ways.get(way)
    if before is not None:
        seen = replace(
            before if before.last_seen > seen.last_seen else seen,
            count=before.count + seen.count,
            refused=before.refused + seen.refused,
            attested=before.attested or seen.attested,
        )
    ways[way] = seen


def _merge(ways: dict[_Way, Seen]) -> Seen:
    """Both ends tell of one connection; and of a SYN that is proven and then refused, the guard."""

    def count(*, outbound: bool, tunnel: bool, refused: bool = False) -> int:
        seen = ways.get(_Way(outbound, tunnel, refused))
        return 0 if seen is None else seen.count

    tunnels = [count(outbound=one, tunnel=True) for one in (True, False)]
    passed = [count(outbound=one, tunnel=False) for one in (True, False)]
    refused = [count(outbound=one, tunnel=False, refused=True) for one in (True, False)]
    sent = tunnels[0] + passed[0] + refused[0]
    received = tunnels[1] + max(passed[1], refused[1])
    newest = max(ways.values(), key=lambda seen: seen.last_seen)
    denied = [
        sum(seen.refused for way, seen in ways.items() if way.outbound == outbound)
        for outbound in (True, False)
    ]
    return replace(
        newest,
        source=newest.source or next((s.source for s in ways.values() if s.source), ""),
        count=max(sent, received),
        refused=max(denied),
        attested=any(seen.attested for seen in ways.values()),
    )
