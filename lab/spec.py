# SPDX-License-Identifier: Apache-2.0
"""What a lab consists of: nodes, pods, services. Pure data, no I/O.

Addresses are the same in every lab: each lives in namespaces of its own, so several labs exist at
once without meeting. What the machine shares (netns names, cgroups, node names under bpffs and
/run) carries the lab's name.
"""

import re
from dataclasses import dataclass, field

from lab.errors import LabError

__all__ = [
    "DEFAULT_NAME",
    "LabSpec",
    "NamespaceSpec",
    "NodeSpec",
    "PodSpec",
    "PortSpec",
    "ServiceSpec",
    "default_spec",
]

DEFAULT_NAME = "nml"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}[a-z0-9]")
LINK4 = "172.31.0"
LINK6 = "fd31"
AMBIENT = {"istio.io/dataplane-mode": "ambient"}


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node: the netns that agents and routes live in. ``index`` counts from 1."""

    name: str
    index: int
    real: bool = True
    """False: only named in mesh.yaml, a node whose agent the lab does not run."""

    @property
    def link4(self) -> str:
        """Its IPv4 address on the link between the nodes."""
        return f"{LINK4}.{self.index}"

    @property
    def link6(self) -> str:
        """Its IPv6 address on the link between the nodes."""
        return f"{LINK6}::{self.index}"


@dataclass(frozen=True, slots=True)
class PodSpec:
    """A pod: a netns and a cgroup on ``node``."""

    name: str
    namespace: str
    node: str
    host: int
    """The last part of its addresses."""
    service_account: str = "default"
    labels: dict[str, str] = field(default_factory=dict)
    links: int = 1
    """How many interfaces; eth0 has the pod's address, net1… have one of another subnet each."""
    mesh_node: str = ""
    """The node that mesh.yaml names for it, where that is not ``node``."""

    @property
    def key(self) -> str:
        """``namespace/name``, the word for it on the command line and in mesh.yaml."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class PortSpec:
    """A service port. ``protocol`` is TCP or UDP."""

    name: str
    port: int
    target: int
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A VIP (v4 and v6, ``host`` is the last part) in front of the pods that ``selector`` names."""

    name: str
    namespace: str
    host: int
    ports: tuple[PortSpec, ...]
    selector: dict[str, str]

    @property
    def vip4(self) -> str:
        """The IPv4 VIP."""
        return f"10.96.0.{self.host}"

    @property
    def vip6(self) -> str:
        """The IPv6 VIP."""
        return f"fd96::{self.host}"


@dataclass(frozen=True, slots=True)
class NamespaceSpec:
    """A Kubernetes namespace; ``ambient`` puts its pods into the mesh."""

    name: str
    ambient: bool


@dataclass(frozen=True, slots=True)
class LabSpec:
    """A whole lab. Refuses a name that the kernel or a file system would not take."""

    name: str
    nodes: tuple[NodeSpec, ...]
    namespaces: tuple[NamespaceSpec, ...]
    pods: tuple[PodSpec, ...]
    services: tuple[ServiceSpec, ...]

    def __post_init__(self) -> None:
        """Refuse what could not be built."""
        if not _NAME.fullmatch(self.name):
            raise LabError(f"{self.name!r} is no name for a lab: lower case, digits, dashes")

    def node(self, name: str) -> NodeSpec:
        """Return the node of that name; LabError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError(f"the lab has no node {name!r}")

    def pod(self, key: str) -> PodSpec:
        """Return the pod ``namespace/name``; LabError if there is none."""
        for pod in self.pods:
            if pod.key == key:
                return pod
        raise LabError(f"the lab has no pod {key!r}")

    def service(self, name: str) -> ServiceSpec:
        """Return the service of that name; LabError if there is none."""
        for service in self.services:
            if service.name == name:
                return service
        raise LabError(f"the lab has no service {name!r}")

    @property
    def real_nodes(self) -> tuple[NodeSpec, ...]:
        """The nodes that have a netns and an agent."""
        return tuple(node for node in self.nodes if node.real)

    def address4(self, key: str) -> str:
        """Return the pod's IPv4 address."""
        pod = self.pod(key)
        return f"10.81.{self.node(pod.node).index}.{pod.host}"

    def address6(self, key: str) -> str:
        """Return the pod's IPv6 address."""
        pod = self.pod(key)
        return f"fd81:{self.node(pod.node).index}::{pod.host}"

    def identity(self, key: str) -> str:
        """Return the SPIFFE ID of the pod's workload."""
        pod = self.pod(key)
        return f"spiffe://cluster.local/ns/{pod.namespace}/sa/{pod.service_account}"

    def node_netns(self, node: str) -> str:
        """Return the name of the node's netns."""
        short = node.removeprefix(f"{self.name}-")
        return f"{self.name}-{short}"

    def pod_netns(self, key: str) -> str:
        """Return the name of the pod's netns."""
        pod = self.pod(key)
        return f"{self.node_netns(pod.node)}-{pod.namespace}-{pod.name}"

    @property
    def cgroup(self) -> str:
        """The lab's cgroup, relative to the cgroup2 mount."""
        return f"nodemesh-lab-{self.name}"

    def node_cgroup(self, node: str) -> str:
        """Return the node's cgroup, relative to the cgroup2 mount."""
        return f"{self.cgroup}/{node}"

    def pods_cgroup(self, node: str) -> str:
        """Return the cgroup above all pods of the node, relative to the cgroup2 mount."""
        return f"{self.node_cgroup(node)}/kubepods"

    def pod_cgroup(self, key: str) -> str:
        """Return the pod's cgroup, relative to the cgroup2 mount."""
        pod = self.pod(key)
        return f"{self.pods_cgroup(pod.node)}/{pod.namespace}-{pod.name}"


def node_name(lab: str, index: int) -> str:
    """Return the mesh's name of a node: short in the default lab, unique in every other."""
    return f"node{index}" if lab == DEFAULT_NAME else f"{lab}-node{index}"


def default_spec(
    name: str = DEFAULT_NAME, *, extra_pods: tuple[PodSpec, ...] = (), far_node: bool = False
) -> LabSpec:
    """Return the demo's cluster: two nodes, a client, two web pods, an echo pod, two without mesh.

    ``far_node`` adds a third node that exists in mesh.yaml only.
    """
    one, two = node_name(name, 1), node_name(name, 2)
    nodes = [NodeSpec(one, 1), NodeSpec(two, 2)]
    if far_node:
        nodes.append(NodeSpec(node_name(name, 3), 3, real=False))
    pods = (
        PodSpec("client", "shop", one, 10, "client", {"app": "client"}),
        PodSpec("web-1", "shop", one, 11, "web", {"app": "web"}),
        PodSpec("old-1", "legacy", one, 12, "old", {"app": "old"}),
        PodSpec("web-2", "shop", two, 11, "web", {"app": "web"}),
        PodSpec("echo", "shop", two, 13, "echo", {"app": "echo"}),
        PodSpec("old-2", "legacy", two, 12, "old", {"app": "old"}),
    )
    services = (
        ServiceSpec("web", "shop", 10, (PortSpec("http", 80, 8080),), {"app": "web"}),
        ServiceSpec(
            "echo",
            "shop",
            11,
            (PortSpec("echo-tcp", 7, 7007), PortSpec("echo-udp", 7, 7007, "UDP")),
            {"app": "echo"},
        ),
    )
    return LabSpec(
        name,
        tuple(nodes),
        (NamespaceSpec("shop", ambient=True), NamespaceSpec("legacy", ambient=False)),
        pods + extra_pods,
        services,
    )
