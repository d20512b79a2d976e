# SPDX-License-Identifier: Apache-2.0
"""What the kernel half tells: events, totals and statistics, as plain records."""

import ctypes
import struct
import sys
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from agent.abi import structs
from agent.abi.codec import decode_address, decode_port
from agent.abi.policy import Direction
from agent.abi.structs import EventKind, Statistic
from agent.dataplane import bpf
from mesh.model.address import IpAddress
from mesh.reasons import Reason
from mesh.tables import Route, ServiceId, WorkloadId

__all__ = [
    "KernelEvent",
    "TrafficTotal",
    "decode_event",
    "forget_traffic",
    "read_statistics",
    "read_traffic",
]


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One thing that happened on the kernel's path; an address is None where it is not known."""

    kind: EventKind
    reason: Reason
    protocol: int
    """IPPROTO_TCP or IPPROTO_UDP."""

    direction: Direction | None
    """Which end was judged; None where the event says no verdict."""

    source_workload: WorkloadId
    destination_workload: WorkloadId
    """0: not in the mesh, or not known."""

    service_id: ServiceId
    source: IpAddress | None
    source_port: int
    destination: IpAddress | None
    destination_port: int
    original: IpAddress | None
    """What the application dialled; equals the destination but for services."""

    original_port: int
    bytes_sent: int
    bytes_received: int
    duration_ns: int
    time_ns: int
    """CLOCK_MONOTONIC."""


@dataclass(frozen=True, slots=True)
class TrafficTotal:
    """Totals of one (source, destination, service, route, reason, protocol), ever since."""

    source_workload: WorkloadId
    destination_workload: WorkloadId
    service_id: ServiceId
    route: Route
    reason: Reason
    protocol: int
    opened: int
    closed: int
    failed: int
    attested: int
    bytes_sent: int
    bytes_received: int


def decode_event(raw: bytes) -> KernelEvent:
    """A record of the ring buffer; ValueError where it is none of ours."""
    event = structs.Event.from_buffer_copy(raw)
    return KernelEvent(
        kind=EventKind(event.kind),
        reason=Reason(event.reason),
        protocol=event.protocol,
        direction=Direction(event.direction) if event.direction else None,
        source_workload=WorkloadId(event.source_workload),
        destination_workload=WorkloadId(event.destination_workload),
        service_id=ServiceId(event.service_id),
        source=decode_address(event.source),
        source_port=decode_port(event.source_port),
        destination=decode_address(event.destination),
        destination_port=decode_port(event.destination_port),
        original=decode_address(event.original),
        original_port=decode_port(event.original_port),
        bytes_sent=event.bytes_sent,
        bytes_received=event.bytes_received,
        duration_ns=event.duration_ns,
        time_ns=event.time_ns,
    )


def _parts(raw: bytes) -> Iterator[structs.Traffic]:
    """The part of each CPU; its size is a multiple of 8 bytes, as the kernel aligns them."""
    for offset in range(0, len(raw), ctypes.sizeof(structs.Traffic)):
        yield structs.Traffic.from_buffer_copy(raw, offset)


def read_traffic(fd: int) -> list[TrafficTotal]:
    """Every total, summed over the CPUs."""
    totals: list[TrafficTotal] = []
    for raw_key, raw in bpf.batch_items(fd, bpf.map_info(fd), batch=1024):
        key = structs.TrafficKey.from_buffer_copy(raw_key)
        parts = list(_parts(raw))
        totals.append(
            TrafficTotal(
                source_workload=WorkloadId(key.source_workload),
                destination_workload=WorkloadId(key.destination_workload),
                service_id=ServiceId(key.service_id),
                route=Route(key.route),
                reason=Reason(key.reason),
                protocol=key.protocol,
                opened=sum(part.opened for part in parts),
                closed=sum(part.closed for part in parts),
                failed=sum(part.failed for part in parts),
                attested=sum(part.attested for part in parts),
                bytes_sent=sum(part.bytes_sent for part in parts),
                bytes_received=sum(part.bytes_received for part in parts),
            )
        )
    return totals


def forget_traffic(fd: int, known: AbstractSet[int]) -> int:
    """Deletes the totals that name a workload outside of ``known``; returns how many."""
    removed = 0
    for raw_key, _ in list(bpf.batch_items(fd, bpf.map_info(fd), batch=1024)):
        key = structs.TrafficKey.from_buffer_copy(raw_key)
        if not {key.source_workload, key.destination_workload} - {0} <= known:
            removed += bpf.map_delete(fd, raw_key)
    return removed


def read_statistics(fd: int) -> dict[Statistic, int]:
    """Every statistic, summed over the CPUs."""
    size = bpf.map_info(fd).stored_value_size
    found: dict[Statistic, int] = {}
    for one in Statistic:
        raw = bpf.map_lookup(fd, one.to_bytes(4, sys.byteorder), size) or b""
        found[one] = sum(struct.unpack(f"={len(raw) // 8}Q", raw))
    return found
