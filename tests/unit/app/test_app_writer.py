# SPDX-License-Identifier: Apache-2.0
"""Lines to a pipe that nobody reads, or that reads late: whoever writes never waits."""

import fcntl
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.telemetry.log import configure_logging, dropped_lines, flush_log
from agent.telemetry.writer import LineWriter

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe of one page."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def read_until(reading: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(reading, 65536)
    return data


def test_a_full_pipe_blocks_nobody_and_is_written_when_it_is_read(pipe: Pipe) -> None:
    reading, writing = pipe
    writer = LineWriter(writing, name="test", most_lines=10)
    line = b"x" * 2000 + b"\n"
    started = time.monotonic()
    for _ in range(25):
        writer.put(1, lambda: line)
    assert not writer.flush(0.05)
    assert time.monotonic() - started < 2
    assert writer.dropped >= 25 - 10 - 2  # two fit into the pipe
    kept = 25 - writer.dropped
    assert read_until(reading, kept * len(line)) == line * kept
    assert writer.close()


def test_a_pipe_that_does_not_block_loses_nothing(pipe: Pipe) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    writer = LineWriter(writing, name="test", most_lines=10)
    data = b"y" * 20_000
    writer.put(1, lambda: data)
    assert read_until(reading, len(data)) == data
    assert writer.close()
    assert writer.dropped == 0


def test_a_full_disk_is_counted() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(descriptor, name="test", most_lines=10)
    writer.put(3, lambda: b"a\nb\nc\n")
    assert writer.close()
    os.close(descriptor)
    assert writer.dropped == 3


def test_the_log_never_waits_for_standard_error(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reading, writing = pipe
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    with (tmp_path / "other").open("w") as other, os.fdopen(os.dup(writing), "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        try:
            configure_logging(level="info", as_json=False)
            for number in range(5000):
                logging.getLogger("agent.test").info("line %d", number)
            assert dropped_lines() > 2000
            # Whoever waits in the pipe gets the first lines, whole.
            kept = 5000 - dropped_lines()
            text = b""
            while text.count(b"\n") < kept:
                text += os.read(reading, 65536)
            assert text.splitlines()[0].endswith(b"info    agent.test: line 0")
            flush_log()
        finally:
            monkeypatch.setattr(sys, "stderr", other)
            for handler in root.handlers:
                handler.close()
            root.handlers[:] = before
            root.setLevel(level)
