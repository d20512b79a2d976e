# SPDX-License-Identifier: Apache-2.0
"""What every provider of SVIDs does, what it tells, and what can be seen of it."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from agent.pki.svid import Svid
from mesh.model.identity import Identity

__all__ = [
    "SvidEvent",
    "SvidExpired",
    "SvidFailed",
    "SvidForgotten",
    "SvidProvider",
    "SvidState",
    "SvidStatus",
    "SvidUpdated",
]


@dataclass(frozen=True, slots=True)
class SvidUpdated:
    """A new SVID is in force."""

    svid: Svid


@dataclass(frozen=True, slots=True)
class SvidFailed:
    """None could be had just now; an older one stays in force while it is valid."""

    identity: Identity
    reason: str
    """A sentence with the likely cause."""
    retry_at: datetime
    """When it is tried again."""


@dataclass(frozen=True, slots=True)
class SvidExpired:
    """The one in force has run out and is withdrawn."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class SvidForgotten:
    """Nobody wants this identity any more; key and certificate are dropped."""

    identity: Identity


SvidEvent = SvidUpdated | SvidFailed | SvidExpired | SvidForgotten


class SvidState(StrEnum):
    """What an identity has; also a metric label."""

    WAITING = "waiting"
    """The first one is being fetched."""
    VALID = "valid"
    RENEWAL_FAILING = "renewal_failing"
    """Valid still, but the last attempt to renew it failed."""
    FAILED = "failed"
    """There is none, and the last attempt failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SvidStatus:
    """One identity, for people."""

    identity: Identity
    state: SvidState
    serial: str = ""
    issuer: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    renew_at: datetime | None = None
    """When the next attempt is made; None if nothing is planned (files are watched)."""
    last_error: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return plain values; times are seconds since 1970, ``detail`` is the last error."""
        return {
            "identity": str(self.identity),
            "state": self.state.value,
            "serial": self.serial,
            "issuer": self.issuer,
            "not_before": _seconds(self.not_before),
            "not_after": _seconds(self.not_after),
            "renew_at": _seconds(self.renew_at),
            "detail": self.last_error,
        }


def _seconds(when: datetime | None) -> float | None:
    return None if when is None else when.timestamp()


class SvidProvider(Protocol):
    """Keeps an SVID for each wanted identity. ``run`` is a task of the agent's TaskGroup.

    The methods are for the loop's thread. ``want`` may be called before ``run``.
    """

    @property
    def updates(self) -> "asyncio.Queue[SvidEvent]":
        """What happened, in order. There is one reader."""
        ...

    def want(self, identities: Iterable[Identity]) -> None:
        """Say which identities are needed from now on: all of them, and no others."""
        ...

    def current(self, identity: Identity) -> Svid | None:
        """Return the SVID in force, None if there is no valid one."""
        ...

    def status(self) -> list[SvidStatus]:
        """Return one line for each wanted identity, sorted."""
        ...

    async def run(self) -> None:
        """Work until cancelled."""
        ...


def describe(
    identity: Identity, svid: Svid | None, *, renew_at: datetime | None, last_error: str
) -> SvidStatus:
    """Put together the status that follows from what a provider holds."""
    if svid is None:
        state = SvidState.FAILED if last_error else SvidState.WAITING
        return SvidStatus(identity=identity, state=state, renew_at=renew_at, last_error=last_error)
    return SvidStatus(
        identity=identity,
        state=SvidState.RENEWAL_FAILING if last_error else SvidState.VALID,
        serial=svid.serial,
        issuer=svid.issuer,
        not_before=svid.not_before,
        not_after=svid.not_after,
        renew_at=renew_at,
        last_error=last_error,
    )
