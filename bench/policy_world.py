# SPDX-License-Identifier: Apache-2.0
"""A mesh of 10,000 workloads in 500 classes under 1,000 policies, as objects."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from mesh.model.authorization_policy import (
    Action,
    AuthorizationPolicy,
    AuthorizationRule,
    Match,
    MatchKind,
    Operation,
    Source,
)
from mesh.model.events import (
    Event,
    NamespaceAdded,
    PolicyAdded,
    WorkloadAdded,
    WorkloadRemoved,
)
from mesh.model.identity import Identity
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.model.network_policy import (
    IpBlock,
    NetworkPolicy,
    NetworkPort,
    NetworkRule,
    PodPeer,
    PolicyTypes,
)
from mesh.model.policy import LabelSelector, Origin
from mesh.model.workload import DATAPLANE_MODE_LABEL, Workload, pod_uid

__all__ = ["APPS", "NODE", "POLICIES", "WORKLOADS", "everything", "network_policy", "pod_changes"]

WORKLOADS = 10_000
PER_NODE = 100
APPS = 500
"""Each is a class of peers: a service account with its label, in its namespace."""
POLICIES = 2 * APPS
NAMESPACES = 50
NODE = "node1"
"""The node that is compiled for: its pods are of 100 apps, so 100 pairs of policies judge there."""


def workload(number: int) -> Workload:
    """The pod with this number, with an address of each family."""
    app, name = number % APPS, f"pod-{number}"
    namespace = f"ns{app % NAMESPACES}"
    return Workload(
        uid=pod_uid(namespace, name),
        name=name,
        namespace=namespace,
        identity=Identity("cluster.local", namespace, f"sa-{app}"),
        node=f"node{number // PER_NODE}",
        addresses=(IPv4Address(0x0A000000 + number), IPv6Address((0xFD00 << 112) + number)),
        labels=Labels({"app": f"app-{app}", "version": "v1", "tier": "web"}),
    )


def network_policy(app: int, *, port: int = 8080) -> NetworkPolicy:
    """Three other apps may enter at a port, a block at others; it may go to two of them."""
    namespace, origin = f"ns{app % NAMESPACES}", Origin("policies.yaml", app + 1)
    peers = [
        PodPeer(
            LabelSelector(Labels({"kubernetes.io/metadata.name": f"ns{other % NAMESPACES}"})),
            LabelSelector(Labels({"app": f"app-{other}"})),
        )
        for other in ((app + step) % APPS for step in (1, 7, 50))
    ]
    block = IpBlock(IPv4Network("10.0.0.0/8"), (IPv4Network((0x0A000000 + app * 256, 24)),))
    return NetworkPolicy(
        namespace=namespace,
        name=f"np-{app}",
        pods=LabelSelector(Labels({"app": f"app-{app}"})),
        types=PolicyTypes.INGRESS | PolicyTypes.EGRESS,
        ingress=(
            NetworkRule(tuple(peers), (NetworkPort(port=port),), origin),
            NetworkRule((block,), (NetworkPort(port=9000, end_port=9999),), origin),
        ),
        egress=(NetworkRule((*peers[:2], block), (), origin),),
        origin=origin,
    )


def authorization_policy(app: int) -> AuthorizationPolicy:
    """Three principals may call this app."""
    origin = Origin("policies.yaml", APPS + app + 1)
    callers = ((app + step) % APPS for step in (1, 7, 50))
    principals = tuple(
        Match(MatchKind.EXACT, f"cluster.local/ns/ns{caller % NAMESPACES}/sa/sa-{caller}")
        for caller in callers
    )
    rule = AuthorizationRule(
        sources=(Source(principals=principals),),
        operations=(Operation(ports=(8080, 8443)),),
        origin=origin,
    )
    return AuthorizationPolicy(
        namespace=f"ns{app % NAMESPACES}",
        name=f"ap-{app}",
        action=Action.ALLOW,
        selector=Labels({"app": f"app-{app}"}),
        rules=(rule,),
        origin=origin,
    )


def everything() -> list[Event]:
    """Every fact, in the order in which a source might tell them."""
    enrolled = Labels({DATAPLANE_MODE_LABEL: "ambient"})
    return [
        *(NamespaceAdded(Namespace(f"ns{number}", enrolled)) for number in range(NAMESPACES)),
        *(WorkloadAdded(workload(number)) for number in range(WORKLOADS)),
        *(PolicyAdded(network_policy(app)) for app in range(APPS)),
        *(PolicyAdded(authorization_policy(app)) for app in range(APPS)),
    ]


def pod_changes() -> Iterator[Event]:
    """Without end: a pod of another node gets unready, ready, goes; a new one comes; and so on."""
    for turn, number in enumerate(range(PER_NODE * 2, WORKLOADS)):
        pod = workload(number)
        yield WorkloadAdded(replace(pod, healthy=False))
        yield WorkloadAdded(pod)
        yield WorkloadRemoved(pod.uid)
        yield WorkloadAdded(workload(WORKLOADS + turn))
