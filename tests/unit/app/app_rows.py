# SPDX-License-Identifier: Apache-2.0
"""Rows and a clock for the tests of the agent's parts."""

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


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now
