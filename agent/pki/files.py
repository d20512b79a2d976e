# SPDX-License-Identifier: Apache-2.0
"""SVIDs from a directory that another tool fills: cert-manager, SPIRE, a script.

::

    DIRECTORY/<namespace>/<service account>/   tls.crt tls.key ca.crt, or other names in ``layouts``

The files are looked at every second, through symbolic links, in a thread. A change that cannot be
used keeps the last good SVID and says which file is wrong and why.
"""

import asyncio
import logging
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from agent.errors import PkiError
from agent.pki.clock import Clock
from agent.pki.layouts import LAYOUTS, FileSet, Stamp, find_files, stamp
from agent.pki.provider import (
    SvidEvent,
    SvidExpired,
    SvidFailed,
    SvidForgotten,
    SvidProvider,
    SvidStatus,
    SvidUpdated,
    describe,
)
from agent.pki.svid import Svid, SvidInvalidError
from mesh.model.identity import Identity
from wire.x509 import PrivateKey, X509Error, parse_certificates

__all__ = ["FilesProvider", "read_svid"]

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Between two looks; three stat calls for each identity."""


@dataclass(slots=True)
class _Entry:
    svid: Svid | None = None
    seen: Stamp | None = None
    """Of the files that were last used with success; others are tried again at each look."""
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class _Found:
    """What one look at one identity gave; nothing new if all is None."""

    svid: Svid | None = None
    seen: Stamp | None = None
    error: str | None = None


class FilesProvider(SvidProvider):
    """Serves what lies in ``directory``."""

    def __init__(
        self, directory: Path, *, clock: Clock, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._look_seconds = look_seconds
        self._entries: dict[Identity, _Entry] = {}
        self._updates: asyncio.Queue[SvidEvent] = asyncio.Queue()
        self._hurry = False
        self._nap: asyncio.Task[None] | None = None

    @property
    def updates(self) -> "asyncio.Queue[SvidEvent]":
        """Return the queue of what happened."""
        return self._updates

    def want(self, identities: Iterable[Identity]) -> None:
        """Look for these from now on, and forget the others."""
        wanted = set(identities)
        for identity in [i for i in self._entries if i not in wanted]:
            del self._entries[identity]
            self._updates.put_nowait(SvidForgotten(identity))
        for identity in sorted(wanted - self._entries.keys()):
            self._entries[identity] = _Entry()
            self._hurry = True
        if self._hurry and self._nap is not None:
            self._nap.cancel()

    def current(self, identity: Identity) -> Svid | None:
        """Return the SVID in force, None if there is no valid one."""
        entry = self._entries.get(identity)
        if entry is None or entry.svid is None or entry.svid.not_after <= self._clock.now():
            return None
        return entry.svid

    def status(self) -> list[SvidStatus]:
        """Return one line for each wanted identity, sorted."""
        return [
            describe(identity, self.current(identity), renew_at=None, last_error=entry.last_error)
            for identity, entry in sorted(self._entries.items(), key=lambda item: item[0])
        ]

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            now, self._hurry = self._clock.now(), False
            seen = {identity: entry.seen for identity, entry in self._entries.items()}
            found = await asyncio.to_thread(self._look, seen, now)
            for identity, result in found.items():
                # It may have been forgotten while the thread was looking.
                if (entry := self._entries.get(identity)) is not None:
                    self._take(identity, entry, result, now)
            self._withdraw_expired(self._clock.now())
            if not self._hurry:
                await self._rest(until=now + timedelta(seconds=self._look_seconds))

    async def _rest(self, *, until: datetime) -> None:
        """Nap in a task of its own, so that ``want`` can end the nap without ending us."""
        async with asyncio.TaskGroup() as group:
            self._nap = group.create_task(self._clock.sleep_until(until), name="nap of files")
        self._nap = None

    def _look(self, seen: dict[Identity, Stamp | None], now: datetime) -> dict[Identity, _Found]:
        return {identity: self._look_at(identity, seen[identity], now) for identity in seen}

    def _look_at(self, identity: Identity, seen: Stamp | None, now: datetime) -> _Found:
        directory = self._directory / identity.namespace / identity.service_account
        try:
            files = find_files(directory)
            if files is None:
                return _Found(error=_nothing_in(directory))
            before = stamp(files)
            if before == seen:
                return _Found(error="")
            svid = read_svid(identity, files, at=now)
            if stamp(files) != before:
                return _Found()  # changed under our eyes: the next look sees it whole
        except PkiError as error:
            return _Found(error=str(error))
        except OSError as error:
            return _Found(error=f"cannot read {error.filename or directory}: {error.strerror}")
        return _Found(svid=svid, seen=before, error="")

    def _take(self, identity: Identity, entry: _Entry, found: _Found, now: datetime) -> None:
        if found.svid is not None:
            entry.seen = found.seen
            entry.last_error = ""
            if found.svid != entry.svid:
                entry.svid = found.svid
                self._updates.put_nowait(SvidUpdated(found.svid))
                fields = {
                    "identity": identity,
                    "serial": found.svid.serial,
                    "expires": f"{found.svid.not_after:%FT%TZ}",
                }
                log.info("read a certificate", extra={"fields": fields})
        elif found.error is not None and found.error != entry.last_error:
            entry.last_error = found.error
            if found.error:
                self._report(identity, entry, now)

    def _report(self, identity: Identity, entry: _Entry, now: datetime) -> None:
        again = now + timedelta(seconds=self._look_seconds)
        self._updates.put_nowait(SvidFailed(identity, entry.last_error, again))
        fields = {
            "identity": identity,
            "reason": entry.last_error,
            "old_still_valid": self.current(identity) is not None,
        }
        log.warning("could not read a certificate", extra={"fields": fields})

    def _withdraw_expired(self, now: datetime) -> None:
        for identity, entry in self._entries.items():
            if entry.svid is not None and entry.svid.not_after <= now:
                entry.svid, entry.seen = None, None
                self._updates.put_nowait(SvidExpired(identity))
                log.error(
                    "a certificate expired and no newer one is in its directory",
                    extra={"fields": {"identity": identity}},
                )


def read_svid(identity: Identity, files: FileSet, *, at: datetime) -> Svid:
    """Read three PEM files. PkiError names the file that is wrong, and why; OSError passes."""
    try:
        chain = parse_certificates(files.chain.read_bytes())
    except X509Error as error:
        raise PkiError(f"{files.chain}: {error}") from error
    try:
        key = PrivateKey.from_pem(files.key.read_bytes())
    except X509Error as error:
        raise PkiError(f"{files.key}: {error}") from error
    try:
        roots = parse_certificates(files.roots.read_bytes())
    except X509Error as error:
        raise PkiError(f"{files.roots}: {error}") from error
    try:
        svid = Svid.of(identity, chain=chain, key=key, roots=roots, at=at)
    except SvidInvalidError as error:
        wrong = {"chain": files.chain, "private_key": files.key, "roots": files.roots}
        raise PkiError(f"{wrong[error.field]}: {error}") from error
    except PkiError as error:
        raise PkiError(f"{files.chain}: {error}") from error
    if files.key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        # Not refused: Kubernetes mounts secrets with mode 0644 unless told otherwise.
        log.warning("everyone may use a private key", extra={"fields": {"file": files.key}})
    return svid


def _nothing_in(directory: Path) -> str:
    wanted = "; ".join(f"{x.chain}, {x.key}, {x.roots}" for x in LAYOUTS)
    if not directory.is_dir():
        return f"{directory} is not there: it should hold certificate, key and roots ({wanted})"
    return f"{directory} does not hold certificate, key and roots; one of: {wanted}"
