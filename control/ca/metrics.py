# SPDX-License-Identifier: Apache-2.0
"""Figures of the authority: the doorway to ``prometheus_client`` on this side."""

from collections.abc import Callable
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from control.ca.errors import AuthorityError, Refusal

__all__ = ["CaMetrics"]


class CaMetrics:
    """Counts what was signed and refused. Labels come from enums only, never from a request."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._issued = Counter(
            "nodemesh_ca_issued_total", "Certificates signed.", registry=self.registry
        )
        self._refused = Counter(
            "nodemesh_ca_refused_total",
            "Requests not signed, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._expiry = Gauge(
            "nodemesh_ca_authority_not_after_seconds",
            "Unix time at which the authority's chain expires.",
            registry=self.registry,
        )
        for refusal in Refusal:
            self._refused.labels(reason=refusal.value)

    def issued(self) -> None:
        """Count one certificate."""
        self._issued.inc()

    def refused(self, refusal: Refusal) -> None:
        """Count one refusal."""
        self._refused.labels(reason=refusal.value).inc()

    def authority_expires(self, when: datetime) -> None:
        """Note when the chain in force runs out."""
        self._expiry.set(when.timestamp())

    def serve(self, host: str, port: int) -> Callable[[], None]:
        """Answer GET /metrics in a thread; returns what ends it. AuthorityError if it cannot."""
        try:
            server, thread = start_http_server(port, host, registry=self.registry)
        except OSError as error:
            raise AuthorityError(
                f"cannot serve metrics on {host} port {port}: {error.strerror}"
            ) from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop
