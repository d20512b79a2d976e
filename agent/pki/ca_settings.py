# SPDX-License-Identifier: Apache-2.0
"""How an authority is reached."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from agent.errors import ConfigError

__all__ = ["CaSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaSettings:
    """How to reach the authority."""

    address: str
    """HOST:PORT; an IPv6 address in brackets."""
    trust_anchor: Path
    """PEM: the roots that the authority's server certificate must lead to."""
    token_file: Path | None
    """The bearer token; None shows none, for an authority that knows callers by other means."""
    lifetime: timedelta = timedelta(hours=24)
    """Of the SVIDs asked for."""
    cluster_id: str = "Kubernetes"
    """Istio's name of the cluster; istiod with several clusters chooses the token check by it."""
    server_name: str = ""
    """Name expected in the server's certificate, if it is not the host of ``address``."""
    timeout_seconds: float = 10.0
    """For a whole call, connecting included."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the setting."""
        host, _, port = self.address.rpartition(":")
        unclear = ":" in host and not (host.startswith("[") and host.endswith("]"))
        if not host or unclear or not port.isdecimal() or not 0 < int(port) <= 65535:
            raise ConfigError(f"the authority's address {self.address!r} is not HOST:PORT")
        if self.lifetime < timedelta(seconds=1):
            raise ConfigError("certificates must be asked for a second at least")
