# SPDX-License-Identifier: Apache-2.0
"""Files that hold secrets: who may read them is checked on the open file, writes are atomic."""

import os
import stat
import tempfile
from pathlib import Path

from control.ca.errors import AuthorityError

__all__ = ["ensure_private_directory", "read_private", "read_public", "write_atomically"]

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def ensure_private_directory(path: Path) -> None:
    """Make the directory with mode 0700, or refuse one that others may enter."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise AuthorityError(f"cannot use the state directory {path}: {error.strerror}") from error
    _check(status, path, wanted="0700")


def read_private(path: Path) -> bytes:
    """Read a secret. AuthorityError if it is missing, or if anyone but its owner may use it."""
    try:
        with path.open("rb") as file:
            _check(os.fstat(file.fileno()), path, wanted="0600")
            return file.read()
    except OSError as error:
        raise AuthorityError(f"cannot read {path}: {error.strerror}") from error


def read_public(path: Path) -> bytes:
    """Read a file that is no secret. AuthorityError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise AuthorityError(f"cannot read {path}: {error.strerror}") from error


def write_atomically(path: Path, data: bytes, *, mode: int, replace: bool = True) -> None:
    """Write beside, flush to the disk, then put in place: a reader sees the old file or the new.

    With ``replace=False`` an existing file is left alone and AuthorityError raised: two processes
    that make a root at the same time must not mix their halves.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            Path(temporary).replace(path)
            temporary = None
        else:
            path.hardlink_to(temporary)
        _sync_directory(path.parent)
    except OSError as error:
        raise AuthorityError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(status: os.stat_result, path: Path, *, wanted: str) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        raise AuthorityError(
            f"{path} has mode {mode:04o}, so others than its owner may use it: chmod {wanted} it"
        )
    if status.st_uid not in {0, os.geteuid()}:
        raise AuthorityError(f"{path} belongs to user {status.st_uid}: chown it to this process")
