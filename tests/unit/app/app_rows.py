# SPDX-License-Identifier: Apache-2.0
"""Rows and a clock for the tests of the agent's parts."""

from dataclasses import dataclass
from ipaddress import ip_address

from mesh.model.identity import parse_identity
from mesh.model.workload import WorkloadUid
from mesh.tables import PeerRow, ServiceId, ServiceRow, Tables, WorkloadId


def peer(number: int, name: str, *, enrolled: bool = True) -> PeerRow:
    return PeerRow(
        key=WorkloadId(number),
        uid=WorkloadUid(f"Kubernetes//Pod/shop/{name}"),
        name=name,
        namespace="shop",
        identity=parse_identity(f"spiffe://cluster.local/ns/shop/sa/{name}"),
        node="node1",
        addresses=(ip_address(f"10.0.0.{number}"),),
        enrolled=enrolled,
        canonical_name=name,
        canonical_revision="v1",
        app=name,
        version="v1",
        cluster="Kubernetes",
    )


def tables(*rows: PeerRow) -> Tables:
    service = ServiceRow(
        key=ServiceId(7), namespace="shop", name="web", hostname="web.shop.svc.cluster.local"
    )
    return Tables(peers={row.key: row for row in rows}, services={service.key: service})


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A ClosedConnection of the core, which only the core can make."""

    outbound: bool = True
    workload_id: int = 1
    peer_workload_id: int = 2
    service_id: int = 7
    source: str = "10.0.0.1:4000"
    destination: str = "10.0.0.2:8080"
    original_destination: str = "10.96.0.10:80"
    hbone_address: str = "10.0.0.2:15008"
    source_identity: str = "spiffe://cluster.local/ns/shop/sa/curl"
    destination_identity: str = "spiffe://cluster.local/ns/shop/sa/web"
    bytes_sent: int = 78
    bytes_received: int = 1234
    connect_us: int = 900
    duration_us: int = 12_500
    trace_id: str = "0af7651916cd43dd8448eb211c80319c"
    reason: int = 0
    detail: str = ""

    @property
    def between(self) -> tuple[bool, int, int, int, str, str]:
        return (
            self.outbound,
            self.workload_id,
            self.peer_workload_id,
            self.service_id,
            self.source_identity,
            self.destination_identity,
        )

    @property
    def own(self) -> tuple[str, str, str, str, int, int, int, int, str]:
        return (
            self.source,
            self.destination,
            self.original_destination,
            self.hbone_address,
            self.bytes_sent,
            self.bytes_received,
            self.connect_us,
            self.duration_us,
            self.trace_id,
        )


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now
