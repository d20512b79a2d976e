# SPDX-License-Identifier: Apache-2.0
"""networking.k8s.io/v1 NetworkPolicy, as the Kubernetes API defines it."""

from dataclasses import dataclass
from enum import Flag, auto
from ipaddress import IPv4Network, IPv6Network

from mesh.model.errors import InvalidPolicyError
from mesh.model.policy import LabelSelector, Origin, PolicyKind, PolicyName
from mesh.model.service import Protocol, check_port

__all__ = [
    "IpBlock",
    "IpNetwork",
    "NetworkPeer",
    "NetworkPolicy",
    "NetworkPort",
    "NetworkRule",
    "PodPeer",
    "PolicyTypes",
]

IpNetwork = IPv4Network | IPv6Network
"""Never IPv4-mapped, and without host bits."""


class PolicyTypes(Flag):
    """Which directions of the selected pods become isolated."""

    INGRESS = auto()
    EGRESS = auto()


@dataclass(frozen=True, slots=True)
class PodPeer:
    """Pods by labels. No ``namespaces``: those of the policy's own namespace."""

    namespaces: LabelSelector | None
    pods: LabelSelector


@dataclass(frozen=True, slots=True)
class IpBlock:
    """Addresses within ``network`` and in none of ``excepts``."""

    network: IpNetwork
    excepts: tuple[IpNetwork, ...] = ()

    def __post_init__(self) -> None:
        for hole in self.excepts:
            if hole.version != self.network.version or not hole.subnet_of(self.network):  # type: ignore[arg-type]
                raise InvalidPolicyError(
                    f"except {hole} is not within the cidr {self.network}", value=hole
                )


NetworkPeer = PodPeer | IpBlock


@dataclass(frozen=True, slots=True)
class NetworkPort:
    """One entry of ``ports``. ``port`` None: all of the protocol; text: a named port of the pod."""

    protocol: Protocol = Protocol.TCP
    port: int | str | None = None
    end_port: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.port, int):
            check_port(self.port, "port")
        if self.end_port is None:
            return
        check_port(self.end_port, "endPort")
        if not isinstance(self.port, int) or self.end_port < self.port:
            raise InvalidPolicyError(
                f"endPort {self.end_port} needs a numeric port that is not above it",
                value=self.port,
            )


@dataclass(frozen=True, slots=True)
class NetworkRule:
    """One ingress or egress rule. Empty ``peers``: everybody; empty ``ports``: every protocol."""

    peers: tuple[NetworkPeer, ...]
    ports: tuple[NetworkPort, ...]
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPolicy:
    """One NetworkPolicy."""

    namespace: str
    name: str
    pods: LabelSelector
    types: PolicyTypes
    ingress: tuple[NetworkRule, ...] = ()
    egress: tuple[NetworkRule, ...] = ()
    origin: Origin

    @property
    def key(self) -> PolicyName:
        """Kind, namespace and name."""
        return PolicyName(PolicyKind.NETWORK_POLICY, self.namespace, self.name)
