# SPDX-License-Identifier: Apache-2.0
"""Events: facts that sources tell, in the past tense. Added replaces what had the same key."""

from dataclasses import dataclass

from mesh.model.namespace import Namespace
from mesh.model.node import Node
from mesh.model.policies import Policy
from mesh.model.policy import PolicyName
from mesh.model.service import Service, ServiceName
from mesh.model.workload import Workload, WorkloadUid

__all__ = [
    "Event",
    "InSync",
    "NamespaceAdded",
    "NamespaceRemoved",
    "NodeAdded",
    "NodeRemoved",
    "PolicyAdded",
    "PolicyRemoved",
    "ServiceAdded",
    "ServiceRemoved",
    "WorkloadAdded",
    "WorkloadRemoved",
]


@dataclass(frozen=True, slots=True)
class WorkloadAdded:
    """A workload appeared or changed."""

    workload: Workload


@dataclass(frozen=True, slots=True)
class WorkloadRemoved:
    """A workload is gone."""

    uid: WorkloadUid


@dataclass(frozen=True, slots=True)
class ServiceAdded:
    """A service appeared or changed."""

    service: Service


@dataclass(frozen=True, slots=True)
class ServiceRemoved:
    """A service is gone."""

    key: ServiceName


@dataclass(frozen=True, slots=True)
class NamespaceAdded:
    """A namespace appeared or changed."""

    namespace: Namespace


@dataclass(frozen=True, slots=True)
class NamespaceRemoved:
    """A namespace is gone; workloads that name it are judged by their own labels alone."""

    name: str


@dataclass(frozen=True, slots=True)
class NodeAdded:
    """A node appeared or changed."""

    node: Node


@dataclass(frozen=True, slots=True)
class NodeRemoved:
    """A node is gone."""

    name: str


@dataclass(frozen=True, slots=True)
class PolicyAdded:
    """A policy appeared or changed."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class PolicyRemoved:
    """A policy is gone."""

    key: PolicyName


@dataclass(frozen=True, slots=True)
class InSync:
    """``source`` has told everything it knew when it started. Before it, nothing is removed."""

    source: str


Event = (
    WorkloadAdded
    | WorkloadRemoved
    | ServiceAdded
    | ServiceRemoved
    | NamespaceAdded
    | NamespaceRemoved
    | NodeAdded
    | NodeRemoved
    | PolicyAdded
    | PolicyRemoved
    | InSync
)
