# SPDX-License-Identifier: Apache-2.0
"""What can come out otherwise than the last time: workloads and services, by what was touched.

::

    workloads, services, namespaces that changed ─▶ addresses ─▶ claims ─▶ workloads whose claims
    are decided otherwise ─▶ services that select or list any of them, or whose VIPs are decided so
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from mesh.compile.claims import NO_CLAIMS, Claims, resolve_claims
from mesh.model.address import IpAddress
from mesh.model.service import Service, ServiceName
from mesh.model.workload import Workload, WorkloadUid
from mesh.state import MeshState, own_addresses

__all__ = ["Touched", "Watcher"]

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


class _Seen(NamedTuple):
    """The revisions of the stores that workloads and services depend on."""

    workloads: int
    services: int
    namespaces: int


_NOTHING_SEEN: Final = _Seen(-1, -1, -1)


def _seen_of(state: MeshState) -> _Seen:
    """The revisions now."""
    return _Seen(state.workloads.revision, state.services.revision, state.namespaces.revision)


@dataclass(slots=True)
class Touched:
    """What to make anew."""

    workloads: set[WorkloadUid] = field(default_factory=set)
    services: set[ServiceName] = field(default_factory=set)


class Watcher:
    """Remembers which state it has seen, and how it decided what two things claim."""

    def __init__(self) -> None:
        self._state: MeshState | None = None
        self._seen = _NOTHING_SEEN
        self._overlaps: set[IpAddress] = set()
        self._workloads: dict[WorkloadUid, Workload] = {}
        self._services: dict[ServiceName, Service] = {}
        self.claims: Claims = NO_CLAIMS

    def look(self, state: MeshState) -> Touched:
        """What is touched since the last look; ``claims`` are decided anew."""
        seen = _seen_of(state)
        if state is self._state and seen == self._seen:
            return Touched()
        touched = self._changed(state)
        addresses = self._addresses(state, touched.workloads)
        vips = self._vips(state, touched.services)
        self._note_overlaps(state, addresses | vips)
        before, self.claims = self.claims, resolve_claims(state, self._overlaps)
        decided = _differing(before.lost_addresses, self.claims.lost_addresses)
        touched.workloads |= decided
        addresses |= self._addresses(state, decided)
        touched.services |= _differing(before.lost_keys, self.claims.lost_keys)
        self._add_services(state, touched, addresses)
        _follow(self._workloads, state.workloads.by_key(), touched.workloads)
        _follow(self._services, state.services.by_key(), touched.services)
        self._state, self._seen = state, seen
        return touched

    def _changed(self, state: MeshState) -> Touched:
        """By the stores' own memory; everything where that does not reach so far back."""
        if state is self._state:
            workloads = state.workloads.changed_since(self._seen.workloads)
            services = state.services.changed_since(self._seen.services)
            namespaces = state.namespaces.changed_since(self._seen.namespaces)
            if workloads is not None and services is not None and namespaces is not None:
                inside = (state.workloads_by_namespace[name] for name in namespaces)
                return Touched(set(workloads).union(*inside), set(services))
        return Touched(
            self._workloads.keys() | state.workloads.keys(),
            self._services.keys() | state.services.keys(),
        )

    def _addresses(self, state: MeshState, uids: Collection[WorkloadUid]) -> set[IpAddress]:
        """Before and now."""
        found: set[IpAddress] = set()
        for uid in uids:
            for workload in (self._workloads.get(uid), state.workloads.get(uid)):
                if workload is not None:
                    found.update(own_addresses(workload))
        return found

    def _vips(self, state: MeshState, names: Collection[ServiceName]) -> set[IpAddress]:
        found: set[IpAddress] = set()
        for name in names:
            for service in (self._services.get(name), state.services.get(name)):
                if service is not None:
                    found.update(service.vips)
        return found

    def _note_overlaps(self, state: MeshState, addresses: Collection[IpAddress]) -> None:
        for address in addresses:
            if state.services_by_vip.count(address) and state.workloads_by_address.count(address):
                self._overlaps.add(address)
            else:
                self._overlaps.discard(address)

    def _add_services(
        self, state: MeshState, touched: Touched, addresses: Collection[IpAddress]
    ) -> None:
        """Those that list a touched workload or address, and those that might select one."""
        if len(touched.services) >= len(state.services):
            return
        listed = state.services_by_target
        namespaces: set[str] = set()
        for uid in touched.workloads:
            touched.services.update(listed[uid])
            for workload in (self._workloads.get(uid), state.workloads.get(uid)):
                if workload is not None:
                    namespaces.add(workload.namespace)
        for address in addresses:
            touched.services.update(listed[address])
        for namespace in namespaces:
            touched.services.update(
                name
                for name in state.services_by_namespace[namespace]
                if state.services[name].selector is not None
            )


def _differing(before: Mapping[KeyT, ValueT], after: Mapping[KeyT, ValueT]) -> set[KeyT]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def _follow(
    copy: dict[KeyT, ValueT], values: Mapping[KeyT, ValueT], keys: Collection[KeyT]
) -> None:
    for key in keys:
        value = values.get(key)
        if value is None:
            copy.pop(key, None)
        else:
            copy[key] = value
