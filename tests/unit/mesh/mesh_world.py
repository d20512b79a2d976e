# SPDX-License-Identifier: Apache-2.0
"""Small worlds: everything that is known at one moment, and the events between two moments.

The pools are small on purpose, so that claims on one address, VIP or name happen all the time.
"""

from dataclasses import dataclass, field
from ipaddress import ip_address

from hypothesis import strategies as st

from mesh.diff import diff
from mesh.model.address import IpAddress
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
from mesh.model.identity import Identity
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.model.node import Node
from mesh.model.service import (
    Endpoint,
    Protocol,
    Service,
    ServiceName,
    ServicePort,
    service_hostname,
)
from mesh.model.workload import TunnelProtocol, Workload, WorkloadPort, WorkloadUid, pod_uid
from mesh.state import MeshState

MODE = "istio.io/dataplane-mode"
AMBIENT = Labels({MODE: "ambient"})


def ip(text: str) -> IpAddress:
    return ip_address(text)


def make_workload(name: str, *addresses: str, namespace: str = "shop", **other: object) -> Workload:
    labels = other.pop("labels", {})
    account = other.pop("account", name)
    values = {
        "uid": pod_uid(namespace, name),
        "name": name,
        "namespace": namespace,
        "identity": Identity("cluster.local", namespace, account),
        "node": "node1",
        "addresses": tuple(map(ip, addresses)),
        "labels": Labels(labels),
        "netns": f"/var/run/netns/{namespace}-{name}",
    }
    return Workload(**{**values, **other})


def make_service(name: str, *vips: str, namespace: str = "shop", **other: object) -> Service:
    values = {
        "name": name,
        "namespace": namespace,
        "hostname": service_hostname(namespace, name),
        "vips": tuple(map(ip, vips)),
        "ports": (ServicePort(80, 8080),),
    }
    return Service(**{**values, **other})


@dataclass(frozen=True)
class World:
    workloads: dict[WorkloadUid, Workload] = field(default_factory=dict)
    services: dict[ServiceName, Service] = field(default_factory=dict)
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)


EMPTY = World()


def world(*things: Workload | Service | Namespace | Node) -> World:
    result = World()
    for thing in things:
        match thing:
            case Workload():
                result.workloads[thing.uid] = thing
            case Service():
                result.services[thing.key] = thing
            case Namespace():
                result.namespaces[thing.name] = thing
            case Node():
                result.nodes[thing.name] = thing
    return result


def events_between(have: World, want: World) -> list[Event]:
    """One event for each thing that differs."""
    events: list[Event] = []
    for before, after, added, removed in (
        (have.workloads, want.workloads, WorkloadAdded, WorkloadRemoved),
        (have.services, want.services, ServiceAdded, ServiceRemoved),
        (have.namespaces, want.namespaces, NamespaceAdded, NamespaceRemoved),
        (have.nodes, want.nodes, NodeAdded, NodeRemoved),
    ):
        patch = diff(before, after)
        events += map(added, patch.upserts.values())
        events += map(removed, patch.removes)
    return events


def state_of(moment: World) -> MeshState:
    state = MeshState()
    state.apply_all(events_between(EMPTY, moment))
    return state


NAMES = st.sampled_from(["a", "b", "c"])
NAMESPACES = st.sampled_from(["shop", "bank"])
NODES = st.sampled_from(["node1", "node2"])
POD_ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2", "fd00::3"]
VIPS = ["10.96.0.1", "10.96.0.2", "fd96::1", "10.0.0.3"]
ADDRESS_TUPLES = st.lists(st.sampled_from(POD_ADDRESSES), unique=True, max_size=3).map(
    lambda texts: tuple(map(ip, texts))
)
VIP_TUPLES = st.lists(st.sampled_from(VIPS), unique=True, max_size=3).map(
    lambda texts: tuple(map(ip, texts))
)
LABELS = st.fixed_dictionaries(
    {},
    optional={
        "app": st.sampled_from(["web", "db"]),
        "tier": st.just("front"),
        MODE: st.sampled_from(["ambient", "none", "odd"]),
    },
)
PROTOCOLS = st.sampled_from([Protocol.TCP, Protocol.UDP])


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    return make_workload(
        draw(NAMES),
        namespace=draw(NAMESPACES),
        account=draw(NAMES),
        addresses=draw(ADDRESS_TUPLES),
        node=draw(NODES),
        labels=draw(LABELS),
        healthy=draw(st.booleans()),
        host_network=draw(st.booleans()),
        netns=draw(st.sampled_from([None, "/var/run/netns/x"])),
        tunnel_protocol=draw(st.sampled_from([None, None, *TunnelProtocol])),
        ports=draw(st.sampled_from([(), (WorkloadPort("http", 8080, Protocol.TCP),)])),
    )


@st.composite
def services(draw: st.DrawFn) -> Service:
    ports = st.builds(
        ServicePort,
        port=st.sampled_from([80, 443]),
        target_port=st.sampled_from([8080, "http"]),
        protocol=PROTOCOLS,
    )
    targets = st.one_of(
        st.builds(pod_uid, NAMESPACES, NAMES),
        st.sampled_from(POD_ADDRESSES).map(ip),
    )
    chosen = draw(
        st.one_of(
            st.fixed_dictionaries({"selector": LABELS.filter(len).map(Labels)}),
            st.fixed_dictionaries({"endpoints": st.lists(st.builds(Endpoint, targets)).map(tuple)}),
        )
    )
    return make_service(
        draw(NAMES),
        namespace=draw(NAMESPACES),
        vips=draw(VIP_TUPLES),
        ports=tuple(draw(st.lists(ports, unique_by=lambda p: (p.port, p.protocol), max_size=3))),
        **chosen,
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    labelled = st.builds(Namespace, NAMESPACES, LABELS.map(Labels))
    things = [
        *draw(st.lists(workloads(), max_size=5)),
        *draw(st.lists(services(), max_size=4)),
        *draw(st.lists(labelled, max_size=2)),
        *draw(st.lists(st.builds(Node, NODES), max_size=2)),
    ]
    return world(*things)
