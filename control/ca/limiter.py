# SPDX-License-Identifier: Apache-2.0
"""A token bucket for each source address."""

from collections import OrderedDict
from typing import Final

__all__ = ["RateLimiter"]

MOST_SOURCES: Final = 8192
"""Buckets kept; about 200 bytes each. The one unused for longest goes first."""


class RateLimiter:
    """Allows ``burst`` calls at once and ``per_second`` after that, for each source.

    The defaults let a node start 1,000 identities at once: four times Kubernetes' usual pods.
    """

    def __init__(self, *, per_second: float = 50.0, burst: int = 1000) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, source: str, *, now: float) -> bool:
        """Take one from the bucket of ``source``; false if it is empty. ``now`` in seconds."""
        left, since = self._buckets.get(source, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - since) * self._per_second)
        allowed = left >= 1.0
        self._buckets[source] = (left - 1.0 if allowed else left, now)
        self._buckets.move_to_end(source)
        if len(self._buckets) > MOST_SOURCES:
            self._buckets.popitem(last=False)
        return allowed
