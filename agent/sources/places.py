# SPDX-License-Identifier: Apache-2.0
"""The files that a mesh is written in: the mesh file, and those that its ``policyFiles`` names.

Looks at them and reads them; what they say is nothing that this module knows.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from agent.sources.problems import MAX_BYTES, MeshFileError, Problem

__all__ = [
    "PolicyPlace",
    "Signature",
    "Written",
    "digest_of",
    "find_policy_files",
    "read_file",
    "read_policy_texts",
    "signature_of",
]

_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
"""What kubectl takes of a directory."""

_MAX_FILES: Final = 4096
"""Of policies: each costs two system calls, twice a second. Together they may have MAX_BYTES."""

Signature = tuple[object, ...]
"""What changes when a file does, whatever way it is written."""


class PolicyPlace(NamedTuple):
    """An entry of ``policyFiles``: a file or a directory, and the entry's line."""

    path: str
    line: int


class Written(NamedTuple):
    """A file by the name that people are told, and its content."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class _Around:
    """The mesh file as it was named, and the directory that its relative paths start at."""

    file: str
    base: Path


def signature_of(path: Path, places: Iterable[PolicyPlace] = ()) -> Signature:
    """Of the mesh file and of every policy file there is; what cannot be seen is None."""
    found: list[object] = [_stat(path)]
    around = _Around(str(path), path.absolute().parent)
    for place in places:
        try:
            files = _files(around, place)
        except OSError:
            found.append(None)
        else:
            found += ((name, _stat(real)) for name, real in files)
    return tuple(found)


def digest_of(written: Iterable[Written]) -> bytes:
    """The same for the same files with the same contents."""
    total = hashlib.sha256()
    for name, content in written:
        total.update(name.encode(errors="surrogateescape") + b"\0")
        total.update(hashlib.sha256(content).digest())
    return total.digest()


def read_policy_texts(file: str, base: Path, places: Sequence[PolicyPlace]) -> list[Written]:
    """Every policy file once, in the order of the entries. Raises MeshFileError."""
    around = _Around(file, base)
    seen: set[Path] = set()
    texts: list[Written] = []
    problems: list[Problem] = []
    left = MAX_BYTES
    for index, place in enumerate(places):
        try:
            for name, real in _files(around, place):
                if real in seen:
                    continue
                seen.add(real)
                texts.append(Written(name, read_file(real, name)))
                left -= len(texts[-1].content)
        except MeshFileError as error:
            problems += error.problems
        except OSError as error:
            reason = f'"{place.path}" cannot be read: {_reason(error)}'
            problems.append(Problem(place.line, 1, f"policyFiles[{index}]", reason))
        if len(texts) > _MAX_FILES or left < 0:
            reason = f"more than {_MAX_FILES} policy files, or {MAX_BYTES // 1024**2} MiB of them"
            problems.append(Problem(place.line, 1, f"policyFiles[{index}]", reason))
            break
    if problems:
        raise MeshFileError(file, problems, places=tuple(places))
    return texts


def find_policy_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Each file, and of each directory the policy files in it. Raises OSError."""
    for path in paths:
        if path.is_dir():
            yield from (path / name for name in _policy_names(path))
        else:
            yield path


def read_file(path: Path, name: str = "") -> bytes:
    """The content of a regular file of bearable size. Raises MeshFileError."""
    name = name or str(path)
    try:
        # A FIFO would otherwise hold the thread until somebody writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _unreadable(name, "is not a regular file")
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(name, _reason(error)) from error


def _files(around: _Around, place: PolicyPlace) -> Iterator[tuple[str, Path]]:
    """Names for people, and real places. Raises OSError where a directory cannot be listed."""
    real, shown = around.base / place.path, Path(around.file).parent / place.path
    if not stat.S_ISDIR(real.stat().st_mode):
        return iter([(str(shown), real)])
    return iter([(str(shown / name), real / name) for name in _policy_names(real)])


def _policy_names(directory: Path) -> list[str]:
    """Not those of directories in it, and not hidden ones (editors, ConfigMap volumes)."""
    names = (name for name in os.listdir(directory) if not name.startswith("."))  # noqa: PTH208
    return sorted(
        name for name in names if Path(name).suffix in _SUFFIXES and not (directory / name).is_dir()
    )


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _unreadable(name: str, reason: str) -> MeshFileError:
    return MeshFileError(name, [Problem(1, 1, "", f"cannot be read: {reason}", file=name)])
