# SPDX-License-Identifier: Apache-2.0
"""Ports of rules: ranges of a protocol, and the prefixes that a longest prefix match finds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["EVERY_PORT", "PORT_BITS", "PortRange", "complement", "intersect", "prefixes"]

PORT_BITS: Final = 16
_PORT_MAX: Final = (1 << PORT_BITS) - 1


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Ports ``low`` to ``high`` of one protocol (IANA's number), both included."""

    protocol: int
    low: int = 0
    high: int = _PORT_MAX


EVERY_PORT: Final = (0, _PORT_MAX)


def prefixes(low: int, high: int) -> Iterator[tuple[int, int]]:
    """The fewest (port, leading bits) that make up a range; 30 at most."""
    while low <= high:
        size = (low & -low) or 1 << PORT_BITS
        while size > high - low + 1:
            size >>= 1
        yield low, PORT_BITS - size.bit_length() + 1
        low += size


def complement(ports: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """The ranges that hold every port but these."""
    found: list[tuple[int, int]] = []
    start = 0
    for port in sorted(set(ports)):
        if start < port:
            found.append((start, port - 1))
        start = port + 1
    if start <= _PORT_MAX:
        found.append((start, _PORT_MAX))
    return tuple(found)


def intersect(
    first: Iterable[tuple[int, int]], second: Iterable[tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    """The ports in a range of both."""
    others = tuple(second)
    found = {
        (max(low, other_low), min(high, other_high))
        for low, high in first
        for other_low, other_high in others
        if max(low, other_low) <= min(high, other_high)
    }
    return tuple(sorted(found))
