# SPDX-License-Identifier: Apache-2.0
"""The file source: one mesh file and its policy files, watched, turned into events.

::

    stat every half second ─ changed and settled? ─▶ a process parses it ─┬─▶ changes() ─▶ queue
                                                                          └─▶ problem: status, log;
                                                                              the last good stays

Works for editors that write in place or rename, for symlinks that are swapped (ConfigMap volumes),
and for a file that is away for a moment. Where only policy files changed, only they are read.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agent.sources.apart import parse_mesh_apart, parse_policies_apart
from agent.sources.changes import changes
from agent.sources.places import (
    PolicyPlace,
    Signature,
    digest_of,
    read_file,
    read_policy_texts,
    signature_of,
)
from agent.sources.problems import MeshFileError
from agent.sources.settings import MeshFile
from mesh.model.events import Event, InSync

__all__ = ["SOURCE_NAME", "FileSource", "FileStatus", "read_mesh_file"]

log = logging.getLogger(__name__)

SOURCE_NAME: Final = "file"
"""The source that InSync names."""

_SETTLE_SECONDS: Final = 0.1
"""A file must have stood still for so long: half a file may be valid, with half the workloads."""

_SETTLE_LIMIT_SECONDS: Final = 5.0
"""A file that never stands still is read after so long all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStatus:
    """How the source fares, for ``nodemesh status``."""

    path: str
    generation: int
    """Counts the contents that were taken; 0 before the first."""
    last_loaded: datetime | None
    """When the state in force was read (UTC)."""
    last_error: str | None
    """Why the file as it is now cannot be used; None while it is in force."""


def read_mesh_file(path: Path) -> MeshFile:
    """Read a mesh file once, in this process. Raises MeshFileError with every problem found."""
    from agent.sources.convert import parse_mesh  # noqa: PLC0415 - 6 MB that an agent never needs

    return parse_mesh(read_file(path), str(path), base=path.absolute().parent)


class FileSource:
    """Watches one mesh file. Call load() to start from a good file, then run() in a TaskGroup.

    ``on_load`` is called in the event loop, or in load(), with every new content that is good,
    before its events are queued: for settings, which are no facts of the mesh.
    """

    def __init__(
        self,
        path: Path,
        *,
        poll_seconds: float = 0.5,
        settle_seconds: float = _SETTLE_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_load: Callable[[MeshFile], None] | None = None,
    ) -> None:
        self._path = path
        self._poll_seconds = poll_seconds
        self._settle_seconds = settle_seconds
        self._now = now
        self._on_load = on_load
        self._places: tuple[PolicyPlace, ...] = ()
        self._seen: Signature | None = None
        self._digest = b""
        self._current: MeshFile | None = None
        self._generation = 0
        self._last_loaded: datetime | None = None
        self._last_error: str | None = None

    @property
    def current(self) -> MeshFile | None:
        """The last good content; None before the first."""
        return self._current

    @property
    def status(self) -> FileStatus:
        """How the source fares now."""
        return FileStatus(
            path=str(self._path),
            generation=self._generation,
            last_loaded=self._last_loaded,
            last_error=self._last_error,
        )

    def load(self) -> MeshFile:
        """Read the file now, for the first time. Raises MeshFileError."""
        self._seen = self._look()
        content = read_file(self._path)
        mesh_file = parse_mesh_apart(content, str(self._path), base=self._base)
        self._take(_digest(content), mesh_file)
        return mesh_file

    async def run(self, queue: asyncio.Queue[Event]) -> None:
        """Queue what is known, then InSync, then every change; until cancelled.

        Without a good file there is no InSync, and so nothing is removed anywhere.
        """
        if self._current is None:
            await self._reload()
        told: MeshFile | None = None
        while True:
            if self._current is not None and self._current is not told:
                for event in changes(told, self._current):
                    await queue.put(event)
                if told is None:
                    await queue.put(InSync(SOURCE_NAME))
                told = self._current
            await asyncio.sleep(self._poll_seconds)
            if await asyncio.to_thread(self._look) != self._seen:
                await self._reload()

    @property
    def _base(self) -> Path:
        return self._path.absolute().parent

    def _look(self) -> Signature:
        return signature_of(self._path, self._places)

    async def _reload(self) -> None:
        """Read what is there once it stands still; keep what is in force if it is no good."""
        self._seen = await self._settled()
        try:
            digest, mesh_file = await asyncio.to_thread(self._read)
        except MeshFileError as error:
            self._refuse(str(error))
            if error.places is not None:
                self._watch(error.places)
        else:
            if mesh_file is self._current:
                self._last_error = None
                self._watch(mesh_file.policy_places)
            else:
                self._take(digest, mesh_file)

    def _read(self) -> tuple[bytes, MeshFile]:
        """What the files say now, and the digest of the mesh file. Raises MeshFileError."""
        file, current = str(self._path), self._current
        content = read_file(self._path)
        digest = _digest(content)
        if current is None or digest != self._digest:
            return digest, parse_mesh_apart(content, file, base=self._base, have=current)
        if not current.policy_places:
            return digest, current
        texts = read_policy_texts(file, self._base, current.policy_places)
        if digest_of(texts) == current.policy_digest:
            return digest, current
        return digest, parse_policies_apart(file, base=self._base, have=current)

    def _watch(self, places: tuple[PolicyPlace, ...]) -> None:
        """Look at these from now on; they may have changed since they were read."""
        if places != self._places:
            self._places = places
            self._seen = None

    async def _settled(self) -> Signature:
        """Wait until the files have been the same for a moment."""
        before = await asyncio.to_thread(self._look)
        for _ in range(int(_SETTLE_LIMIT_SECONDS / self._settle_seconds)):
            await asyncio.sleep(self._settle_seconds)
            after = await asyncio.to_thread(self._look)
            if after == before:
                break
            before = after
        return before

    def _take(self, digest: bytes, mesh_file: MeshFile) -> None:
        self._digest = digest
        self._current = mesh_file
        self._watch(mesh_file.policy_places)
        self._generation += 1
        self._last_loaded = self._now()
        self._last_error = None
        log.info("mesh file %s taken, generation %d", self._path, self._generation)
        if self._on_load is not None:
            self._on_load(mesh_file)

    def _refuse(self, reason: str) -> None:
        if reason != self._last_error:
            kept = "nothing is in force yet" if self._current is None else "the last good one stays"
            log.warning("mesh file cannot be used, %s: %s", kept, reason)
        self._last_error = reason


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
