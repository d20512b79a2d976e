# SPDX-License-Identifier: Apache-2.0
"""Makes the provider that the settings ask for."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom
from typing import assert_never

from agent.errors import PkiError
from agent.pki.ca_process import CaProcess
from agent.pki.ca_settings import CaSettings
from agent.pki.clock import Clock, WallClock
from agent.pki.files import FilesProvider
from agent.pki.issuance import CaIssuer
from agent.pki.provider import SvidProvider
from agent.pki.rotation import Rotator
from agent.pki.svid import Svid
from mesh.model.identity import Identity

__all__ = ["FilesSettings", "PkiSettings", "open_provider"]


@dataclass(frozen=True, slots=True)
class FilesSettings:
    """A directory that another tool fills."""

    directory: Path


PkiSettings = CaSettings | FilesSettings | None
"""None: nothing is set. Then no certificate can be had, and the reason says so."""


@contextlib.asynccontextmanager
async def open_provider(
    settings: PkiSettings, *, clock: Clock | None = None, random: Random | None = None
) -> AsyncIterator[SvidProvider]:
    """Yield a provider whose ``run`` is the caller's to start; ends its process after."""
    clock = clock or WallClock()
    match settings:
        case CaSettings():
            async with CaProcess(settings) as authority:
                issuer = CaIssuer(authority, lifetime=settings.lifetime, clock=clock)
                yield Rotator(issuer.fetch, clock=clock, random=random or SystemRandom())
        case None:
            yield Rotator(_nothing_is_set, clock=clock, random=random or SystemRandom())
        case FilesSettings(directory=directory):
            yield FilesProvider(directory, clock=clock)
        case _:
            assert_never(settings)


async def _nothing_is_set(identity: Identity) -> Svid:
    raise PkiError(
        f"no certificate for {identity}: the mesh file does not say where certificates come from "
        "(agent.certificates)"
    )
