# SPDX-License-Identifier: Apache-2.0
"""A clock that is moved by hand, and an authority in a temporary directory."""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.pki.svid import Svid
from control.ca.app import run
from control.ca.authority import AuthorityStore
from control.ca.config import CaConfig
from mesh.model.identity import Identity
from wire.x509 import (
    Certificate,
    CertificateRequest,
    Issuer,
    PrivateKey,
    build_request,
    leaf_profile,
    make_root,
)

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
CURL = Identity("cluster.local", "shop", "curl")
WEB = Identity("cluster.local", "shop", "web")
TOKEN = "a-token-that-must-never-be-seen-0123456789"


class HandClock:
    """Time stands still until ``advance``; sleepers wake in order."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def now(self) -> datetime:
        return self._now

    async def sleep_until(self, when: datetime) -> None:
        if when <= self._now:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (when, next(self._numbers), future))
        await future

    @property
    def next_wake(self) -> datetime | None:
        return min((s[0] for s in self._sleepers if not s[2].done()), default=None)

    async def advance(self, seconds: float) -> None:
        await settle()
        end = self._now + timedelta(seconds=seconds)
        while self._sleepers and self._sleepers[0][0] <= end:
            when, _, future = heapq.heappop(self._sleepers)
            if future.done():
                continue
            self._now = max(self._now, when)
            future.set_result(None)
            await settle()
        self._now = end
        await settle()


async def settle() -> None:
    """Let every task run until it waits for something real."""
    for _ in range(50):
        await asyncio.sleep(0)


class Root:
    """A root in memory, for making SVIDs without a server."""

    def __init__(self, *, now: datetime = START, days: int = 30) -> None:
        self.key = PrivateKey.generate()
        self.certificate = make_root(
            self.key, organisation="cluster.local", now=now, lifetime=timedelta(days=days)
        )
        self.issuer = Issuer(self.certificate, self.key)

    def leaf(
        self, identity: Identity, key: PrivateKey, *, now: datetime, seconds: float = 3600
    ) -> Certificate:
        request = CertificateRequest.from_pem(build_request(key, uri=str(identity)))
        return self.issuer.sign_request(
            request,
            leaf_profile(str(identity)),
            now=now,
            not_after=now + timedelta(seconds=seconds),
        )

    def svid(self, identity: Identity, *, now: datetime, seconds: float = 3600) -> Svid:
        key = PrivateKey.generate()
        leaf = self.leaf(identity, key, now=now, seconds=seconds)
        return Svid.of(identity, chain=[leaf], key=key, roots=[self.certificate], at=now)

    def write(
        self, directory: Path, identity: Identity, *, now: datetime, seconds: float = 3600
    ) -> Svid:
        """Write cert-manager's three files; returns what they hold."""
        key = PrivateKey.generate()
        leaf = self.leaf(identity, key, now=now, seconds=seconds)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tls.crt").write_text(leaf.pem)
        (directory / "tls.key").touch(mode=0o600)
        (directory / "tls.key").write_bytes(key.to_pem())
        (directory / "ca.crt").write_text(self.certificate.pem)
        return Svid.of(identity, chain=[leaf], key=key, roots=[self.certificate], at=now)


def store(directory: Path, **options: object) -> AuthorityStore:
    return AuthorityStore(directory, trust_domain="cluster.local", **options)  # type: ignore[arg-type]


def write_token(path: Path, token: str = TOKEN) -> Path:
    path.touch(mode=0o600)
    path.write_text(token + "\n")
    return path


def config(tmp_path: Path, **changes: object) -> CaConfig:
    values: dict[str, object] = {
        "host": "127.0.0.1",
        "port": 0,
        "state_dir": tmp_path / "ca",
        "trust_domain": "cluster.local",
        "token_file": tmp_path / "token",
        "names": ("127.0.0.1", "::1", "localhost"),
    }
    return CaConfig(**(values | changes))  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def running_ca(
    settings: CaConfig, *, clock: Callable[[], datetime] | None = None
) -> AsyncIterator[int]:
    """The real authority on loopback; yields its port."""
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    options = {} if clock is None else {"clock": clock}
    task = asyncio.get_running_loop().create_task(
        run(settings, on_listening=listening.set_result, **options)
    )
    done, _ = await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
    if task in done:
        task.result()
    try:
        yield await listening
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
