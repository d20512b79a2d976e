# SPDX-License-Identifier: Apache-2.0
"""The events that lead from one reading of a mesh file to the next."""

from collections.abc import Callable, Iterable
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
    ServiceAdded,
    ServiceRemoved,
    WorkloadAdded,
    WorkloadRemoved,
)

__all__ = ["changes", "keep_equal"]

K = TypeVar("K")
V = TypeVar("V")


def changes(have: MeshFile | None, want: MeshFile) -> list[Event]:
    """What happened between ``have`` (None: nothing was known) and ``want``.

    Additions in the order of the file, what is referred to first; then removals the other way
    round.
    """
    nodes, namespaces, workloads, services = (
        (have.nodes, have.namespaces, have.workloads, have.services)
        if have is not None
        else ((), (), (), ())
    )
    parts = [
        _compare(nodes, want.nodes, lambda n: n.name, NodeAdded, NodeRemoved),
        _compare(namespaces, want.namespaces, lambda n: n.name, NamespaceAdded, NamespaceRemoved),
        _compare(workloads, want.workloads, lambda w: w.uid, WorkloadAdded, WorkloadRemoved),
        _compare(services, want.services, lambda s: s.key, ServiceAdded, ServiceRemoved),
    ]
    events: list[Event] = [event for added, _ in parts for event in added]
    events += [event for _, removed in reversed(parts) for event in removed]
    return events


def keep_equal(have: MeshFile | None, want: MeshFile) -> MeshFile:
    """``want``, with the objects of ``have`` wherever they are equal.

    Else everything that did not change would be there twice: as the state has it, and as the
    source last read it.
    """
    if have is None:
        return want
    return replace(
        want,
        nodes=_keep(have.nodes, want.nodes, lambda node: node.name),
        namespaces=_keep(have.namespaces, want.namespaces, lambda namespace: namespace.name),
        workloads=_keep(have.workloads, want.workloads, lambda workload: workload.uid),
        services=_keep(have.services, want.services, lambda service: service.key),
    )


def _keep(have: Iterable[V], want: Iterable[V], key_of: Callable[[V], object]) -> tuple[V, ...]:
    known = {key_of(value): value for value in have}
    kept = ((known.get(key_of(value)), value) for value in want)
    return tuple(old if old is not None and old == value else value for old, value in kept)


def _compare(
    have: Iterable[V],
    want: Iterable[V],
    key_of: Callable[[V], K],
    added: Callable[[V], Event],
    removed: Callable[[K], Event],
) -> tuple[list[Event], list[Event]]:
    patch = diff({key_of(value): value for value in have}, {key_of(v): v for v in want})
    return [added(value) for value in patch.upserts.values()], [removed(k) for k in patch.removes]
