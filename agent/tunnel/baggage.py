# SPDX-License-Identifier: Apache-2.0
"""The ``baggage`` header of CONNECT: who the client is, for the far side's telemetry.

Form and names as ztunnel writes them (its src/baggage.rs); W3C Baggage for the syntax. The far side
believes none of it for policy.
"""

from urllib.parse import quote

from mesh.tables import PeerRow

__all__ = ["format_baggage"]


def format_baggage(row: PeerRow) -> str:
    """``k8s.cluster.name=…,k8s.namespace.name=…,…``; values are percent-encoded, empty left out."""
    pairs = (
        ("k8s.cluster.name", row.cluster),
        ("k8s.namespace.name", row.namespace),
        ("k8s.pod.name", row.name),
        ("service.name", row.canonical_name),
        ("service.version", row.canonical_revision),
    )
    return ",".join(f"{key}={quote(value, safe='-._~/')}" for key, value in pairs if value)
