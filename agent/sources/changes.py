# SPDX-License-Identifier: Apache-2.0
"""The events that lead from one reading of a mesh file to the next."""

from collections.abc import Callable, Iterable
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

__all__ = ["changes"]

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


def _compare(
    have: Iterable[V],
    want: Iterable[V],
    key_of: Callable[[V], K],
    added: Callable[[V], Event],
    removed: Callable[[K], Event],
) -> tuple[list[Event], list[Event]]:
    patch = diff({key_of(value): value for value in have}, {key_of(v): v for v in want})
    return [added(value) for value in patch.upserts.values()], [removed(k) for k in patch.removes]
