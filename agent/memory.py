# SPDX-License-Identifier: Apache-2.0
"""What CPython and glibc do with memory by default, and an agent wants otherwise.

An agent is small and lives long, and now and then it handles something big: a new mesh file, the
first compilation. Both allocators keep what such a moment took.
"""

import asyncio
import ctypes
import gc
import os
from typing import Final

__all__ = ["Trimmer", "configure_memory", "freeze_memory"]

_GC_THRESHOLD: Final = 20_000
"""Objects that are made, and not freed, between two looks for cycles; Python's own figure is 700.
A batch of ended connections is hundreds, none of them in a cycle: each would be looked at twice."""

_M_ARENA_MAX: Final = -8
"""Parameter of mallopt(3)."""

_ARENAS: Final = max(2, os.cpu_count() or 1)
"""glibc makes up to eight arenas a core, and what lies in one is of no use to another. Python's
threads take turns by the GIL anyway; one a core is for the core's workers."""

_QUIET_SECONDS: Final = 3.0
"""After a change: by then it is compiled and applied, and what that took is free again."""


def configure_memory() -> None:
    """Set the allocators up; before there are threads. Without glibc nothing is done but the gc."""
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


def freeze_memory() -> None:
    """Say that what is here stays: modules, classes, the first tables.

    Else every full collection walks over all of that, 50 ms and more in which nothing else runs.
    """
    gc.collect()
    gc.freeze()
    _trim()


def _trim() -> None:
    # The pages of what was freed stay with the process until somebody asks for them (malloc_trim(3)
    # looks also into the middle of the heap, which free never does).
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class Trimmer:
    """Gives memory back after something big."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something big begins, or has just happened."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            await asyncio.sleep(_QUIET_SECONDS)
            await asyncio.to_thread(_trim)
