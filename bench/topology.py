# SPDX-License-Identifier: Apache-2.0
"""The cluster that is measured in, and which pods stand for which system.

Every system has a client pod and a server pod of its own, on the same two nodes and over the same
links; they differ in what carries the bytes. ``near`` pods are servers on the client's node.
"""

from dataclasses import dataclass
from pathlib import Path

from lab.cluster import Cluster
from lab.errors import LabError
from lab.host import NETNS_DIR, in_netns, run
from lab.process import Process, wait_until
from lab.servers import HTTP_PORT, start_web
from lab.spec import LabSpec, NamespaceSpec, NodeSpec, PodSpec, node_name

__all__ = [
    "CONGESTION_CONTROL",
    "ECHO_PORT",
    "HTTP_PORT",
    "IPERF_PORT",
    "PEER",
    "PORTS",
    "Route",
    "bench_spec",
    "check_congestion_control",
    "far_routes",
    "near_routes",
    "start_servers",
]

IPERF_PORT = 5201
ECHO_PORT = 5300
PORTS = (IPERF_PORT, HTTP_PORT, ECHO_PORT)
CONGESTION_CONTROL = "reno"
PEER = Path(__file__).resolve().with_name("peer.py")


@dataclass(frozen=True, slots=True)
class Route:
    """How one system gets from a client to a server. ``address`` is what the client dials."""

    system: str
    client: str
    server: str
    address: str


def bench_spec(lab: str) -> LabSpec:
    """Return two nodes; for each system a client on the first and a server on the second."""
    one, two = node_name(lab, 1), node_name(lab, 2)
    pods = (
        PodSpec("client", "mesh", one, 10, "client"),
        PodSpec("near", "mesh", one, 11, "near", {"app": "near"}),
        PodSpec("server", "mesh", two, 10, "server"),
        PodSpec("client", "plain", one, 20, "client"),
        PodSpec("near", "plain", one, 21, "near"),
        PodSpec("server", "plain", two, 20, "server"),
        PodSpec("client", "envoy", one, 30, "client"),
        PodSpec("server", "envoy", two, 30, "server"),
    )
    namespaces = (
        NamespaceSpec("mesh", ambient=True),
        NamespaceSpec("plain", ambient=False),
        NamespaceSpec("envoy", ambient=False),
    )
    return LabSpec(lab, (NodeSpec(one, 1), NodeSpec(two, 2)), namespaces, pods, ())


def far_routes(spec: LabSpec) -> tuple[Route, ...]:
    """Return the ways between the nodes. With Envoy the client dials the proxy in its own pod."""
    return (
        _route(spec, "direct", "plain", "server"),
        Route("envoy", "envoy/client", "envoy/server", spec.address4("envoy/client")),
        _route(spec, "nodemesh", "mesh", "server"),
    )


def near_routes(spec: LabSpec) -> tuple[Route, ...]:
    """Return the ways within a node: nodemesh's is the kernel's own path."""
    return (_route(spec, "direct", "plain", "near"), _route(spec, "nodemesh", "mesh", "near"))


def _route(spec: LabSpec, system: str, namespace: str, server: str) -> Route:
    key = f"{namespace}/{server}"
    return Route(system, f"{namespace}/client", key, spec.address4(key))


def check_congestion_control(spec: LabSpec) -> None:
    """LabError unless every namespace of the lab uses the one that is stated with the figures."""
    for netns in [spec.pod_netns(pod.key) for pod in spec.pods]:
        said = run(in_netns(netns, ["cat", "/proc/sys/net/ipv4/tcp_congestion_control"])).strip()
        if said != CONGESTION_CONTROL:
            raise LabError(f"{NETNS_DIR / netns} uses {said}, not {CONGESTION_CONTROL}")


def start_servers(cluster: Cluster, python: str) -> list[Process]:
    """Start iperf3, nginx and the echo in every server pod; return when all listen."""
    started = []
    for pod in cluster.spec.pods:
        if pod.name == "client":
            continue
        require_free_ports(cluster, pod.key, PORTS)
        started.append(start_web(cluster, pod.key))
        iperf3 = ["iperf3", "-s", "-p", str(IPERF_PORT)]
        echo = [python, str(PEER), "serve", str(ECHO_PORT)]
        for port, command in ((IPERF_PORT, iperf3), (ECHO_PORT, echo)):
            started.append(start_listener(cluster, pod.key, port, command))
    return started


def require_free_ports(cluster: Cluster, pod: str, ports: tuple[int, ...]) -> None:
    """LabError if something listens there: SO_REUSEPORT would let it share the load silently."""
    place = cluster.pod(pod)
    for port in ports:
        if cluster.listens(place, port):
            raise LabError(f"something listens on port {port} of {pod} already")


def start_listener(cluster: Cluster, pod: str, port: int, command: list[str]) -> Process:
    """Start a server in a pod; return when it listens on ``port``."""
    place = cluster.pod(pod)
    log = cluster.log(f"{pod.replace('/', '-')}-{port}")
    process = place.start(command, log=log)
    wait_until(
        lambda: cluster.listens(place, port),
        seconds=10,
        what=f"{command[0]} in {pod} to listen on {port}",
        alive=[process],
    )
    return process
