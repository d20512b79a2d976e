# SPDX-License-Identifier: Apache-2.0
"""The labels of the ``istio_tcp_*`` metrics, as ztunnel writes them: dashboards keep working.

A missing value is ``unknown``. Source: ztunnel's src/proxy/metrics.rs and Istio's standard metrics.
"""

from collections.abc import Mapping
from typing import Final

from mesh.reasons import Reason
from mesh.tables import PeerRow, ServiceId, ServiceRow, WorkloadId

__all__ = ["TCP_LABELS", "reason_text", "resolve", "response_flag", "tcp_labels", "with_flag"]

TCP_LABELS: Final = (
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
)

_UNKNOWN: Final = "unknown"

_FLAGS: Final[Mapping[Reason, str]] = {
    Reason.NONE: "-",
    Reason.POLICY_DENY: "DENY",
    Reason.CONNECT_DENIED: "DENY",
    Reason.UPSTREAM_CONNECT_FAILED: "CONNECT",
    Reason.CONNECT_UNAVAILABLE: "CONNECT",
    Reason.CONNECT_BAD_REQUEST: "CONNECT",
    Reason.APP_CONNECT_FAILED: "CONNECT",
    Reason.UPSTREAM_CONNECT_TIMEOUT: "NETWORK_POLICY",
    Reason.TLS_HANDSHAKE_FAILED: "TLS_FAILURE",
    Reason.H2_PROTOCOL_ERROR: "H2_HANDSHAKE_FAILURE",
    Reason.PEER_IDENTITY_MISMATCH: "IDENTITY_ERROR",
    Reason.NO_SVID: "IDENTITY_ERROR",
}
"""ztunnel's flags for what ztunnel can say; every other reason is its own name."""


def response_flag(reason: int) -> str:
    """The ``response_flags`` label of a reason number; an unknown number reads ``unknown``."""
    try:
        known = Reason(reason)
    except ValueError:
        return _UNKNOWN
    return _FLAGS.get(known, known.name)


def reason_text(number: int) -> str:
    """Return the stable text of a reason, or ``reason-N`` for one this agent does not know."""
    try:
        return Reason(number).text
    except ValueError:
        return f"reason-{number}"


def tcp_labels(
    *,
    reporter: str,
    source: PeerRow | None,
    destination: PeerRow | None,
    service: ServiceRow | None,
    secure: bool,
) -> tuple[str, ...]:
    """Values for ``TCP_LABELS``, with ``response_flags`` left as ``-``."""
    return (
        reporter,
        *_side(source),
        *(
            (service.hostname, service.namespace, service.name)
            if service is not None
            else (_UNKNOWN, _UNKNOWN, _UNKNOWN)
        ),
        *_side(destination),
        "tcp",
        "-",
        "mutual_tls" if secure else _UNKNOWN,
    )


_FLAG_INDEX: Final = TCP_LABELS.index("response_flags")


def with_flag(labels: tuple[str, ...], flag: str) -> tuple[str, ...]:
    """The same labels with another ``response_flags``."""
    return (*labels[:_FLAG_INDEX], flag, *labels[_FLAG_INDEX + 1 :])


def _side(row: PeerRow | None) -> tuple[str, ...]:
    """Workload, canonical service and revision, namespace, principal, app, version, cluster."""
    if row is None:
        return (_UNKNOWN,) * 8
    return (
        row.name or _UNKNOWN,
        row.canonical_name or _UNKNOWN,
        row.canonical_revision or _UNKNOWN,
        row.namespace or _UNKNOWN,
        str(row.identity) or _UNKNOWN,
        row.app or _UNKNOWN,
        row.version or _UNKNOWN,
        row.cluster or _UNKNOWN,
    )


def resolve(
    peers: Mapping[WorkloadId, PeerRow],
    services: Mapping[ServiceId, ServiceRow],
    *,
    source: int,
    destination: int,
    service: int,
) -> tuple[PeerRow | None, PeerRow | None, ServiceRow | None]:
    """Rows behind three numbers; None where a number is 0 or unknown."""
    return (
        peers.get(WorkloadId(source)),
        peers.get(WorkloadId(destination)),
        services.get(ServiceId(service)),
    )
