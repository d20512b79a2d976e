# SPDX-License-Identifier: Apache-2.0
"""Writes lines in a thread of its own, so that nobody waits for a reader that does not read.

Standard output and standard error of an agent are pipes to a container runtime. When that stalls,
a write blocks for as long as it does; on the event loop, everything would block with it.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

__all__ = ["LineWriter"]

_PATIENCE_SECONDS: Final = 1.0
"""How long one look at a full descriptor that does not block takes."""


class LineWriter:
    """A bounded queue of lines and the thread that writes them. Any thread may put."""

    def __init__(self, descriptor: int, *, name: str, most_lines: int) -> None:
        self._descriptor = descriptor
        self._most_lines = most_lines
        self._queue: deque[tuple[int, Callable[[], bytes]]] = deque()
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        self.dropped = 0
        """Lines that were not written: too many waited, or the descriptor took no more."""
        # A daemon: a reader that never reads must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, lines: int, make: Callable[[], bytes]) -> None:
        """Write what ``make`` returns, soon; the thread calls it. Drops the lines if too many wait.

        One call is written with one write, so make it many lines.
        """
        with self._changed:
            if self._closed or self._waiting + lines > self._most_lines:
                self.dropped += lines
                return
            self._waiting += lines
            self._queue.append((lines, make))
            self._changed.notify_all()

    def flush(self, seconds: float = 1.0) -> bool:
        """Wait until everything is written, for at most so long. Returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, seconds)

    def close(self, seconds: float = 1.0) -> bool:
        """Take nothing more and flush. Returns whether the descriptor is no longer in use."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.flush(seconds)
        self._thread.join(0.1)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
                lines, make = self._queue.popleft()
            try:
                self._write(make())
            except OSError:
                self.dropped += lines
            finally:
                with self._changed:
                    self._waiting -= lines
                    self._changed.notify_all()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Somebody who shares the descriptor has made it non-blocking.
                with suppress(ValueError):
                    select.select([], [self._descriptor], [], _PATIENCE_SECONDS)
