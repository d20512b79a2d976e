# SPDX-License-Identifier: Apache-2.0
"""Makes a pinned map equal to its wanted content: have, want, difference.

``have`` is read from the kernel once and then remembered: one agent writes. ``forget`` makes the
next write read again.
"""

from collections.abc import Collection

from agent.dataplane import bpf
from agent.dataplane.rows import MapContent

__all__ = ["TableMap"]


class TableMap:
    """One hash map whose content is compiled, never learnt."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._info = bpf.map_info(fd)
        self._have: dict[bytes, bytes] | None = None

    @property
    def have(self) -> dict[bytes, bytes]:
        """What the kernel holds."""
        if self._have is None:
            self._have = dict(bpf.batch_items(self._fd, self._info))
        return self._have

    def forget(self) -> None:
        """The next use reads the kernel's content again."""
        self._have = None

    def add(self, want: MapContent) -> int:
        """Writes every entry of these that is new or differs; returns how many."""
        have = self.have
        changed = [(key, value) for key, value in want.items() if have.get(key) != value]
        try:
            for key, value in changed:
                bpf.map_update(self._fd, key, value)
                have[key] = value
        except BaseException:
            self.forget()
            raise
        return len(changed)

    def remove(self, gone: Collection[bytes]) -> int:
        """Deletes these entries, as far as they are there; returns how many."""
        have = self.have
        surplus = [key for key in gone if key in have]
        try:
            for key in surplus:
                bpf.map_delete(self._fd, key)
                del have[key]
        except BaseException:
            self.forget()
            raise
        return len(surplus)

    def keep(self, want: Collection[bytes]) -> int:
        """Deletes every entry that is not wanted; returns how many."""
        return self.remove([key for key in self.have if key not in want])
