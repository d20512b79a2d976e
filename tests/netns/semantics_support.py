# SPDX-License-Identifier: Apache-2.0
"""Tables of policies and of who may reach whom, held against real traffic.

A case of a table (``semantics/*.yaml``) is what a user writes, and what follows from it::

    - name: a peer that names pods means those of the policy's namespace
      policies: [ … as in a mesh file … ]
      allowed: [client > web]
      refused: [other teller > web web:udp]

``other teller > web web:udp`` is every pair of a client and a target; ``web:8081``, ``web:sctp``,
``web:udp/5354`` are ports of the pod, ``web:vip`` is the service. Each client is two pods, one on
either node, so every connection is made on the node and across, over v4 and v6. ``labels`` and
``namespaces`` replace those of pods and namespaces; ``then`` lists further states that follow.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from netns_support import PROGRAMS, Lab

from lab.cluster import ROOT, Cluster
from lab.meshfile import Document
from lab.process import wait_until
from lab.spec import (
    AMBIENT,
    LabSpec,
    NamespaceSpec,
    NodeSpec,
    PodSpec,
    PortSpec,
    ServiceSpec,
    node_name,
)

State = dict[str, Any]
Dial = tuple[str, str, int, float]
TABLES = Path(__file__).resolve().parent / "semantics"
TCP_PORTS, UDP_PORTS, SCTP_PORTS = (8080, 8081, 8090), (5353, 5354), (3868, 3869)
VIP_PORT = 80
NAMED = (("http", 8080, "TCP"), ("admin", 8081, "TCP"), ("dns", 5353, "UDP"))
NAMESPACES: dict[str, dict[str, str]] = {
    "shop": {"team": "red"},
    "bank": {"team": "blue"},
    "legacy": {},
    "mark": {},
}
OUTSIDE = ("legacy",)
ROLES = {
    "client": ("shop", 10, {"app": "client", "tier": "front"}),
    "other": ("shop", 20, {"app": "other", "tier": "back"}),
    "teller": ("bank", 30, {"app": "client", "tier": "back"}),
    "stranger": ("legacy", 40, {"app": "old"}),
}
SERVERS = {"web": ("shop", 1, 11), "vault": ("bank", 2, 12), "old": ("legacy", 2, 13)}
ANSWER_SECONDS = 20.0
PATIENCE_SECONDS = 4.0
SILENCE_SECONDS = 0.45
"""For what nobody is expected to answer: an answer takes a millisecond, and it is sent again."""
REFUSED = {
    "tcp": {"EPERM", "EACCES", "ECONNREFUSED", "ECONNRESET", "EPIPE", "end"},
    "udp": {"EPERM", "EACCES", "ECONNREFUSED", "EHOSTUNREACH"},
    "sctp": {"EPERM", "EACCES", "ENOBUFS", "timeout"},
}
"""How a refusal looks: TCP and UDP are told (a reset, an ICMP error); SCTP hears nothing."""


def table(*names: str) -> pytest.MarkDecorator:
    """The cases of some files, as parameters of a test."""
    cases = [one for name in names for one in yaml.safe_load((TABLES / name).read_text())]
    return pytest.mark.parametrize("case", cases, ids=[one["name"] for one in cases])


def spec(name: str) -> LabSpec:
    nodes = node_name(name, 1), node_name(name, 2)
    pods = [
        PodSpec(f"{role}-{index}", namespace, node, host, role, labels)
        for role, (namespace, host, labels) in ROLES.items()
        for index, node in enumerate(nodes, 1)
    ]
    pods += [
        PodSpec(server, namespace, nodes[index - 1], host, server, {"app": server})
        for server, (namespace, index, host) in SERVERS.items()
    ]
    # They have nothing to do but to be the subjects of a policy that every state has anew.
    pods += [PodSpec(f"mark-{i}", "mark", node, 50) for i, node in enumerate(nodes, 1)]
    namespaces = [NamespaceSpec(one, ambient=one not in OUTSIDE) for one in NAMESPACES]
    specs = tuple(NodeSpec(node, index) for index, node in enumerate(nodes, 1))
    port = PortSpec("http", VIP_PORT, TCP_PORTS[0])
    services = tuple(
        ServiceSpec(server, namespace, host, (port,), {"app": server})
        for server, (namespace, _, host) in SERVERS.items()
    )
    return LabSpec(name, specs, tuple(namespaces), tuple(pods), services)


class Dialler:
    """A process in a pod that dials whatever it is told to."""

    def __init__(self, lab: Lab, pod: str) -> None:
        self.pod = pod
        command = [sys.executable, str(PROGRAMS / "echoes.py"), "dial"]
        self.process = subprocess.Popen(
            lab.cluster.pod(pod).argv(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    def tell(self, dials: list[Dial]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(dials).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_SECONDS)
        assert ready, f"the dialler of {self.pod} does not answer"
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.wait(5)


class Semantics:
    """The lab, with a dialler in every client pod."""

    def __init__(self, name: str) -> None:
        self.lab = Lab(Cluster.up(spec(name)))
        self.diallers: dict[str, Dialler] = {}
        self.count = 0

    def start(self) -> None:
        ports = (",".join(map(str, one)) for one in (TCP_PORTS, UDP_PORTS, SCTP_PORTS))
        arguments = tuple(ports)
        for server, (namespace, _, _) in SERVERS.items():
            self.lab.start(f"{namespace}/{server}", server, "echoes.py", "serve", *arguments)
        self.lab.cluster.start_mesh()
        for role, (namespace, _, _) in ROLES.items():
            for index in (1, 2):
                pod = f"{namespace}/{role}-{index}"
                self.diallers[pod] = Dialler(self.lab, pod)
        for dialler in self.diallers.values():
            assert dialler.hear() == {"event": "listening"}

    def close(self) -> None:
        for dialler in self.diallers.values():
            dialler.close()
        self.lab.cluster.close()

    # ── states ──

    def document(self, state: State) -> Document:
        """The mesh file of one state of a case."""
        document = self.lab.cluster.document()
        for namespace in document["namespaces"]:
            name = namespace["name"]
            labels = state.get("namespaces", {}).get(name, NAMESPACES[name])
            namespace["labels"] = {**labels, **({} if name in OUTSIDE else AMBIENT)}
        for workload in document["workloads"]:
            role = workload["name"].rpartition("-")[0] or workload["name"]
            workload["labels"] = state.get("labels", {}).get(role, workload["labels"])
            if role in SERVERS:
                workload["ports"] = [
                    {"name": name, "port": port, "protocol": protocol}
                    for name, port, protocol in NAMED
                ]
        document["policies"] = [*(state.get("policies") or ()), self.mark()]
        return document

    def mark(self) -> Document:
        """A policy that no earlier state has had: it makes each a generation of its own."""
        self.count += 1
        block = {"cidr": f"192.0.2.{self.count % 250}/32"}
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": f"mark-{self.count}", "namespace": "mark"},
            "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}]}]},
        }

    def seen(self, node: str) -> tuple[int, int]:
        """What an agent has taken, and the generation that its kernel enforces."""
        status = self.lab.cluster.admin(node, "/status")
        assert status["policy"]["problem"] in (None, "")
        error = status["sources"][0]["error"]
        assert not error, error
        return status["sources"][0]["generation"], status["policy"]["generation"]

    def enforce(self, state: State) -> None:
        """Write a state and wait until both kernels enforce it, and nothing is under way."""
        nodes = self.lab.one, self.lab.two
        before = {node: self.seen(node) for node in nodes}
        self.lab.cluster.write_mesh(self.document(state))
        for node in nodes:
            last: list[tuple[int, int]] = []

            def settled(node: str = node, last: list[tuple[int, int]] = last) -> bool:
                now = self.seen(node)
                last.append(now)
                newer = all(new > old for new, old in zip(now, before[node], strict=True))
                return newer and last[-3:] == [now] * 3

            wait_until(settled, seconds=20, what=f"{node} to enforce the policies")

    # ── traffic ──

    def address(self, server: str, version: int, *, service: bool) -> str:
        """Of a server or of the service before it."""
        spec = self.lab.spec
        if service:
            found = spec.service(server)
            return found.vip4 if version == 4 else found.vip6
        of = spec.address4 if version == 4 else spec.address6
        return of(f"{SERVERS[server][0]}/{server}")

    def dials(self, line: str) -> Iterator[tuple[str, tuple[str, str, int], str]]:
        """(pod, dial, words) of every connection that a line of a table means."""
        clients, _, targets = line.partition(" > ")
        assert targets, f"{line!r} is no line of a table"
        for role in clients.split():
            for target in targets.split():
                server, _, where = target.partition(":")
                protocol, port = endpoint(where)
                node = SERVERS[server][1]
                for index in (1, 2):
                    for version in (4, 6):
                        address = self.address(server, version, service=where == "vip")
                        way = "same node" if index == node else "across"
                        words = f"{role} > {target} over IPv{version}, {way}"
                        pod = f"{ROLES[role][0]}/{role}-{index}"
                        yield pod, (protocol, address, port), words

    def check(self, state: State) -> None:
        """Enforce a state and make every connection of its table, all at once."""
        self.enforce(state)
        wanted: dict[str, dict[Dial, tuple[str, str]]] = {}
        for verdict in ("allowed", "refused"):
            for line in state.get(verdict, ()):
                for pod, dial, words in self.dials(line):
                    silent = verdict == "refused" and dial[0] == "sctp"
                    patience = SILENCE_SECONDS if silent else PATIENCE_SECONDS
                    wanted.setdefault(pod, {})[*dial, patience] = (verdict, words)
        assert wanted, "a case without a connection"
        for pod, dials in wanted.items():
            self.diallers[pod].tell(list(dials))
        wrong = []
        for pod, dials in wanted.items():
            outcomes = self.diallers[pod].hear()
            for (made, (verdict, words)), outcome in zip(dials.items(), outcomes, strict=True):
                right = {"echo"} if verdict == "allowed" else REFUSED[made[0]]
                if outcome not in right:
                    wrong.append(f"{words}: {outcome}, not {verdict}")
        assert not wrong, "\n".join(wrong)


def endpoint(where: str) -> tuple[str, int]:
    """``8081``, ``udp``, ``udp/5354``: protocol and port; nothing is the first TCP port."""
    if where == "vip":
        return "tcp", VIP_PORT
    if where.isdecimal() or not where:
        return "tcp", int(where or TCP_PORTS[0])
    protocol, _, port = where.partition("/")
    first = {"udp": UDP_PORTS[0], "sctp": SCTP_PORTS[0]}[protocol]
    return protocol, int(port or first)


def states(case: State) -> Iterator[tuple[str, State]]:
    """A case and what follows it, each with the words for a failure."""
    for number, state in enumerate([case, *case.get("then", ())]):
        yield f"state {number}", state


def run(semantics: Semantics, case: State) -> None:
    for words, state in states(case):
        began = time.monotonic()
        try:
            semantics.check(state)
        except AssertionError as error:
            raise AssertionError(f"{words} of {case['name']!r}:\n{error}") from None
        print(f"{words}: {time.monotonic() - began:.2f} s")


def semantics_of(name: str) -> Iterator[Semantics]:
    """The body of a module's fixture."""
    made = Semantics(name)
    try:
        made.start()
        yield made
    finally:
        made.close()
