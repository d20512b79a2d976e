# SPDX-License-Identifier: Apache-2.0
"""Time as an argument. Certificates live by the wall clock, so waiting does too."""

import asyncio
from datetime import UTC, datetime
from typing import Final, Protocol

__all__ = ["Clock", "WallClock"]

LONGEST_NAP_SECONDS: Final = 30.0
"""A loop timer does not see the wall clock being set, nor a suspended machine: look again."""


class Clock(Protocol):
    """The time, and waiting for a time."""

    def now(self) -> datetime:
        """Return the time, with time zone."""
        ...

    async def sleep_until(self, when: datetime) -> None:
        """Return when it is ``when`` or later."""
        ...


class WallClock(Clock):
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        return datetime.now(UTC)

    async def sleep_until(self, when: datetime) -> None:
        """Nap until it is time."""
        # Time is no event that could be awaited: the wall clock may be set meanwhile.
        while (left := (when - self.now()).total_seconds()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, LONGEST_NAP_SECONDS))
