# SPDX-License-Identifier: Apache-2.0
"""Ages what the kernel half leaves for somebody who never came for it."""

import sys
import time
from collections import Counter
from collections.abc import Mapping

from agent.abi import structs
from agent.dataplane import bpf

__all__ = ["NONCE_AGE_SECONDS", "RECORD_AGE_SECONDS", "reap"]

RECORD_AGE_SECONDS = 120.0
"""A flow record waits for the core's accept(); a backlog that old is a core that stands still."""

NONCE_AGE_SECONDS = 15.0
"""A SYN may wait for an answer of the neighbour; later it is lost or has been retransmitted."""


def reap(maps: Mapping[str, int], *, now_ns: int | None = None) -> tuple[int, int]:
    """Deletes old flow records and nonces; returns how many of each. Times are CLOCK_MONOTONIC."""
    now = time.monotonic_ns() if now_ns is None else now_ns
    return _reap_records(maps["flow_records"], now), _reap_nonces(maps, now)


def _reap_records(fd: int, now: int) -> int:
    oldest = now - int(RECORD_AGE_SECONDS * 1e9)
    removed = 0
    for key, value in bpf.batch_items(fd, bpf.map_info(fd)):
        if structs.FlowRecord.from_buffer_copy(value).created_ns < oldest:
            removed += bpf.map_delete(fd, key)
    return removed


def _reap_nonces(maps: Mapping[str, int], now: int) -> int:
    """Each aged nonce is given back to its pod's quota: made - consumed - aged are on their way."""
    oldest = now - int(NONCE_AGE_SECONDS * 1e9)
    fd, aged_fd = maps["nonces"], maps["nonces_aged"]
    aged: Counter[int] = Counter()
    for key, value in bpf.batch_items(fd, bpf.map_info(fd)):
        record = structs.NonceRecord.from_buffer_copy(value)
        if record.created_ns < oldest and bpf.map_delete(fd, key):
            aged[record.netns_cookie] += 1
    for cookie, count in aged.items():
        key = cookie.to_bytes(8, sys.byteorder)
        before = int.from_bytes(bpf.map_lookup(aged_fd, key, 8) or b"", sys.byteorder)
        bpf.map_update(aged_fd, key, (before + count).to_bytes(8, sys.byteorder))
    return aged.total()
