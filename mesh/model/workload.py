# SPDX-License-Identifier: Apache-2.0
"""A workload: one thing with an address and an identity, usually a pod."""

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import NewType

from mesh.model.address import IpAddress
from mesh.model.errors import InvalidWorkloadError
from mesh.model.identity import Identity
from mesh.model.labels import NO_LABELS, Labels
from mesh.model.names import check_dns_subdomain
from mesh.model.service import Protocol, check_port

__all__ = [
    "DATAPLANE_MODE_LABEL",
    "DEFAULT_CLUSTER",
    "DataplaneMode",
    "TunnelProtocol",
    "Workload",
    "WorkloadPort",
    "WorkloadUid",
    "pod_uid",
]

WorkloadUid = NewType("WorkloadUid", str)
"""Opaque and stable: ``cluster/group/kind/namespace/name`` (istio.workload.Workload.uid)."""

DEFAULT_CLUSTER = "Kubernetes"
"""What Istio calls a cluster that was given no name."""

DATAPLANE_MODE_LABEL = "istio.io/dataplane-mode"


@unique
class DataplaneMode(StrEnum):
    """The values of the label istio.io/dataplane-mode that mean something here."""

    AMBIENT = "ambient"
    NONE = "none"


@unique
class TunnelProtocol(StrEnum):
    """How a workload takes traffic from other nodes (istio.workload.TunnelProtocol)."""

    NONE = "none"
    HBONE = "hbone"


def pod_uid(namespace: str, name: str, *, cluster: str = DEFAULT_CLUSTER) -> WorkloadUid:
    """The uid of a pod: group empty (core), kind Pod."""
    return WorkloadUid(f"{cluster}//Pod/{namespace}/{name}")


@dataclass(frozen=True, slots=True)
class WorkloadPort:
    """A port that the workload gave a name, so that services can say the name."""

    name: str
    port: int
    protocol: Protocol

    def __post_init__(self) -> None:
        check_port(self.port, f"port {self.name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One workload. Raises ModelError when it contradicts itself."""

    uid: WorkloadUid
    name: str
    namespace: str
    identity: Identity
    node: str
    addresses: tuple[IpAddress, ...]
    """Every address of the pod; the first of each family is the one that services send to."""
    labels: Labels = NO_LABELS
    ports: tuple[WorkloadPort, ...] = ()
    netns: str | None = None
    """Path of the network namespace; means something only on the workload's own node."""
    host_network: bool = False
    """It shares the node's network and addresses, so it can be neither captured nor told apart."""
    healthy: bool = True
    """Whether services may send it new connections."""
    tunnel_protocol: TunnelProtocol | None = None
    """What the source knows as a fact; None leaves the answer to the labels."""
    cluster: str = DEFAULT_CLUSTER

    def __post_init__(self) -> None:
        check_dns_subdomain(self.name, "workload name")
        if len(set(self.addresses)) != len(self.addresses):
            raise InvalidWorkloadError(
                f"workload {self.namespace}/{self.name} names an address twice",
                value=self.addresses,
            )
        if self.namespace != self.identity.namespace:
            raise InvalidWorkloadError(
                f"workload {self.namespace}/{self.name} has the identity {self.identity} "
                "of another namespace",
                value=self.identity,
            )

    @property
    def canonical_name(self) -> str:
        """The service that telemetry counts it under (Istio's canonical service)."""
        found = self.labels.first_of(
            "service.istio.io/canonical-name", "app.kubernetes.io/name", "app"
        )
        return found or self.name

    @property
    def canonical_revision(self) -> str:
        """The revision that telemetry counts it under (Istio's canonical revision)."""
        found = self.labels.first_of(
            "service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"
        )
        return found or "latest"

    def port_named(self, name: str, protocol: Protocol) -> int | None:
        """The number of the port with this name and protocol, or None."""
        for port in self.ports:
            if port.name == name and port.protocol is protocol:
                return port.port
        return None
