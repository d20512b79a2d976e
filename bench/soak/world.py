# SPDX-License-Identifier: Apache-2.0
"""The cluster of the soak: two nodes, its pods, its servers and its clients.

======  =========================  =====================================================
pods    on                         what happens to them
======  =========================  =====================================================
load-1  node 1                     runs clients
load-2  node 2                     runs clients
rover   node 1                     runs clients; is opted out of the mesh and in again
app-1   node 1                     serves; its server is killed; behind the VIP
app-2   node 2                     the same
flip-1  node 1                     serves; is removed, opted out, deleted and made again
flip-2  node 2                     the same
peer    node 1, not in the mesh    pokes at port 15008
======  =========================  =====================================================
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.soak.serve import PORT, UDP_PORT
from lab.cluster import ROOT, Cluster
from lab.process import Process, wait_until
from lab.spec import LabSpec, NamespaceSpec, NodeSpec, PodSpec, PortSpec, ServiceSpec, node_name

__all__ = ["APPS", "CLIENTS", "FLIPS", "PEER", "ROVER", "World", "soak_spec"]

APPS = ("shop/app-1", "shop/app-2")
FLIPS = ("shop/flip-1", "shop/flip-2")
ROVER = "shop/rover"
CLIENTS = ("shop/load-1", "shop/load-2", ROVER)
PEER = "wild/peer"

_ACTORS: tuple[tuple[str, float], ...] = (
    *(("short", 0.15),) * 4,
    *(("bulk", 1.5),) * 2,
    ("slow reader", 1.0),
    ("slow writer", 1.0),
    ("slow server", 1.0),
    *(("half-close", 0.5),) * 2,
    ("server ends first", 0.5),
    ("client resets", 0.3),
    ("server resets", 0.3),
    ("refused", 0.4),
    *(("idle", 1.0),) * 4,
    ("udp", 0.5),
)
"""What one pod of clients does: the kind, and the mean pause after each in seconds."""


def soak_spec(name: str) -> LabSpec:
    """The cluster, as data."""
    one, two = node_name(name, 1), node_name(name, 2)
    places = zip(CLIENTS, (one, two, one), (20, 20, 21), strict=True)
    pods = [
        PodSpec(key.partition("/")[2], "shop", node, host, "load", {"app": "load"})
        for key, node, host in places
    ]
    for number, node in enumerate((one, two), 1):
        pods += [
            PodSpec(f"app-{number}", "shop", node, 30, "app", {"app": "app"}),
            PodSpec(f"flip-{number}", "shop", node, 31, f"flip-{number}", {"app": "flip"}),
        ]
    pods.append(PodSpec("peer", "wild", one, 40, "peer", {"app": "peer"}))
    ports = (PortSpec("tcp", PORT, PORT), PortSpec("udp", UDP_PORT, UDP_PORT, "UDP"))
    return LabSpec(
        name,
        (NodeSpec(one, 1), NodeSpec(two, 2)),
        (NamespaceSpec("shop", ambient=True), NamespaceSpec("wild", ambient=False)),
        tuple(pods),
        (ServiceSpec("app", "shop", 50, ports, {"app": "app"}),),
    )


class World:
    """The running cluster, and the programs in it."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.spec = cluster.spec
        self.seed = seed
        self.servers: dict[str, Process] = {}
        self.loads: dict[str, Process] = {}
        one, two = (node.name for node in self.spec.real_nodes)
        self.mortal, self.lasting = (one, two) if seed % 2 else (two, one)
        """Faults end the first one's agent; the other's lives through the run, and may not grow."""
        self.excluded: set[str] = set()
        self.opted_out: set[str] = set()
        self.no_endpoint: set[str] = set()

    @property
    def node_of(self) -> dict[str, str]:
        """The node of each pod."""
        return {pod.key: pod.node for pod in self.spec.pods}

    def log(self, role: str, pod: str) -> Path:
        """Where a program in a pod writes."""
        return self.cluster.log(f"{role}-{pod.replace('/', '-')}")

    # ── programs ──

    def start_server(self, pod: str) -> None:
        """Start the server in a pod; return when it listens."""
        self.servers[pod] = self._start("serve", pod, pod)

    def kill_server(self, pod: str) -> None:
        """End it as kill -9 does."""
        self.servers[pod].kill()

    def start_load(self, pod: str) -> None:
        """Start the clients in a pod."""
        plan = self.cluster.dir / f"plan-{pod.replace('/', '-')}.json"
        number = CLIENTS.index(pod)
        actors = _ACTORS if pod != ROVER else tuple(dict.fromkeys(_ACTORS))
        facts = {"source": pod, "seed": self.seed * 10 + number, "targets": self._targets(),
                 "actors": actors}  # fmt: skip
        plan.write_text(json.dumps(facts))
        self.loads[pod] = self._start("load", pod, str(plan))

    def stop_loads(self, patience_seconds: float = 60) -> None:
        """Let every client finish what it does; return when all have."""
        for process in self.loads.values():
            process.popen.terminate()
        deadline = time.monotonic() + patience_seconds
        for process in self.loads.values():
            process.stop(max(1.0, deadline - time.monotonic()))

    def _start(self, role: str, pod: str, argument: str) -> Process:
        log = self.log(role, pod)
        size = log.stat().st_size if log.exists() else 0
        command = [sys.executable, "-m", f"bench.soak.{role}", argument]
        env = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        process = self.cluster.pod(pod).start(command, log=log, env=env)

        def listening() -> bool:
            with log.open() as file:
                file.seek(size)
                return '"listening"' in file.read()

        wait_until(listening, seconds=15, what=f"{role} in {pod}", alive=[process])
        return process

    def _targets(self) -> list[dict[str, Any]]:
        common = {"port": PORT, "udp_port": 0}
        found: list[dict[str, Any]] = [
            {**common, "name": pod, "address": address, "pods": [pod]}
            for pod in (*APPS, *FLIPS)
            for address in (self.spec.address4(pod), self.spec.address6(pod))
        ]
        service = self.spec.service("app")
        for address in (service.vip4, service.vip6):
            target = {"name": "app", "address": address, "port": PORT, "udp_port": UDP_PORT}
            found += [{**target, "pods": list(APPS)}] * 2
        return found

    # ── the mesh file ──

    def write_mesh(self) -> None:
        """Write mesh.yaml as the sets of this object want it."""
        document = self.cluster.document()
        workloads = []
        for item in document["workloads"]:
            key = f"{item['namespace']}/{item['name']}"
            if key in self.excluded:
                continue
            if key in self.opted_out:
                item["labels"]["istio.io/dataplane-mode"] = "none"
            if key in self.no_endpoint:
                item["labels"]["app"] = "none"
            workloads.append(item)
        document["workloads"] = workloads
        self.cluster.write_mesh(document)
