# SPDX-License-Identifier: Apache-2.0
"""From an identity to an SVID by way of an authority: a new key, a request, the answer proven.

Each SVID has a key of its own, made here; it is never written and dies with the SVID.
"""

from datetime import timedelta
from typing import Protocol

from agent.errors import CsrRejectedError, PkiError
from agent.pki.clock import Clock
from agent.pki.svid import Svid
from mesh.model.identity import Identity
from wire.x509 import PrivateKey, X509Error, build_request, parse_certificates

__all__ = ["Authority", "CaIssuer"]


class Authority(Protocol):
    """Signs requests; :class:`agent.pki.ca_process.CaProcess` is one."""

    async def create_certificate(
        self, identity: Identity, csr: str, *, lifetime: timedelta
    ) -> list[str]:
        """Return PEM: the leaf, its issuers, the roots last. PkiError if there is none."""
        ...


class CaIssuer:
    """Gets SVIDs of ``lifetime`` from an authority, which may make it shorter."""

    def __init__(self, authority: Authority, *, lifetime: timedelta, clock: Clock) -> None:
        self._authority = authority
        self._lifetime = lifetime
        self._clock = clock

    async def fetch(self, identity: Identity) -> Svid:
        """Get a new SVID. PkiError says why there is none."""
        key = PrivateKey.generate()
        request = build_request(key, uri=str(identity))
        answer = await self._authority.create_certificate(
            identity, request, lifetime=self._lifetime
        )
        return self._svid(identity, key, answer)

    def _svid(self, identity: Identity, key: PrivateKey, answer: list[str]) -> Svid:
        if len(answer) < 2:
            raise PkiError(
                f"the authority answered with {len(answer)} certificates for {identity}: the leaf, "
                "its issuers and the root are needed"
            )
        try:
            chain = parse_certificates("\n".join(answer[:-1]).encode())
            # The last entry holds the root, or several while one is being replaced (istiod too).
            roots = parse_certificates(answer[-1].encode())
        except X509Error as error:
            raise PkiError(f"the authority's answer for {identity} is damaged: {error}") from error
        try:
            return Svid.of(identity, chain=chain, key=key, roots=roots, at=self._clock.now())
        except PkiError as error:
            raise CsrRejectedError(
                f"the authority's answer for {identity} cannot be used: {error}"
            ) from error
