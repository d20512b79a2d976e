# SPDX-License-Identifier: Apache-2.0
"""Keeps SVIDs fresh: fetches, renews at half life, waits longer after each failure.

::

    want ──▶ one task per identity:  fetch ──ok──▶ SvidUpdated, rest to half life ─┐
                                       ▲ └─failed─▶ SvidFailed, back off ──────────┤
                                       └───────────────────────────────────────────┘
                                     old one ran out while resting ──▶ SvidExpired
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Final

from agent.errors import PkiError
from agent.pki.clock import Clock
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
from agent.pki.svid import Svid
from mesh.model.identity import Identity

__all__ = ["Rotator", "backoff_seconds", "renewal_time"]

log = logging.getLogger(__name__)

CONCURRENT_FETCHES: Final = 8
"""As ztunnel: a node that starts does not flood the authority."""

BACKOFF_FIRST_SECONDS: Final = 1.0
BACKOFF_MOST_SECONDS: Final = 150.0
BACKOFF_JITTER: Final = 0.2
"""As ztunnel: 1 s, doubled, at most 150 s, give or take a fifth."""

RENEWAL_JITTER: Final = 0.1
"""Half life, give or take a tenth of it: nodes that started together drift apart."""

SHORTEST_REST: Final = timedelta(milliseconds=200)
"""Between a success and the next fetch, however short the certificate's life."""


def renewal_time(*, now: datetime, not_after: datetime, random: Random) -> datetime:
    """Return half of the life that is left, with jitter.

    Counted from receipt, not from ``not_before``: that lies in the past for peers whose clock is
    late, and would make a certificate of a minute seem half spent when it arrives.
    """
    share = 0.5 * (1 + RENEWAL_JITTER * random.uniform(-1, 1))
    return now + max((not_after - now) * share, SHORTEST_REST)


def backoff_seconds(failures: int, random: Random) -> float:
    """Return the pause after the given number of failures in a row (1 or more)."""
    # The exponent is bounded, so that a day of failures does not overflow.
    pause = min(BACKOFF_FIRST_SECONDS * 2.0 ** min(failures - 1, 16), BACKOFF_MOST_SECONDS)
    return pause * (1 + BACKOFF_JITTER * random.uniform(-1, 1))


@dataclass(slots=True)
class _Entry:
    svid: Svid | None = None
    failures: int = 0
    last_error: str = ""
    next_attempt: datetime | None = None
    task: "asyncio.Task[None] | None" = None


class Rotator(SvidProvider):
    """Fetches SVIDs by a function, typically :meth:`agent.pki.issuance.CaIssuer.fetch`."""

    def __init__(
        self, fetch: Callable[[Identity], Awaitable[Svid]], *, clock: Clock, random: Random
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._random = random
        self._entries: dict[Identity, _Entry] = {}
        self._slots = asyncio.Semaphore(CONCURRENT_FETCHES)
        self._group: asyncio.TaskGroup | None = None
        self._updates: asyncio.Queue[SvidEvent] = asyncio.Queue()

    @property
    def updates(self) -> "asyncio.Queue[SvidEvent]":
        """Return the queue of what happened."""
        return self._updates

    def want(self, identities: Iterable[Identity]) -> None:
        """Start keeping the new ones and forget those not named."""
        wanted = set(identities)
        for identity in [i for i in self._entries if i not in wanted]:
            self._forget(identity)
        for identity in sorted(wanted - self._entries.keys()):
            entry = self._entries[identity] = _Entry()
            self._start(identity, entry)

    def current(self, identity: Identity) -> Svid | None:
        """Return the SVID in force, None if there is no valid one."""
        entry = self._entries.get(identity)
        if entry is None or entry.svid is None or entry.svid.not_after <= self._clock.now():
            return None
        return entry.svid

    def status(self) -> list[SvidStatus]:
        """Return one line for each wanted identity, sorted."""
        return [
            describe(
                identity,
                self.current(identity),
                renew_at=entry.next_attempt,
                last_error=entry.last_error,
            )
            for identity, entry in sorted(self._entries.items(), key=lambda item: item[0])
        ]

    async def run(self) -> None:
        """Keep what is wanted until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for identity, entry in self._entries.items():
                    self._start(identity, entry)
                await asyncio.Event().wait()
            finally:
                self._group = None

    def _start(self, identity: Identity, entry: _Entry) -> None:
        if self._group is not None:
            task = self._group.create_task(self._keep(identity, entry), name=f"svid {identity}")
            entry.task = task

    def _forget(self, identity: Identity) -> None:
        entry = self._entries.pop(identity)
        if entry.task is not None:
            entry.task.cancel()
        self._updates.put_nowait(SvidForgotten(identity))

    async def _keep(self, identity: Identity, entry: _Entry) -> None:
        while True:
            async with self._slots:
                entry.next_attempt = await self._attempt(identity, entry)
            await self._rest(identity, entry, until=entry.next_attempt)

    async def _attempt(self, identity: Identity, entry: _Entry) -> datetime:
        """Fetch once; return when to fetch again."""
        try:
            svid = await self._fetch(identity)
        except PkiError as error:
            return self._failed(identity, entry, str(error))
        now = self._clock.now()
        entry.svid, entry.failures, entry.last_error = svid, 0, ""
        self._updates.put_nowait(SvidUpdated(svid))
        again = renewal_time(now=now, not_after=svid.not_after, random=self._random)
        fields = {
            "identity": identity,
            "serial": svid.serial,
            "expires": f"{svid.not_after:%FT%TZ}",
            "renewal": f"{again:%FT%TZ}",
        }
        log.info("got a certificate", extra={"fields": fields})
        return again

    def _failed(self, identity: Identity, entry: _Entry, reason: str) -> datetime:
        entry.failures += 1
        entry.last_error = reason
        pause = backoff_seconds(entry.failures, self._random)
        again = self._clock.now() + timedelta(seconds=pause)
        self._updates.put_nowait(SvidFailed(identity, reason, again))
        fields = {
            "identity": identity,
            "reason": reason,
            "retry_seconds": round(pause, 1),
            "old_still_valid": self.current(identity) is not None,
        }
        log.warning("could not get a certificate", extra={"fields": fields})
        return again

    async def _rest(self, identity: Identity, entry: _Entry, *, until: datetime) -> None:
        """Sleep; when the one in force runs out meanwhile, withdraw it at that moment."""
        if entry.svid is not None and entry.svid.not_after <= until:
            await self._clock.sleep_until(entry.svid.not_after)
            entry.svid = None
            self._updates.put_nowait(SvidExpired(identity))
            fields = {"identity": identity, "reason": entry.last_error}
            log.error("a certificate expired before it was renewed", extra={"fields": fields})
        await self._clock.sleep_until(until)
