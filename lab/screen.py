# SPDX-License-Identifier: Apache-2.0
"""Plain text for a terminal: steps, tables, colour only where a terminal is."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["Screen", "format_table"]


def format_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table; columns as wide as their widest cell."""
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [titles, *rows]
    ]


class Screen:
    """Standard output."""

    def __init__(self) -> None:
        self._tty = sys.stdout.isatty()
        self._colour = self._tty and "NO_COLOR" not in os.environ

    def paint(self, text: str, code: str) -> str:
        """Colour the text (an SGR code of ECMA-48), where colour is wanted."""
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def say(self, text: str = "") -> None:
        """Print a line at once."""
        print(text, flush=True)

    def title(self, text: str) -> None:
        """Print a heading."""
        self.say()
        self.say(self.paint(text, "1"))

    def good(self, text: str) -> None:
        """Print something that holds."""
        self.say(f"  {self.paint('✓', '32')} {text}")

    def bad(self, text: str) -> None:
        """Print something that does not hold."""
        self.say(f"  {self.paint('✗', '31')} {text}")

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Show what is being done, and then how long it took."""
        if self._tty:
            print(f"  … {text}", end="", flush=True)
        began = time.monotonic()
        try:
            yield
        except BaseException:
            if self._tty:
                print(flush=True)
            raise
        seconds = time.monotonic() - began
        back = "\r" if self._tty else ""
        self.say(f"{back}  {self.paint('✓', '32')} {text} {self.paint(f'({seconds:.1f} s)', '2')}")
