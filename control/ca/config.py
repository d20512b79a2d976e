# SPDX-License-Identifier: Apache-2.0
"""Settings of the authority process."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from control.ca.errors import AuthorityError
from mesh.model.errors import InvalidIdentityError
from mesh.model.identity import check_trust_domain
from wire.x509 import Curve

__all__ = ["CaConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaConfig:
    """One authority process."""

    host: str
    """Address to listen on."""

    port: int = 15012
    """Istio's number for CA and discovery; 0 takes any."""

    state_dir: Path
    """Key and certificates; made with mode 0700."""

    trust_domain: str
    """The only trust domain that is signed for."""

    token_file: Path
    """Bootstrap tokens of the node agents, mode 0600; made, with one token, if missing."""

    names: tuple[str, ...]
    """DNS names and addresses under which agents dial this server."""

    max_lifetime: timedelta = timedelta(hours=24)
    """Longest lifetime of a leaf, and of the server's own certificate."""

    root_file: Path | None = None
    """Where to publish the roots (mode 0644) beside the state directory, for agents to read."""

    curve: Curve = Curve.P256
    """Of a root made here. P-384 costs a verifier about 10 times the CPU of P-256."""

    requests_per_second: float = 50.0
    """For each source address, after a burst."""

    burst: int = 1000
    """Requests that a source may send at once."""

    metrics: tuple[str, int] | None = None
    """Address and port of GET /metrics; None: no metrics endpoint."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the setting."""
        try:
            check_trust_domain(self.trust_domain)
        except InvalidIdentityError as error:
            raise AuthorityError(f"trust domain: {error}") from error
        if not 0 <= self.port <= 65535:
            raise AuthorityError(f"port must lie in 0..65535, not {self.port}")
        if self.max_lifetime < timedelta(seconds=1):
            raise AuthorityError("the longest lifetime must be at least a second")
        if not self.names:
            raise AuthorityError("the server needs a name or address that agents dial: give --name")
        if self.requests_per_second <= 0 or self.burst < 1:
            raise AuthorityError("the rate limit must allow something")
