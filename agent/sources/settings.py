# SPDX-License-Identifier: Apache-2.0
"""What the mesh file says of agents, and the mesh file as a whole once it is read."""

from dataclasses import dataclass, field
from pathlib import Path

from agent.sources.places import PolicyPlace
from mesh.compile.node import DEFAULT_ROOT_NAMESPACE, SameNode
from mesh.model.namespace import Namespace
from mesh.model.node import Node
from mesh.model.policies import Policy
from mesh.model.service import Service
from mesh.model.workload import Workload

__all__ = [
    "AgentSettings",
    "CaCertificates",
    "CertificateSettings",
    "FileCertificates",
    "MeshFile",
    "TunnelSettings",
]

_DAY_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class CaCertificates:
    """Certificates come from a certificate authority over gRPC."""

    address: str
    """host:port of the authority."""
    trust_anchor: Path
    """PEM file of the roots that the authority's own server certificate must chain to."""
    token_file: Path | None = None
    """File with the bearer token to show; None shows none."""
    lifetime_seconds: int = _DAY_SECONDS
    """How long a certificate is to be valid; 24 hours as in Istio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCertificates:
    """Certificates come from a directory that somebody else keeps current."""

    directory: Path


CertificateSettings = CaCertificates | FileCertificates


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSettings:
    """Settings of the byte path. A change of them takes a restart of the agent."""

    workers: int = 0
    """Threads; 0 is one for each core."""
    congestion_control: str = ""
    """TCP congestion control of the tunnels; empty is the system's."""
    spin_microseconds: int = 0
    """How long a thread looks for more work before it sleeps, where that has paid; 0 is never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Settings of every agent of the mesh."""

    same_node: SameNode = SameNode.DIRECT
    certificates: CertificateSettings | None = None
    """None where the file does not say; then no certificate can be had."""
    tunnel: TunnelSettings = field(default_factory=TunnelSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshFile:
    """A mesh file that holds together: every name resolves, nothing is claimed twice."""

    trust_domain: str
    agent: AgentSettings
    nodes: tuple[Node, ...]
    namespaces: tuple[Namespace, ...]
    workloads: tuple[Workload, ...]
    services: tuple[Service, ...]
    policies: tuple[Policy, ...] = ()
    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    """Policies of this namespace hold in every namespace."""
    inline_policies: int = 0
    """So many of the policies, the first ones, stand in the mesh file itself."""
    policy_places: tuple[PolicyPlace, ...] = ()
    """Where the others stand: the entries of ``policyFiles``."""
    policy_digest: bytes = b""
    """Of the files that they were read from."""
