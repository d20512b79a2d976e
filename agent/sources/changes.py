# SPDX-License-Identifier: Apache-2.0
"""The events that lead from one reading of a mesh file to the next."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from agent.sources.settings import MeshFile
from mesh.diff import diff
from mesh.model.events import (
    Event,
    NamespaceAdded,
    NamespaceRemoved,
    NodeAdded,
    NodeRemoved,
    PolicyAdded,
    PolicyRemoved,
    ServiceAdded,
    ServiceRemoved,
    WorkloadAdded,
    WorkloadRemoved,
)
from mesh.model.workload import Workload

__all__ = ["Keeper", "changes"]

K = TypeVar("K")
V = TypeVar("V")


def changes(have: MeshFile | None, want: MeshFile) -> list[Event]:
    """What happened between ``have`` (None: nothing was known) and ``want``.

    Additions in the order of the file, what is referred to first; then removals the other way
    round.
    """
    nodes, namespaces, workloads, services, policies = (
        (have.nodes, have.namespaces, have.workloads, have.services, have.policies)
        if have is not None
        else ((), (), (), (), ())
    )
    parts = [
        _compare(nodes, want.nodes, lambda n: n.name, NodeAdded, NodeRemoved),
        _compare(namespaces, want.namespaces, lambda n: n.name, NamespaceAdded, NamespaceRemoved),
        _compare(workloads, want.workloads, lambda w: w.uid, WorkloadAdded, WorkloadRemoved),
        _compare(services, want.services, lambda s: s.key, ServiceAdded, ServiceRemoved),
        _compare(policies, want.policies, lambda p: p.key, PolicyAdded, PolicyRemoved),
    ]
    events: list[Event] = [event for added, _ in parts for event in added]
    events += [event for _, removed in reversed(parts) for event in removed]
    return events


class Keeper:
    """Puts the objects of an earlier reading in the place of equal ones of a new reading.

    Else everything that did not change would be there twice: as the state has it, and as the
    source last read it.
    """

    def __init__(self, have: MeshFile | None) -> None:
        self._have = have
        self._workloads = {w.uid: w for w in have.workloads} if have is not None else {}

    def workloads(self, want: Iterable[Workload]) -> Iterator[Workload]:
        """Return each, or the one that is equal."""
        return _keep(self._workloads, want, lambda workload: workload.uid)

    def rest(self, want: MeshFile) -> MeshFile:
        """Return the file with everything but its workloads exchanged."""
        have = self._have
        if have is None:
            return want
        nodes = {node.name: node for node in have.nodes}
        namespaces = {namespace.name: namespace for namespace in have.namespaces}
        services = {service.key: service for service in have.services}
        policies = {policy.key: policy for policy in have.policies}
        return replace(
            want,
            nodes=tuple(_keep(nodes, want.nodes, lambda node: node.name)),
            namespaces=tuple(_keep(namespaces, want.namespaces, lambda one: one.name)),
            services=tuple(_keep(services, want.services, lambda service: service.key)),
            policies=tuple(_keep(policies, want.policies, lambda policy: policy.key)),
        )


def _keep(known: Mapping[K, V], want: Iterable[V], key_of: Callable[[V], K]) -> Iterator[V]:
    for value in want:
        old = known.get(key_of(value))
        yield old if old is not None and old == value else value


def _compare(
    have: Iterable[V],
    want: Iterable[V],
    key_of: Callable[[V], K],
    added: Callable[[V], Event],
    removed: Callable[[K], Event],
) -> tuple[list[Event], list[Event]]:
    patch = diff({key_of(value): value for value in have}, {key_of(v): v for v in want})
    return [added(value) for value in patch.upserts.values()], [removed(k) for k in patch.removes]
