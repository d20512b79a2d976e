# SPDX-License-Identifier: Apache-2.0
"""Rows: what the sinks must make true on this node. Whole and desired, never deltas.

Every row is frozen and hashable, and names the key it is stored under, so that a sink can read
back what it has, diff against what it should have, and apply the difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, unique
from typing import NewType

from mesh.model.address import IpAddress
from mesh.model.identity import Identity
from mesh.model.service import Protocol
from mesh.model.workload import WorkloadUid

__all__ = [
    "EndpointKey",
    "EndpointRow",
    "EnrollmentRow",
    "FrontendKey",
    "FrontendRow",
    "PeerRow",
    "Route",
    "ServiceId",
    "ServiceRow",
    "SvidRow",
    "Tables",
    "WorkloadId",
    "WorkloadRow",
]

WorkloadId = NewType("WorkloadId", int)
"""A number for a workload, unique on this node for as long as its pins live; 0 is never given."""

ServiceId = NewType("ServiceId", int)
"""A number for a service, like WorkloadId; 0 means no service."""


@unique
class Route(IntEnum):
    """How the connect hook sends a connection on. Mirrors ``enum route`` in mesh_types.h."""

    DIRECT = 1
    """By the kernel, untouched or load balanced: same node, or a destination outside the mesh."""
    TUNNEL = 2
    """Captured and carried over HBONE: an enrolled workload of another node."""
    DENY = 3
    """connect() fails at once."""


@dataclass(frozen=True, slots=True, order=True)
class FrontendKey:
    """What an application dials to reach a service: VIP, port, protocol."""

    address: IpAddress
    port: int
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class FrontendRow:
    """A service port and the number of endpoints behind it. ``endpoint_count`` 0 refuses.

    ``frontend_id`` numbers (service, port, address family); endpoints 0..endpoint_count-1 are
    stored under it. A key with port 0 says that the address is a VIP: dialling a port of it that
    has no row of its own is refused (NO_SERVICE_PORT), never sent to the wire.
    """

    key: FrontendKey
    frontend_id: int
    service_id: ServiceId
    endpoint_count: int


@dataclass(frozen=True, slots=True, order=True)
class EndpointKey:
    """The place of an endpoint in its frontend, counted from 0 without holes."""

    frontend_id: int
    index: int


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """One address and port behind a frontend; ``workload_id`` 0 where no workload is known."""

    key: EndpointKey
    address: IpAddress
    port: int
    workload_id: WorkloadId


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    """An address of the mesh and how to reach it from an enrolled pod of this node.

    ``enrolled`` says that the workload is in the mesh; ``local`` that it is on this node. A local
    enrolled workload with route DIRECT is reached with a SYN nonce.
    """

    key: IpAddress
    workload_id: WorkloadId
    route: Route
    enrolled: bool
    local: bool


@dataclass(frozen=True, slots=True)
class EnrollmentRow:
    """A pod of this node that is captured. The dataplane chooses its capture ports."""

    key: WorkloadUid
    workload_id: WorkloadId
    identity: Identity
    netns: str
    """Path of the pod's network namespace, such as /var/run/netns/x or /proc/123/ns/net."""
    addresses: tuple[IpAddress, ...]


@dataclass(frozen=True, slots=True)
class PeerRow:
    """A workload as the tunnel and telemetry see it: whom to expect at its addresses."""

    key: WorkloadId
    uid: WorkloadUid
    name: str
    namespace: str
    identity: Identity
    node: str
    addresses: tuple[IpAddress, ...]
    enrolled: bool
    canonical_name: str
    canonical_revision: str
    app: str
    version: str
    cluster: str


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A service as telemetry sees it."""

    key: ServiceId
    namespace: str
    name: str
    hostname: str


@dataclass(frozen=True, slots=True)
class SvidRow:
    """An identity for which this node needs a certificate."""

    key: Identity


@dataclass(frozen=True, slots=True)
class Tables:
    """All rows of one node, by key."""

    frontends: Mapping[FrontendKey, FrontendRow] = field(default_factory=dict)
    endpoints: Mapping[EndpointKey, EndpointRow] = field(default_factory=dict)
    workloads: Mapping[IpAddress, WorkloadRow] = field(default_factory=dict)
    enrollments: Mapping[WorkloadUid, EnrollmentRow] = field(default_factory=dict)
    peers: Mapping[WorkloadId, PeerRow] = field(default_factory=dict)
    services: Mapping[ServiceId, ServiceRow] = field(default_factory=dict)
    svids: Mapping[Identity, SvidRow] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    """Sentences for people: what was claimed twice and who got it, what cannot be captured."""
