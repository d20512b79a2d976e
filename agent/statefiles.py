# SPDX-License-Identifier: Apache-2.0
"""What an agent keeps in its state directory: the lock of the one writer, and the id table."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from agent.config import Paths
from agent.errors import ConfigError, LockError
from mesh.compile.ids import IdTable, IdTableError

__all__ = ["IdsFile", "hold_lock", "write_atomically"]


@contextlib.contextmanager
def hold_lock(paths: Paths) -> Iterator[None]:
    """Be the one agent of this node for as long as the block runs.

    The kernel gives the lock back when the process ends, however it ends.

    Raises:
        LockError: another agent (or cleanup) of this node runs; its process id is named.
        ConfigError: the state directory cannot be made.

    """
    try:
        paths.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(paths.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"cannot use the state directory {paths.state_dir}: {error.strerror}. The agent must "
            "run as root"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise LockError(
                f"another agent already runs with {paths.state_dir} (process {holder}). There is "
                "one agent for each node; stop that one first"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write beside, sync, then rename into place: a crash leaves the old text or the new one."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


class IdsFile:
    """The id table and its file; the numbers in pinned maps are these numbers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved: int | None = None
        self.table = IdTable()

    def load(self) -> None:
        """Read the file if there is one.

        Raises:
            ConfigError: it is malformed; then nothing tells what the pinned maps mean.

        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        try:
            self.table = IdTable.from_json(text)
        except IdTableError as error:
            raise ConfigError(
                f"{self._path}: {error}. Without it nobody knows what the pinned maps mean: run "
                "`nodemesh cleanup` and start again"
            ) from error
        self._saved = self.table.revision

    def save(self) -> bool:
        """Write the table if it changed; before any of its numbers reaches the kernel."""
        revision = self.table.revision
        if revision == self._saved:
            return False
        write_atomically(self._path, self.table.to_json())
        self._saved = revision
        return True
