# SPDX-License-Identifier: Apache-2.0
"""Everything that is known, kept current by events; memoryless: the path to it leaves no trace.

::

    Event ─▶ apply() ─▶ workloads ┬ by address (host-network ones have none of their own)
                                  ├ by namespace, by node
                                  └ by (namespace, label key, label value)
                        services  ┬ by VIP
                                  ├ by namespace
                                  └ by what they list as endpoints
                        namespaces, nodes, policies, in_sync

One task owns a MeshState and applies every event. Nothing is copied: read it between two applies.
What two values of one address or VIP mean is not decided here but in the compiler.
"""

from collections.abc import Iterable
from typing import assert_never

from mesh.model.address import IpAddress
from mesh.model.events import (
    Event,
    InSync,
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
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.model.node import Node
from mesh.model.policies import Policy
from mesh.model.policy import PolicyName
from mesh.model.service import Service, ServiceName
from mesh.model.workload import Workload, WorkloadUid
from mesh.store import Store

__all__ = ["MeshState"]


_RareEvent = NamespaceAdded | NamespaceRemoved | NodeAdded | NodeRemoved | InSync


class MeshState:
    """The stores of the mesh and the one way to change them."""

    def __init__(self) -> None:
        self.workloads: Store[WorkloadUid, Workload] = Store()
        self.workloads_by_address = self.workloads.add_index(own_addresses)
        self.workloads_by_namespace = self.workloads.add_index(lambda value: (value.namespace,))
        self.workloads_by_node = self.workloads.add_index(lambda value: (value.node,))
        self.workloads_by_label = self.workloads.add_index(_namespaced_labels)
        self.services: Store[ServiceName, Service] = Store()
        self.services_by_vip = self.services.add_index(lambda value: value.vips)
        self.services_by_namespace = self.services.add_index(lambda value: (value.namespace,))
        self.services_by_target = self.services.add_index(_targets)
        self.namespaces: Store[str, Namespace] = Store()
        self.nodes: Store[str, Node] = Store()
        self.policies: Store[PolicyName, Policy] = Store()
        self.in_sync: set[str] = set()
        """The sources that have told everything they knew when they started."""

    def apply(self, event: Event) -> None:
        """Take one fact in. A removal of what is not known changes nothing."""
        match event:
            case WorkloadAdded(workload):
                self.workloads.insert(workload.uid, workload)
            case WorkloadRemoved(uid):
                self.workloads.remove(uid)
            case ServiceAdded(service):
                self.services.insert(service.key, service)
            case ServiceRemoved(key):
                self.services.remove(key)
            case PolicyAdded(policy):
                self.policies.insert(policy.key, policy)
            case PolicyRemoved(key):
                self.policies.remove(key)
            case _:
                self._apply_rare(event)

    def _apply_rare(self, event: _RareEvent) -> None:
        match event:
            case NamespaceAdded(namespace):
                self.namespaces.insert(namespace.name, namespace)
            case NamespaceRemoved(name):
                self.namespaces.remove(name)
            case NodeAdded(node):
                self.nodes.insert(node.name, node)
            case NodeRemoved(name):
                self.nodes.remove(name)
            case InSync(source):
                self.in_sync.add(source)
            case _:
                assert_never(event)

    def apply_all(self, events: Iterable[Event]) -> None:
        """Take facts in, in their order."""
        for event in events:
            self.apply(event)

    def is_in_sync(self, sources: Iterable[str]) -> bool:
        """Whether each of these sources has delivered its first full listing."""
        return self.in_sync.issuperset(sources)

    def select(self, namespace: str, selector: Labels) -> list[Workload]:
        """The workloads of a namespace that carry every label of the selector, by uid."""
        facets = [(namespace, key, value) for key, value in selector.items()]
        if not facets:
            uids = self.workloads_by_namespace[namespace]
        else:
            # The rarest pair first: the others are then looked at on few workloads.
            uids = self.workloads_by_label[min(facets, key=self.workloads_by_label.count)]
        found = (self.workloads[uid] for uid in sorted(uids))
        return [workload for workload in found if workload.labels.match(selector)]

    def selection_stamp(self, namespace: str, selector: Labels) -> object:
        """The same object for as long as select() cannot answer differently."""
        for key, value in selector.items():
            return self.workloads_by_label.stamp((namespace, key, value))
        return self.workloads_by_namespace.stamp(namespace)


def own_addresses(workload: Workload) -> tuple[IpAddress, ...]:
    """The addresses that are the workload's alone; those of a host-network one are the node's."""
    return () if workload.host_network else workload.addresses


def _namespaced_labels(workload: Workload) -> Iterable[tuple[str, str, str]]:
    return ((workload.namespace, key, value) for key, value in workload.labels.items())


def _targets(service: Service) -> Iterable[WorkloadUid | IpAddress]:
    return {endpoint.target for endpoint in service.endpoints}
