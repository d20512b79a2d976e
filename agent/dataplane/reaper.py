# SPDX-License-Identifier: Apache-2.0
"""Ages what the kernel half leaves for somebody who never came for it."""

import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.abi import policy, structs
from agent.dataplane import bpf

__all__ = [
    "HANDSHAKE_AGE_SECONDS",
    "NONCE_AGE_SECONDS",
    "PEERING_AGE_SECONDS",
    "RECORD_AGE_SECONDS",
    "Reaped",
    "reap",
]

RECORD_AGE_SECONDS = 120.0
"""A flow record waits for the core's accept(); a backlog that old is a core that stands still."""

NONCE_AGE_SECONDS = 15.0
"""A SYN may wait for an answer of the neighbour; later it is lost or has been retransmitted."""


PEERING_AGE_SECONDS = 120.0
"""A flow that was not seen for so long is none to the guard either (bpf/peering.c)."""

HANDSHAKE_AGE_SECONDS = 75.0
"""Linux sends a SYN-ACK for 63 s before it gives up (tcp_synack_retries 5)."""


@dataclass(frozen=True, slots=True)
class Reaped:
    """How many rows of each kind have been deleted."""

    records: int
    nonces: int
    peerings: int


def reap(maps: Mapping[str, int], *, now_ns: int | None = None) -> Reaped:
    """Deletes old flow records, nonces and peerings. Times are CLOCK_MONOTONIC."""
    now = time.monotonic_ns() if now_ns is None else now_ns
    return Reaped(
        _reap_records(maps["flow_records"], now),
        _reap_counted(maps["nonces"], maps["nonces_aged"], lambda _, row: _aged_nonce(row, now)),
        _reap_counted(
            maps["peerings"], maps["peerings_aged"], lambda key, row: _aged_peering(key, row, now)
        ),
    )


def _reap_records(fd: int, now: int) -> int:
    oldest = now - int(RECORD_AGE_SECONDS * 1e9)
    removed = 0
    for key, value in bpf.batch_items(fd, bpf.map_info(fd)):
        if structs.FlowRecord.from_buffer_copy(value).created_ns < oldest:
            removed += bpf.map_delete(fd, key)
    return removed


def _aged_nonce(value: bytes, now: int) -> int | None:
    """The pod whose nonce is too old."""
    record = structs.NonceRecord.from_buffer_copy(value)
    old = record.created_ns < now - int(NONCE_AGE_SECONDS * 1e9)
    return record.netns_cookie if old else None


def _aged_peering(raw: bytes, value: bytes, now: int) -> int | None:
    """The pod whose handshake has not ended, or whose flow has."""
    key = policy.PeeringKey.from_buffer_copy(raw)
    is_handshake = key.protocol == socket.IPPROTO_TCP
    age = HANDSHAKE_AGE_SECONDS if is_handshake else PEERING_AGE_SECONDS
    old = policy.Peering.from_buffer_copy(value).seen_ns < now - int(age * 1e9)
    return key.netns_cookie if old else None


def _reap_counted(fd: int, aged_fd: int, is_aged: Callable[[bytes, bytes], int | None]) -> int:
    """Each aged row is given back to its pod's quota: made - consumed - aged are in use."""
    aged: Counter[int] = Counter()
    for key, value in bpf.batch_items(fd, bpf.map_info(fd)):
        cookie = is_aged(key, value)
        if cookie is not None and bpf.map_delete(fd, key):
            aged[cookie] += 1
    for cookie, count in aged.items():
        key = cookie.to_bytes(8, sys.byteorder)
        before = int.from_bytes(bpf.map_lookup(aged_fd, key, 8) or b"", sys.byteorder)
        bpf.map_update(aged_fd, key, (before + count).to_bytes(8, sys.byteorder))
    return aged.total()
