# SPDX-License-Identifier: Apache-2.0
"""The authority process, from files to an open port; reads top to bottom as the boot sequence."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from control.ca.authority import AuthorityStore
from control.ca.config import CaConfig
from control.ca.errors import AuthorityError
from control.ca.files import write_atomically
from control.ca.issue import IssueRules
from control.ca.limiter import RateLimiter
from control.ca.metrics import CaMetrics
from control.ca.server import CaServer, ServerCertificate
from control.ca.service import CertificateService
from control.ca.verifier import TokenFileVerifier

__all__ = ["run"]

log = logging.getLogger(__name__)

RELOAD_SECONDS: Final = 2.0
"""How often the files of the authority are looked at."""

GRACE_SECONDS: Final = 2.0
"""How long calls in progress may finish at the end."""


def utc_now() -> datetime:
    """Read the wall clock: certificates live by it."""
    return datetime.now(UTC)


async def run(
    config: CaConfig,
    *,
    clock: Callable[[], datetime] = utc_now,
    on_listening: Callable[[int], None] | None = None,
) -> None:
    """Serve until cancelled. AuthorityError if it cannot start; the text says what to do.

    ``on_listening`` is called once with the port in use.
    """
    metrics = CaMetrics()
    authority = AuthorityStore(
        config.state_dir, trust_domain=config.trust_domain, curve=config.curve
    )
    authority.open(now=clock())
    _publish(config, authority, metrics)

    verifier = TokenFileVerifier(ensure_token(config.token_file))
    verifier.tokens()  # a file that cannot be used is said now, not at the first call

    service = CertificateService(
        authority=authority,
        rules=IssueRules(trust_domain=config.trust_domain, max_lifetime=config.max_lifetime),
        verifier=verifier,
        limiter=RateLimiter(per_second=config.requests_per_second, burst=config.burst),
        metrics=metrics,
        clock=clock,
    )
    certificate = ServerCertificate(
        authority, hosts=config.names, lifetime=config.max_lifetime, clock=clock
    )
    server = CaServer(service, certificate)
    async with contextlib.AsyncExitStack() as at_end:
        if config.metrics is not None:
            at_end.callback(metrics.serve(*config.metrics))
        port = await server.start(config.host, config.port)
        at_end.push_async_callback(server.stop, grace_seconds=GRACE_SECONDS)
        fields = {"address": config.host, "port": port, "trust_domain": config.trust_domain}
        log.info("the certificate authority listens", extra={"fields": fields})
        if on_listening is not None:
            on_listening(port)
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            if authority.reload(now=clock()):
                _publish(config, authority, metrics)


def ensure_token(path: Path) -> Path:
    """Make the token file, with one random token, if there is none."""
    if not path.exists():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise AuthorityError(f"cannot make {path.parent}: {error.strerror}") from error
        token = secrets.token_urlsafe(32).encode("ascii")
        write_atomically(path, token + b"\n", mode=0o600, replace=False)
        log.info("made a bootstrap token for the node agents", extra={"fields": {"file": path}})
    return path


def _publish(config: CaConfig, authority: AuthorityStore, metrics: CaMetrics) -> None:
    metrics.authority_expires(authority.current.not_after)
    if config.root_file is not None:
        pem = authority.current.roots_pem.encode("ascii")
        write_atomically(config.root_file, pem, mode=0o644)
