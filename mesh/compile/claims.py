# SPDX-License-Identifier: Apache-2.0
"""Who gets what two things claim. The choice is the same on every node and in every run.

Sources that are a moment apart (a pod's address given to the next pod) make such claims in good
order, so they are no error; each is decided and said.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mesh.model.address import IpAddress, address_order
from mesh.model.enrollment import is_enrolled
from mesh.model.service import Protocol, Service, ServiceName
from mesh.model.workload import Workload, WorkloadUid
from mesh.state import MeshState
from mesh.tables import FrontendKey

__all__ = ["NO_CLAIMS", "Claims", "resolve_claims", "service_keys"]


@dataclass(frozen=True, slots=True)
class Claims:
    """What workloads and services must do without, and a sentence for each of it."""

    lost_addresses: Mapping[WorkloadUid, frozenset[IpAddress]]
    lost_keys: Mapping[ServiceName, frozenset[FrontendKey]]
    warnings: tuple[str, ...]


NO_CLAIMS: Final = Claims({}, {}, ())


def resolve_claims(state: MeshState, overlaps: Collection[IpAddress]) -> Claims:
    """Decide every address and every VIP that is claimed more than once.

    ``overlaps`` are the addresses that are both a workload's and a VIP.
    """
    warnings: list[str] = []
    lost_addresses: dict[WorkloadUid, set[IpAddress]] = {}
    for address in sorted(state.workloads_by_address.shared, key=address_order):
        owner, *others = _by_right(state, state.workloads_by_address[address])
        for other in others:
            lost_addresses.setdefault(other, set()).add(address)
        warnings.append(
            f"address {address} is claimed by {_list([owner, *others])}; {owner} has it"
        )
    lost_keys: dict[ServiceName, set[FrontendKey]] = {}
    for vip in sorted(state.services_by_vip.shared, key=address_order):
        warnings += _share_vip(state, vip, lost_keys)
    for vip in sorted(overlaps, key=address_order):
        holders = _list(sorted(state.workloads_by_address[vip]))
        warnings.append(
            f"address {vip} of {holders} is also a VIP of "
            f"{_list(sorted(state.services_by_vip[vip]))}; whoever dials it reaches the service"
        )
    return Claims(
        lost_addresses={uid: frozenset(lost) for uid, lost in lost_addresses.items()},
        lost_keys={name: frozenset(lost) for name, lost in lost_keys.items()},
        warnings=tuple(warnings),
    )


def service_keys(service: Service, vip: IpAddress) -> list[FrontendKey]:
    """Every frontend key of a service at one of its VIPs, the key of the whole VIP first."""
    ports = [FrontendKey(vip, port.port, port.protocol) for port in service.ports]
    return [FrontendKey(vip, 0, Protocol.ANY), *ports]


def _by_right(state: MeshState, uids: Collection[WorkloadUid]) -> list[WorkloadUid]:
    """Enrolled first: a wrong guess then fails the handshake, the other one would send plaintext.

    Then healthy, because what is ending keeps its address for a moment; then by uid.
    """

    def right(uid: WorkloadUid) -> tuple[bool, bool, WorkloadUid]:
        workload: Workload = state.workloads[uid]
        enrolled = is_enrolled(workload, state.namespaces.get(workload.namespace))
        return not enrolled, not workload.healthy, uid

    return sorted(uids, key=right)


def _share_vip(
    state: MeshState, vip: IpAddress, lost_keys: dict[ServiceName, set[FrontendKey]]
) -> list[str]:
    """Services may share a VIP by different ports; a port goes to the first by name."""
    owners: dict[FrontendKey, ServiceName] = {}
    clashes: list[str] = []
    for name in sorted(state.services_by_vip[vip]):
        for key in service_keys(state.services[name], vip):
            owner = owners.setdefault(key, name)
            if owner == name:
                continue
            lost_keys.setdefault(name, set()).add(key)
            if key.port:
                clashes.append(
                    f"VIP {vip} port {key.port}/{key.protocol.name} is claimed by {owner} and "
                    f"{name}; {owner} has it"
                )
    return clashes


def _list(names: Iterable[object]) -> str:
    return " and ".join(str(name) for name in names)
