# SPDX-License-Identifier: Apache-2.0
"""Connections that the kernel forwards by itself, put together from what it tells.

::

    ATTESTED ──▶ open, inbound    the destination's guard consumed the SYN's nonce: proof
    CONNECTED ─▶ open, outbound   the source's socket is established
    CLOSED ────▶ the records of both sides
    PASSTHROUGH, DENIED, DROPPED ─▶ a record at once: there is nothing more to follow

The kernel tells in a ring buffer that may lose events under load; then a record lacks its proof or
its end, and the loss is counted. Both tables here are bounded; the oldest entry goes first.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import Enum
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
    def kind(self) -> Enum:
        """``EventKind`` of agent.abi: CONNECTED, PASSTHROUGH, DENIED, ATTESTED, CLOSED, DROPPED."""

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
    def reason(self) -> int: ...  # noqa: D102
    @property
    def bytes_sent(self) -> int: ...  # noqa: D102
    @property
    def bytes_received(self) -> int: ...  # noqa: D102
    @property
    def duration_ns(self) -> int: ...  # noqa: D102


_V = TypeVar("_V")
_Tuple = tuple[IpAddress | None, int, IpAddress | None, int]


class KernelFlows:
    """Follows the kernel's connections. Lives on the event loop's thread."""

    def __init__(self, directory: Directory, *, now: Callable[[], float]) -> None:
        self._directory = directory
        self._now = now
        self._outbound: OrderedDict[_Tuple, ConnectionRecord] = OrderedDict()
        self._inbound: OrderedDict[_Tuple, ConnectionRecord] = OrderedDict()

    def observe(self, events: Iterable[KernelEvent]) -> list[ConnectionRecord]:
        """Take events in, and return what ended by them."""
        return [record for event in events for record in self._observe(event)]

    def open_records(self) -> list[ConnectionRecord]:
        """Return what is open; its age is not followed, so ``duration_us`` is 0."""
        return [*self._outbound.values(), *self._inbound.values()]

    def _observe(self, event: KernelEvent) -> Iterable[ConnectionRecord]:
        key = (event.source, event.source_port, event.destination, event.destination_port)
        match event.kind.name:
            case "ATTESTED":
                self._attest(key, event)
            case "CONNECTED":
                self._connect(key, event)
            case "CLOSED":
                yield from self._close(key, event)
            case "PASSTHROUGH":
                yield self._end(self._record(event, Path.PASSTHROUGH), event)
            case "DROPPED":
                record = self._record(event, Path.KERNEL)
                yield self._end(replace(record, direction="inbound"), event)
            case _:
                yield self._end(self._record(event, Path.KERNEL), event)

    def _attest(self, key: _Tuple, event: KernelEvent) -> None:
        record = self._record(event, Path.KERNEL)
        _put(self._inbound, key, replace(record, direction="inbound", attested=True, open=True))
        opened = self._outbound.get(key)
        if opened is not None and opened.source_identity == record.source_identity:
            self._outbound[key] = replace(opened, attested=True)

    def _connect(self, key: _Tuple, event: KernelEvent) -> None:
        record = self._record(event, Path.KERNEL)
        if event.source_workload == event.destination_workload != 0:
            # A pod that calls itself goes over its lo, where there is no guard and no stranger:
            # the kernel knows the socket's pod, and that it stays there.
            self._attest(key, event)
        proven = self._inbound.get(key)
        if proven is not None:
            # The guard does not know what was dialled before the service was resolved.
            self._inbound[key] = replace(proven, original_destination=record.original_destination)
        record = replace(
            record,
            connect_us=event.duration_ns // 1000,
            attested=proven is not None and proven.source_identity == record.source_identity,
            open=True,
        )
        _put(self._outbound, key, record)

    def _close(self, key: _Tuple, event: KernelEvent) -> Iterable[ConnectionRecord]:
        opened = self._outbound.pop(key, None)
        proven = self._inbound.pop(key, None)
        record = replace(
            opened if opened is not None else self._record(event, Path.KERNEL),
            bytes_sent=event.bytes_sent,
            bytes_received=event.bytes_received,
            duration_us=event.duration_ns // 1000,
        )
        if proven is not None:
            same = proven.source_identity == record.source_identity
            yield self._end(replace(record, attested=record.attested or same), event)
            yield self._end(
                replace(
                    proven,
                    bytes_sent=event.bytes_received,
                    bytes_received=event.bytes_sent,
                    duration_us=event.duration_ns // 1000,
                ),
                event,
            )
        else:
            yield self._end(record, event)

    def _end(self, record: ConnectionRecord, event: KernelEvent) -> ConnectionRecord:
        return replace(record, open=False, ended_at=self._now(), reason=reason_text(event.reason))

    def _record(self, event: KernelEvent, path: Path) -> ConnectionRecord:
        source = self._directory.workload(event.source_workload)
        destination = self._directory.workload(event.destination_workload)
        if path is Path.KERNEL and destination is not None and not destination.enrolled:
            # Known, and so resolved and followed by the kernel, but not in the mesh.
            path = Path.PASSTHROUGH
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
