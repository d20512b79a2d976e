# SPDX-License-Identifier: Apache-2.0
"""The rows of one service: a frontend for each VIP and port, and the endpoints behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mesh.compile.claims import Claims
from mesh.compile.ids import IdTable, frontend_name
from mesh.compile.workloads import NOTHING_LOST, usable_addresses
from mesh.model.address import Family, IpAddress, family_of
from mesh.model.service import Endpoint, Protocol, Service, ServiceName, ServicePort
from mesh.model.workload import Workload
from mesh.state import MeshState
from mesh.tables import (
    EndpointKey,
    EndpointRow,
    FrontendKey,
    FrontendRow,
    ServiceId,
    ServiceRow,
    WorkloadId,
)

__all__ = [
    "Candidate",
    "CandidateFinder",
    "ServiceGroup",
    "ServiceInputs",
    "compile_service",
    "find_candidates",
]


class Candidate(NamedTuple):
    """Something that might be an endpoint: addresses, and the workload that has them if known."""

    workload: Workload | None
    addresses: tuple[IpAddress, ...]


class ServiceInputs(NamedTuple):
    """Everything that the rows of a service depend on, besides the numbers."""

    service: Service
    candidates: tuple[Candidate, ...]
    lost: frozenset[FrontendKey]
    service_id: ServiceId


@dataclass(frozen=True, slots=True)
class ServiceGroup:
    """The rows that one service brings."""

    frontends: Mapping[FrontendKey, FrontendRow]
    endpoints: Mapping[EndpointKey, EndpointRow]
    services: Mapping[ServiceId, ServiceRow]


def find_candidates(state: MeshState, service: Service, claims: Claims) -> tuple[Candidate, ...]:
    """What the selector finds, by uid; or what is listed and exists, in the order of the list."""
    lost = claims.lost_addresses
    if service.selector is not None:
        return tuple(
            Candidate(found, usable_addresses(found, lost.get(found.uid, NOTHING_LOST)))
            for found in state.select(service.namespace, service.selector)
        )
    listed = (_listed(state, endpoint, claims) for endpoint in service.endpoints)
    return tuple(candidate for candidate in listed if candidate is not None)


class CandidateFinder:
    """find_candidates() with a memory, because selecting is most of what a small change costs."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[ServiceName, tuple[tuple[object, ...], tuple[Candidate, ...]]] = {}

    def find(self, state: MeshState, service: Service, claims: Claims) -> tuple[Candidate, ...]:
        """The candidates of a service."""
        if service.selector is None:
            self.forget(service.key)
            return find_candidates(state, service, claims)
        stamp = state.selection_stamp(service.namespace, service.selector)
        seen = (service, stamp, claims.lost_addresses)
        entry = self._kept.get(service.key)
        if entry is None or entry[0] != seen:
            entry = (seen, find_candidates(state, service, claims))
            self._kept[service.key] = entry
        return entry[1]

    def forget(self, name: ServiceName) -> None:
        """The service is gone."""
        self._kept.pop(name, None)


def _listed(state: MeshState, endpoint: Endpoint, claims: Claims) -> Candidate | None:
    target = endpoint.target
    lost = claims.lost_addresses
    if isinstance(target, str):
        workload = state.workloads.get(target)
        if workload is None:
            return None
        return Candidate(workload, usable_addresses(workload, lost.get(target, NOTHING_LOST)))
    for uid in state.workloads_by_address[target]:
        if target not in lost.get(uid, NOTHING_LOST):
            return Candidate(state.workloads[uid], (target,))
    return Candidate(None, (target,))


def compile_service(inputs: ServiceInputs, ids: IdTable) -> ServiceGroup:
    """Make the rows of one service. Endpoints have the family of the VIP and are healthy."""
    service, _, lost, service_id = inputs
    frontends: dict[FrontendKey, FrontendRow] = {}
    endpoints: dict[EndpointKey, EndpointRow] = {}
    for vip in service.vips:
        whole = FrontendKey(vip, 0, Protocol.ANY)
        if whole not in lost:
            frontends[whole] = FrontendRow(
                key=whole, frontend_id=0, service_id=service_id, endpoint_count=0
            )
    for family in Family:
        vips = [vip for vip in service.vips if family_of(vip) is family]
        for port in service.ports:
            keys = [FrontendKey(vip, port.port, port.protocol) for vip in vips]
            keys = [key for key in keys if key not in lost]
            if not keys:
                continue
            name = frontend_name(service.key, port.port, port.protocol, family)
            frontend_id = ids.frontend_id(name)
            behind = _endpoints(inputs.candidates, port, family, frontend_id, ids)
            endpoints.update((row.key, row) for row in behind)
            for key in keys:
                frontends[key] = FrontendRow(
                    key=key,
                    frontend_id=frontend_id,
                    service_id=service_id,
                    endpoint_count=len(behind),
                )
    row = ServiceRow(
        key=service_id,
        namespace=service.namespace,
        name=service.name,
        hostname=service.hostname,
    )
    return ServiceGroup(frontends=frontends, endpoints=endpoints, services={service_id: row})


def _endpoints(
    candidates: tuple[Candidate, ...],
    port: ServicePort,
    family: Family,
    frontend_id: int,
    ids: IdTable,
) -> list[EndpointRow]:
    rows: list[EndpointRow] = []
    seen: set[tuple[IpAddress, int]] = set()
    for workload, addresses in candidates:
        address = next((found for found in addresses if family_of(found) is family), None)
        target = _target_port(port, workload)
        healthy = workload is None or workload.healthy
        if address is None or target is None or not healthy or (address, target) in seen:
            continue
        seen.add((address, target))
        rows.append(
            EndpointRow(
                key=EndpointKey(frontend_id, len(rows)),
                address=address,
                port=target,
                workload_id=WorkloadId(0) if workload is None else ids.workload_id(workload.uid),
            )
        )
    return rows


def _target_port(port: ServicePort, workload: Workload | None) -> int | None:
    """A named port is looked up at each workload; one that lacks the name is no endpoint of it."""
    if isinstance(port.target_port, int):
        return port.target_port
    return None if workload is None else workload.port_named(port.target_port, port.protocol)
