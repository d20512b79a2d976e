# SPDX-License-Identifier: Apache-2.0
"""Connections that the kernel forwards by itself, put together from what it tells.

::

    ATTESTED ─┐ the destination's guard consumed the SYN's nonce: the source is proven
    CONNECTED ┴▶ open ── CLOSED ─▶ record, kernel path
    PASSTHROUGH, DENIED, DROPPED ─▶ record at once: there is nothing more to follow

The kernel tells in a ring buffer that may lose events under load; then a record lacks its proof or
its end, and the loss is counted. Both tables here are bounded; the oldest entry goes first.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from agent.telemetry.connections import ConnectionRecord, Path
from agent.telemetry.directory import Directory
from agent.telemetry.labels import reason_text
from mesh.model.address import IpAddress

__all__ = ["KernelEvent", "KernelFlows"]

_MOST: Final = 65_536
"""Open connections followed, about 1 KB each. A node has 50,000 at most in the design."""


class KernelEvent(Protocol):
    """One record of the ring buffer, decoded. Read-only members."""

    @property
    def kind_name(self) -> str:
        """CONNECTED, PASSTHROUGH, DENIED, ATTESTED, CLOSED or DROPPED."""

    @property
    def source(self) -> IpAddress | None: ...
    @property
    def source_port(self) -> int: ...
    @property
    def destination(self) -> IpAddress | None: ...
    @property
    def destination_port(self) -> int: ...
    @property
    def original(self) -> IpAddress | None: ...
    @property
    def original_port(self) -> int: ...
    @property
    def source_workload(self) -> int: ...
    @property
    def destination_workload(self) -> int: ...
    @property
    def service_id(self) -> int: ...
    @property
    def reason(self) -> int: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def bytes_received(self) -> int: ...
    @property
    def duration_ns(self) -> int: ...


_V = TypeVar("_V")
_Tuple = tuple[IpAddress | None, int, IpAddress | None, int]


class KernelFlows:
    """Follows the kernel's connections. Lives on the event loop's thread."""

    def __init__(self, directory: Directory, *, now: Callable[[], float]) -> None:
        self._directory = directory
        self._now = now
        self._open: OrderedDict[_Tuple, ConnectionRecord] = OrderedDict()
        self._proven: OrderedDict[_Tuple, int] = OrderedDict()

    def observe(self, events: Iterable[KernelEvent]) -> list[ConnectionRecord]:
        """Take events in, and return what ended by them."""
        ended = []
        for event in events:
            record = self._observe(event)
            if record is not None:
                ended.append(record)
        return ended

    def open_records(self) -> list[ConnectionRecord]:
        """Return what is open; its age is not followed, so ``duration_us`` is 0."""
        return list(self._open.values())

    def _observe(self, event: KernelEvent) -> ConnectionRecord | None:
        key = (event.source, event.source_port, event.destination, event.destination_port)
        match event.kind_name:
            case "ATTESTED":
                self._attest(key, event.source_workload)
                return None
            case "CONNECTED":
                record = replace(
                    self._record(event, Path.KERNEL),
                    connect_us=event.duration_ns // 1000,
                    attested=self._proven.pop(key, 0) == event.source_workload != 0,
                    open=True,
                )
                _put(self._open, key, record)
                return None
            case "CLOSED":
                return self._close(key, event)
            case "PASSTHROUGH":
                return self._end(self._record(event, Path.PASSTHROUGH), event)
            case "DROPPED":
                record = self._record(event, Path.KERNEL)
                return self._end(replace(record, direction="inbound"), event)
            case _:
                return self._end(self._record(event, Path.KERNEL), event)

    def _attest(self, key: _Tuple, source_workload: int) -> None:
        record = self._open.get(key)
        if record is not None:
            self._open[key] = replace(record, attested=True)
        else:
            _put(self._proven, key, source_workload)

    def _close(self, key: _Tuple, event: KernelEvent) -> ConnectionRecord:
        opened = self._open.pop(key, None)
        record = self._record(event, Path.KERNEL)
        proven = self._proven.pop(key, 0) == event.source_workload != 0
        return self._end(
            replace(
                record,
                attested=opened.attested if opened is not None else proven,
                connect_us=opened.connect_us if opened is not None else 0,
                bytes_sent=event.bytes_sent,
                bytes_received=event.bytes_received,
                duration_us=event.duration_ns // 1000,
            ),
            event,
        )

    def _end(self, record: ConnectionRecord, event: KernelEvent) -> ConnectionRecord:
        return replace(record, ended_at=self._now(), reason=reason_text(event.reason))

    def _record(self, event: KernelEvent, path: Path) -> ConnectionRecord:
        source = self._directory.workload(event.source_workload)
        destination = self._directory.workload(event.destination_workload)
        return ConnectionRecord(
            path=path,
            direction="outbound",
            source=_format(event.source, event.source_port),
            destination=_format(event.destination, event.destination_port),
            original_destination=_format(event.original, event.original_port),
            source_workload=source.text if source else "",
            destination_workload=destination.text if destination else "",
            service=self._directory.service_hostname(event.service_id),
            source_identity=source.identity if source else "",
            destination_identity=destination.identity if destination else "",
        )


def _put(table: OrderedDict[_Tuple, _V], key: _Tuple, value: _V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _MOST:
        table.popitem(last=False)


def _format(address: IpAddress | None, port: int) -> str:
    if address is None:
        return ""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
