# SPDX-License-Identifier: Apache-2.0
"""Who asks, and what may they have? One protocol, so that proofs can be exchanged."""

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from control.ca.errors import AuthorityError, Refusal, RefusedError
from control.ca.files import read_private
from mesh.model.identity import Identity

__all__ = ["Caller", "CallerVerifier", "TokenFileVerifier"]

SHORTEST_TOKEN: Final = 16
"""Characters. A token is random, not a password: 32 random bytes in base64 are 43."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Someone who proved a name."""

    name: str
    """For the log; never the proof itself."""

    identity: Identity | None = None
    """The caller's own, if it has one."""


class CallerVerifier(Protocol):
    """Turns the token of a call into a caller, and judges what that caller asks for."""

    async def authenticate(self, token: str) -> Caller:
        """RefusedError UNAUTHENTICATED for a token that proves nothing, UNABLE if unknown."""
        ...

    async def authorize(self, caller: Caller, wanted: Identity) -> None:
        """RefusedError NOT_PERMITTED if the caller may not have ``wanted``."""
        ...


class TokenFileVerifier(CallerVerifier):
    """Node agents that share a bootstrap token, kept in a file of mode 0600.

    A line of the file is a token; several are valid while one is being replaced, ``#`` begins a
    comment. The file is read again for every call, so that a removed token ends at once; a file
    that cannot be used lets nobody in. A holder may ask for any identity of the trust domain: it
    is the node's, not a pod's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def tokens(self) -> list[bytes]:
        """Digests of the tokens in the file. AuthorityError if it cannot be used."""
        lines = [line.strip() for line in read_private(self._path).splitlines()]
        tokens = [line for line in lines if line and not line.startswith(b"#")]
        if not tokens:
            raise AuthorityError(f"{self._path} holds no token")
        if any(len(token) < SHORTEST_TOKEN for token in tokens):
            raise AuthorityError(
                f"a token in {self._path} has fewer than {SHORTEST_TOKEN} characters: make one "
                "with `openssl rand -base64 32`"
            )
        return [hashlib.sha256(token).digest() for token in tokens]

    async def authenticate(self, token: str) -> Caller:
        """Compare the token with those in the file."""
        try:
            known = self.tokens()
        except AuthorityError as error:
            raise RefusedError(
                Refusal.UNABLE, "the authority cannot check tokens at present; see its log"
            ) from error
        given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        # Digests have one length, and every one is compared: time tells nothing about a token.
        matches = [hmac.compare_digest(given, digest) for digest in known]
        if not any(matches):
            raise RefusedError(Refusal.UNAUTHENTICATED, "the bearer token is not known here")
        return Caller(name="bootstrap-token")

    async def authorize(self, caller: Caller, wanted: Identity) -> None:
        """Permit all: a node agent asks for its pods, whatever their names."""
