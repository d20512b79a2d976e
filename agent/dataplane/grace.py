# SPDX-License-Identifier: Apache-2.0
"""Waiting until no program runs any more that began before: an RCU grace period.

Programs run within RCU read-side critical sections. Linux lets the writer of a map of maps wait for
all that had begun (bpf(2) since Linux 4.20: map_update_elem() calls maybe_wait_bpf_programs()), so
one is kept for nothing else. membarrier(2) would not do: it is refused with nohz_full, and waits
for nothing on one CPU, where a program can be preempted all the same.
"""

import os
import sys
from typing import Final

from agent.dataplane import bpf

__all__ = ["Grace"]

_ARRAY: Final = 2
"""BPF_MAP_TYPE_ARRAY."""

_ARRAY_OF_MAPS: Final = 12
"""BPF_MAP_TYPE_ARRAY_OF_MAPS."""


class Grace:
    """Costs some 10 ms a wait, without CPU, so what may pass in the meantime is done before."""

    def __init__(self) -> None:
        self._inner = bpf.map_create(_ARRAY, key_size=4, value_size=4, max_entries=1)
        self._outer = bpf.map_create(
            _ARRAY_OF_MAPS, key_size=4, value_size=4, max_entries=1, inner=self._inner
        )

    def wait(self) -> None:
        """Return when every program that ran at the call has ended. Raises MapError."""
        bpf.map_update(self._outer, bytes(4), self._inner.to_bytes(4, sys.byteorder))

    def close(self) -> None:
        """Let go of the maps."""
        for fd in (self._outer, self._inner):
            os.close(fd)
