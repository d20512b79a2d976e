# SPDX-License-Identifier: Apache-2.0
"""A one-slot inbox: the latest value wins, so a slow taker never works through a backlog."""

import asyncio
from typing import Generic, TypeVar

__all__ = ["Inbox"]

T = TypeVar("T")


class Inbox(Generic[T]):
    """Holds at most one value; offering replaces one that was not taken yet."""

    def __init__(self) -> None:
        self._slot: list[T] = []
        self._filled = asyncio.Event()

    def offer(self, value: T) -> None:
        """Put a value in, in place of one that still lies there. Never waits."""
        self._slot = [value]
        self._filled.set()

    async def take(self) -> T:
        """Wait for a value and take it out."""
        await self._filled.wait()
        self._filled.clear()
        return self._slot.pop()
