# SPDX-License-Identifier: Apache-2.0
"""Readiness: a list of named tasks that must be done before the agent says it is ready."""

import asyncio
from collections.abc import Iterable

__all__ = ["Readiness"]


class Readiness:
    """Tasks by name, in the order they were named. One that is done never comes back."""

    def __init__(self, tasks: Iterable[str]) -> None:
        self._pending = dict.fromkeys(tasks)
        self._ready = asyncio.Event()
        self._draining = False

    def done(self, task: str) -> None:
        """Strike a task off. Doing it twice is harmless."""
        self._pending.pop(task, None)
        if not self._pending:
            self._ready.set()

    def drain(self) -> None:
        """Say not ready from now on: the agent is leaving."""
        self._draining = True

    @property
    def pending(self) -> list[str]:
        """What is still to be done; ``draining`` once the agent is leaving."""
        return ["draining"] if self._draining else list(self._pending)

    @property
    def is_ready(self) -> bool:
        """Whether every task is done and the agent is not leaving."""
        return not self._draining and not self._pending

    async def wait(self) -> None:
        """Return once every task was done."""
        await self._ready.wait()
