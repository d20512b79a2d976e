# SPDX-License-Identifier: Apache-2.0
"""Connections that the kernel forwards by itself, put together from what it tells.

::

    ATTESTED ──▶ open, inbound    the destination's guard consumed the SYN's nonce: proof
    CONNECTED ─▶ open, outbound   the source's socket is established
    CLOSED ────▶ the records of both sides
    PASSTHROUGH, DENIED, DROPPED ─▶ a record at once: there is nothing more to follow

A node may open 10,000 such connections a second, three events each. So events stay the bytes that
the kernel wrote; only a few fields are looked at, and a record is made when somebody wants to see
it. (Decoding every event cost 300 us a connection, measured; this costs 9.)

The kernel tells in a ring buffer that may lose events under load; then a record lacks its proof or
its end, and the loss is counted. Both tables here are bounded; the oldest entry goes first.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final, Literal, Protocol

from agent.abi.policy import Direction
from agent.abi.structs import Event, EventKind
from agent.telemetry.connections import ConnectionRecord, Ended, EndedLater, Path
from agent.telemetry.directory import Directory
from agent.telemetry.labels import reason_text
from mesh.model.address import IpAddress
from mesh.tables import WorkloadId

__all__ = ["KernelEvent", "KernelFlows"]

_MOST: Final = 65_536
"""Open connections followed, about 300 bytes each. A node has 50,000 at most in the design."""


class KernelEvent(Protocol):
    """One record of the ring buffer, decoded. Read-only members."""

    @property
    def source(self) -> IpAddress | None: ...  # noqa: D102
    @property
    def source_port(self) -> int: ...  # noqa: D102
    @property
    def destination(self) -> IpAddress | None: ...  # noqa: D102
    @property
    def destination_port(self) -> int: ...  # noqa: D102
    @property
    def original(self) -> IpAddress | None: ...  # noqa: D102
    @property
    def original_port(self) -> int: ...  # noqa: D102
    @property
    def source_workload(self) -> int: ...  # noqa: D102
    @property
    def destination_workload(self) -> int: ...  # noqa: D102
    @property
    def service_id(self) -> int: ...  # noqa: D102
    @property
    def protocol(self) -> int: ...  # noqa: D102
    @property
    def reason(self) -> int: ...  # noqa: D102
    @property
    def bytes_sent(self) -> int: ...  # noqa: D102
    @property
    def bytes_received(self) -> int: ...  # noqa: D102
    @property
    def duration_ns(self) -> int: ...  # noqa: D102


_KIND: Final = Event.kind.offset
_ADDRESSES: Final = slice(Event.source.offset, Event.original.offset)
_PORTS: Final = slice(Event.source_port.offset, Event.original_port.offset)
_REASON: Final = slice(Event.reason.offset, Event.reason.offset + Event.reason.size)
_DIRECTION: Final = Event.direction.offset
_SOURCE: Final = slice(Event.source_workload.offset, Event.source_workload.offset + 4)
_DESTINATION: Final = slice(
    Event.destination_workload.offset, Event.destination_workload.offset + 4
)
_NOTHING: Final = bytes(4)
_NO_REASON: Final = bytes(Event.reason.size)
_CONNECTED: Final = int(EventKind.CONNECTED)
_ATTESTED: Final = int(EventKind.ATTESTED)
_CLOSED: Final = int(EventKind.CLOSED)
_PASSTHROUGH: Final = int(EventKind.PASSTHROUGH)
_DRY_DENIED: Final = int(EventKind.DRY_DENIED)

_Direction = Literal["outbound", "inbound"]
_Make = Callable[[], ConnectionRecord]


class KernelFlows:
    """Follows the kernel's connections. Lives on the event loop's thread.

    ``decode`` turns the bytes of an event into its fields.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        decode: Callable[[bytes], KernelEvent],
        now: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._decode = decode
        self._now = now
        self._connected: OrderedDict[bytes, bytes] = OrderedDict()
        self._attested: OrderedDict[bytes, bytes] = OrderedDict()

    def observe(self, events: Iterable[bytes]) -> list[Ended]:
        """Take events in, and return what ended by them."""
        now = self._now()
        ended: list[Ended] = []
        for raw in events:
            kind = raw[_KIND]
            if kind == _CLOSED:
                ended += self._close(raw, now)
            elif kind == _CONNECTED:
                _put(self._connected, raw[_ADDRESSES] + raw[_PORTS], raw)
            elif kind == _ATTESTED:
                _put(self._attested, raw[_ADDRESSES] + raw[_PORTS], raw)
            elif kind != _DRY_DENIED:  # it passed, and is told of by what it opened
                make = partial(self._single, raw, kind, now)
                path = Path.PASSTHROUGH if kind == _PASSTHROUGH else self._path(raw)
                ended.append(EndedLater(path, now, raw[_REASON] == _NO_REASON, make))
        return ended

    def open_flows(self) -> list[_Make]:
        """Return what is open, as calls that make records; they may be made in any thread."""
        makers: list[_Make] = []
        for key, raw in self._connected.items():
            attested = self._attested.get(key) or _own_proof(raw)
            makers.append(partial(self._outbound, raw, attested, None, 0.0))
            if attested is not None:
                makers.append(partial(self._inbound, raw, attested, None, 0.0))
        for key, raw in self._attested.items():
            if key not in self._connected:
                makers.append(partial(self._inbound, None, raw, None, 0.0))
        return makers

    def of_one(self, raw: bytes, at: float) -> tuple[ConnectionRecord, int]:
        """What one event tells by itself, as a record, and its IP protocol."""
        kind = raw[_KIND]
        record = self._single(raw, kind, at)
        if kind == _ATTESTED:
            record = replace(record, attested=True)
        return record, self._decode(raw).protocol

    def _close(self, raw: bytes, now: float) -> Iterable[Ended]:
        key = raw[_ADDRESSES] + raw[_PORTS]
        connected = self._connected.pop(key, None)
        attested = self._attested.pop(key, None) or _own_proof(connected)
        path, orderly = self._path(raw), raw[_REASON] == _NO_REASON
        yield EndedLater(path, now, orderly, partial(self._outbound, connected, attested, raw, now))
        if attested is not None:
            yield EndedLater(
                path, now, orderly, partial(self._inbound, connected, attested, raw, now)
            )

    def _path(self, raw: bytes) -> Path:
        """Say passthrough of a workload that is known, and so followed, but not in the mesh."""
        number = WorkloadId(int.from_bytes(raw[_DESTINATION], sys.byteorder))
        row = self._directory.peers.get(number)
        return Path.KERNEL if row is None or row.enrolled else Path.PASSTHROUGH

    def _single(self, raw: bytes, kind: int, ended_at: float) -> ConnectionRecord:
        path = Path.PASSTHROUGH if kind == _PASSTHROUGH else self._path(raw)
        inbound = raw[_DIRECTION] == Direction.INGRESS
        direction: _Direction = "inbound" if inbound else "outbound"
        event = self._decode(raw)
        record = self._record(event, path, direction)
        return replace(record, ended_at=ended_at, reason=reason_text(event.reason))

    def _outbound(
        self, connected: bytes | None, attested: bytes | None, closed: bytes | None, at: float
    ) -> ConnectionRecord:
        raw = connected if connected is not None else closed
        assert raw is not None  # noqa: S101 - there is no outbound record of neither
        proven = attested is not None and attested[_SOURCE] == raw[_SOURCE]
        record = replace(
            self._record(self._decode(raw), self._path(raw), "outbound"), attested=proven
        )
        if connected is not None:
            record = replace(record, connect_us=self._decode(connected).duration_ns // 1000)
        return self._end(record, closed, at)

    def _inbound(
        self, connected: bytes | None, attested: bytes, closed: bytes | None, at: float
    ) -> ConnectionRecord:
        record = replace(
            self._record(self._decode(attested), self._path(attested), "inbound"), attested=True
        )
        if connected is not None:
            # The guard does not know what was dialled before the service was resolved.
            event = self._decode(connected)
            dialled = _format(event.original, event.original_port)
            record = replace(record, original_destination=dialled)
        ended = self._end(record, closed, at)
        return replace(ended, bytes_sent=ended.bytes_received, bytes_received=ended.bytes_sent)

    def _end(self, record: ConnectionRecord, closed: bytes | None, at: float) -> ConnectionRecord:
        """Add what the end told; ``bytes_sent`` is then the source's."""
        if closed is None:
            return replace(record, open=True)
        event = self._decode(closed)
        return replace(
            record,
            bytes_sent=event.bytes_sent,
            bytes_received=event.bytes_received,
            duration_us=event.duration_ns // 1000,
            ended_at=at,
            reason=reason_text(event.reason),
        )

    def _record(self, event: KernelEvent, path: Path, direction: _Direction) -> ConnectionRecord:
        source = self._directory.workload(event.source_workload)
        destination = self._directory.workload(event.destination_workload)
        return ConnectionRecord(
            path=path,
            direction=direction,
            source=_format(event.source, event.source_port),
            destination=_format(event.destination, event.destination_port),
            original_destination=_format(event.original, event.original_port),
            source_workload=source.text if source else "",
            destination_workload=destination.text if destination else "",
            service=self._directory.service_hostname(event.service_id),
            source_identity=source.identity if source else "",
            destination_identity=destination.identity if destination else "",
        )


def _own_proof(connected: bytes | None) -> bytes | None:
    """A pod that calls itself goes over its lo, where there is no guard and no stranger.

    The kernel knows the socket's pod, and that the connection stays in it.
    """
    if connected is None or connected[_SOURCE] == _NOTHING:
        return None
    return connected if connected[_SOURCE] == connected[_DESTINATION] else None


def _put(table: OrderedDict[bytes, bytes], key: bytes, value: bytes) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _MOST:
        table.popitem(last=False)


def _format(address: IpAddress | None, port: int) -> str:
    if address is None:
        return ""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
