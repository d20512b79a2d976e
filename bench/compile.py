# SPDX-License-Identifier: Apache-2.0
"""How long the compiler takes: a whole mesh, and one change in it.

    python -m bench.compile [workloads] [services]

Prints milliseconds of CPU, so that a busy machine does not blur them; nothing is asserted.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from mesh.compile import Compiler, IdTable, NodeConfig
from mesh.diff import diff_tables
from mesh.model.events import (
    Event,
    NamespaceAdded,
    ServiceAdded,
    WorkloadAdded,
    WorkloadRemoved,
)
from mesh.model.identity import Identity
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.model.service import Service, ServicePort, service_hostname
from mesh.model.workload import Workload, pod_uid
from mesh.state import MeshState

NODES = 100
NAMESPACES = 50


def workload(number: int, services: int) -> Workload:
    """The pod with this number, behind one service, with an address of each family."""
    namespace, name = f"ns{number % NAMESPACES}", f"pod-{number}"
    return Workload(
        uid=pod_uid(namespace, name),
        name=name,
        namespace=namespace,
        identity=Identity("cluster.local", namespace, f"sa-{number % services}"),
        node=f"node{number % NODES}",
        addresses=(IPv4Address(0x0A000000 + number), IPv6Address((0xFD00 << 112) + number)),
        labels=Labels({"app": f"app-{number % services}", "version": "v1", "tier": "web"}),
        netns=f"/var/run/netns/{name}",
    )


def service(number: int) -> Service:
    """The service with this number; its workloads are those of equal number modulo services."""
    namespace, name = f"ns{number % NAMESPACES}", f"svc-{number}"
    return Service(
        name=name,
        namespace=namespace,
        hostname=service_hostname(namespace, name),
        vips=(IPv4Address(0x0A600000 + number), IPv6Address((0xFD96 << 112) + number)),
        ports=(ServicePort(80, 8080), ServicePort(443, 8443)),
        selector=Labels({"app": f"app-{number}"}),
    )


def timed(what: str, action: Callable[[], object]) -> None:
    """Run once and print the CPU time it took."""
    start = time.process_time()
    action()
    print(f"{what:<44} {(time.process_time() - start) * 1000:9.1f} ms")


def main(workloads: int = 10_000, services: int = 1_000) -> None:
    """Print the figures."""
    state, ids, node = MeshState(), IdTable(), NodeConfig("node1")
    compiler = Compiler(ids)
    events: list[Event] = [
        NamespaceAdded(Namespace(f"ns{n}", Labels({"istio.io/dataplane-mode": "ambient"})))
        for n in range(NAMESPACES)
    ]
    events += [WorkloadAdded(workload(n, services)) for n in range(workloads)]
    events += [ServiceAdded(service(n)) for n in range(services)]
    print(f"{workloads} workloads, {services} services, {NODES} nodes")
    timed("apply every event", lambda: state.apply_all(events))
    timed("compile from scratch", lambda: compiler.compile(state, node=node))
    timed("compile, nothing changed", lambda: compiler.compile(state, node=node))

    def change(what: str, event: Event) -> None:
        before = compiler.compile(state, node=node)
        timed(f"{what}: apply", lambda: state.apply(event))
        timed(f"{what}: compile", lambda: compiler.compile(state, node=node))
        after = compiler.compile(state, node=node)
        timed(f"{what}: diff", lambda: diff_tables(before, after))

    moved = workload(7, services)
    change("one workload unhealthy", WorkloadAdded(replace(moved, healthy=False)))
    change("one workload gone", WorkloadRemoved(moved.uid))
    change("one workload new", WorkloadAdded(workload(workloads + 7, services)))
    change("one service new", ServiceAdded(service(services + 1)))
    change("one namespace leaves the mesh", NamespaceAdded(Namespace("ns3")))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
