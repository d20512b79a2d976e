# SPDX-License-Identifier: Apache-2.0
"""The bytes of a stream, told by its seed: either end can check any byte of any length.

Each block starts with the seed and its own number, so bytes of another stream, or of another
place of the same one, never look right.
"""

import random
import struct
from dataclasses import dataclass

__all__ = ["BLOCK", "Checker", "Pattern"]

BLOCK = 1 << 16
_BASE = random.Random(20).randbytes(1 << 20)


class Pattern:
    """The stream of one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._number = -1
        self._block = b""

    def read(self, offset: int, size: int) -> bytes:
        """At most ``size`` bytes from ``offset``, up to the end of the block there."""
        number, inside = divmod(offset, BLOCK)
        if number != self._number:
            head = struct.pack("!QQ", self._seed, number)
            start = (self._seed * 31 + number * 977) % (len(_BASE) - BLOCK)
            self._block = head + _BASE[start : start + BLOCK - len(head)]
            self._number = number
        return self._block[inside : inside + size]


@dataclass
class Checker:
    """Holds what arrives against the pattern."""

    pattern: Pattern
    size: int
    received: int = 0
    wrong_at: int = -1
    """Offset of the first byte that is not as it was sent, or more than was sent; -1 if none."""

    def take(self, data: bytes) -> None:
        """Judge the next bytes."""
        offset = 0
        while offset < len(data) and self.wrong_at < 0:
            want = self.pattern.read(self.received + offset, len(data) - offset)
            want = want[: self.size - self.received - offset]
            have = data[offset : offset + len(want)]
            if not want or have != want:
                same = next((i for i in range(len(want)) if have[i] != want[i]), len(want))
                self.wrong_at = self.received + offset + same
            offset += len(want)
        self.received += len(data)

    @property
    def complete(self) -> bool:
        """Whether all arrived as it was sent."""
        return self.wrong_at < 0 and self.received == self.size
