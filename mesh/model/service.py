# SPDX-License-Identifier: Apache-2.0
"""A service: a name and virtual addresses for a group of workloads."""

from dataclasses import dataclass
from enum import IntEnum, unique
from typing import TYPE_CHECKING

from mesh.model.address import IpAddress
from mesh.model.errors import InvalidServiceError
from mesh.model.labels import Labels
from mesh.model.names import check_dns_label

if TYPE_CHECKING:
    from mesh.model.workload import WorkloadUid

__all__ = [
    "Endpoint",
    "Protocol",
    "Service",
    "ServiceName",
    "ServicePort",
    "check_port",
    "service_hostname",
]

_PORT_MAX = 65535


@unique
class Protocol(IntEnum):
    """A transport protocol; the number is IANA's, as the kernel has it (IPPROTO_*)."""

    ANY = 0
    """Only in the key of a VIP as a whole, with port 0; never of a service port."""
    TCP = 6
    UDP = 17
    SCTP = 132
    """Policed, never balanced: no hook of the kernel sees an SCTP connect."""


def check_port(port: int, what: str) -> None:
    """Raise InvalidServiceError, naming ``what`` was meant, unless 1 <= port <= 65535."""
    if not 1 <= port <= _PORT_MAX:
        raise InvalidServiceError(f"{what} is {port}, not within 1 to {_PORT_MAX}", value=port)


def service_hostname(namespace: str, name: str, *, cluster_domain: str = "cluster.local") -> str:
    """The DNS name under which clients find a service (Kubernetes DNS specification 2.3)."""
    return f"{name}.{namespace}.svc.{cluster_domain}"


@dataclass(frozen=True, slots=True, order=True)
class ServiceName:
    """The key of a service."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a service. ``target_port`` is a number, or the name of a port of the workload."""

    port: int
    target_port: int | str
    protocol: Protocol = Protocol.TCP
    name: str = ""

    def __post_init__(self) -> None:
        check_port(self.port, "service port")
        if isinstance(self.target_port, int):
            check_port(self.target_port, "target port")
        if self.protocol is Protocol.ANY:
            raise InvalidServiceError(
                f"service port {self.port} has no protocol", value=self.protocol
            )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint that is listed: a workload by its uid, or an address outside the mesh."""

    target: "WorkloadUid | IpAddress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service. Raises ModelError when it contradicts itself.

    Endpoints come from ``selector`` (workloads of the same namespace with these labels) or from
    the list ``endpoints``; with neither, there are none and dialling the VIP is refused.
    """

    name: str
    namespace: str
    hostname: str
    vips: tuple[IpAddress, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    selector: Labels | None = None
    endpoints: tuple[Endpoint, ...] = ()

    def __post_init__(self) -> None:
        check_dns_label(self.name, "service name")
        check_dns_label(self.namespace, "namespace")
        if self.selector is not None and self.endpoints:
            raise InvalidServiceError(
                f"service {self.key} has both a selector and endpoints; choose one",
                value=self.selector,
            )
        if self.selector is not None and not len(self.selector):
            raise InvalidServiceError(
                f"service {self.key} has an empty selector, which would match every workload",
                value=self.selector,
            )
        if len(set(self.vips)) != len(self.vips):
            raise InvalidServiceError(f"service {self.key} names a VIP twice", value=self.vips)
        dialled = [(port.port, port.protocol) for port in self.ports]
        if len(set(dialled)) != len(dialled):
            raise InvalidServiceError(
                f"service {self.key} names a port twice for one protocol", value=self.ports
            )

    @property
    def key(self) -> ServiceName:
        """Namespace and name."""
        return ServiceName(self.namespace, self.name)
