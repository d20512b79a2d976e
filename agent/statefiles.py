# SPDX-License-Identifier: Apache-2.0
"""What an agent keeps in its state directory: the lock of the one writer, and the id table."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.config import Paths
from agent.errors import ConfigError, LockError
from mesh.compile.ids import IdTable, IdTableError

__all__ = ["MAX_ADDED", "IdsFile", "hold_lock", "write_atomically"]

MAX_ADDED: Final = 4096
"""Numbers that are added to a table before it is written anew."""


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
    """The id table and its files; the numbers in pinned maps are these numbers.

    ::

        ids.json      the whole table, written at the first change and after MAX_ADDED numbers
        ids.added     the numbers given since, a line each; its first line says since which table

    At a hundred new pods a second, writing the whole of a table of ten thousand names would take
    half a core.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._added = path.with_suffix(".added")
        self._saved: int | None = None
        self._base: tuple[str, int] | None = None
        """The digest of the file, and how often the table in it was collected."""
        self._lines = 0
        self.table = IdTable()

    def load(self) -> None:
        """Read the files if there are any.

        Raises:
            ConfigError: one is malformed; then nothing tells what the pinned maps mean.

        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        try:
            self.table = IdTable.from_json(text)
            for kind, name, number in self._read_added(_digest(text)):
                self.table.restore(kind, name, number)
        except IdTableError as error:
            raise ConfigError(
                f"{self._path}: {error}. Without it nobody knows what the pinned maps mean: run "
                "`nodemesh cleanup` and start again"
            ) from error
        self._saved = self.table.revision

    @property
    def is_due(self) -> bool:
        """Whether there is something to save."""
        return self.table.revision != self._saved

    def save(self) -> bool:
        """Write what changed; before any of its numbers reaches the kernel."""
        if not self.is_due:
            return False
        revision = self.table.revision
        base, self._base = self._base, None  # until it is written, for the next time
        given = self.table.take_given()
        fits = self._lines + len(given) <= MAX_ADDED
        if base is not None and base[1] == self.table.collected and fits:
            self._append(given)
        else:
            text = self.table.to_json()
            base = (_digest(text), self.table.collected)
            write_atomically(self._path, text)
            write_atomically(self._added, base[0] + "\n")
            self._lines = 0
        self._base, self._saved = base, revision
        return True

    def _append(self, given: list[tuple[str, str, int]]) -> None:
        with self._added.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(one) + "\n" for one in given)
            file.flush()
            os.fsync(file.fileno())
        self._lines += len(given)

    def _read_added(self, digest: str) -> Iterator[tuple[str, str, int]]:
        """The lines of the other file, if they belong to this table."""
        try:
            text = self._added.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        # The last is empty, or was being written when the agent ended: then nobody has the number.
        head, *lines = text.split("\n")[:-1] or [""]
        if head != digest:
            return  # of a table before this one, which has them
        for line in lines:
            try:
                match json.loads(line):
                    case [str() as kind, str() as name, int() as number]:
                        yield kind, name, number
                        continue
                    case _:
                        pass
            except ValueError:
                pass
            raise IdTableError(f"{self._added} has a malformed line: {line[:80]!r}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
