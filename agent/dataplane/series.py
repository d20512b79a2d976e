# SPDX-License-Identifier: Apache-2.0
"""Totals of a workload that is gone go with it, also if no agent was there to see it go."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from agent.dataplane.telemetry import forget_traffic
from mesh.rows import changed_keys
from mesh.tables import Tables

__all__ = ["TrafficSeries"]

_SOONEST_SECONDS: Final = 1.0
"""All totals are read to find those of who is gone: so often at most."""


class TrafficSeries:
    """Knows who has an address or is captured, and forgets the totals of everybody else."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._users: Counter[int] | None = None
        self._is_due = False
        self._soonest = 0.0

    def follow(self, have: Tables | None, want: Tables) -> None:
        """The kernel holds ``want`` now. ``have`` are the tables of the call before, if known."""
        if self._users is None or have is None or not self._step(self._users, have, want):
            before, self._users = self._users, _users(want)
            self._is_due |= before is None or bool(before.keys() - self._users.keys())
        self.forget()

    def forget(self) -> None:
        """Delete what nobody stands for any more, unless that was done a moment ago."""
        now = time.monotonic()
        if self._is_due and self._users is not None and now >= self._soonest:
            forget_traffic(self._fd, self._users.keys())
            self._is_due, self._soonest = False, now + _SOONEST_SECONDS

    def _step(self, users: Counter[int], have: Tables, want: Tables) -> bool:
        """Follow a change by what it touches; False where that is not known."""
        pairs: list[tuple[Mapping[Any, Any], Mapping[Any, Any]]] = [
            (have.workloads, want.workloads),
            (have.enrollments, want.enrollments),
        ]
        touched = [changed_keys(old, new) for old, new in pairs]
        if any(keys is None for keys in touched):
            return False
        gone: set[int] = set()
        for (old, new), keys in zip(pairs, touched, strict=True):
            for key in keys or ():
                if key in old:
                    number = int(old[key].workload_id)
                    users[number] -= 1
                    gone.add(number)
                if key in new:
                    users[int(new[key].workload_id)] += 1
        for number in gone:
            if not users[number]:
                del users[number]
                self._is_due = True
        return True


def _users(tables: Tables) -> Counter[int]:
    users = Counter(int(row.workload_id) for row in tables.workloads.values())
    users.update(int(row.workload_id) for row in tables.enrollments.values())
    return users
