# SPDX-License-Identifier: Apache-2.0
"""What the packet programs cost: policies of many rows, and nanoseconds per packet of each program.

The kernel counts runs and their time (bpf_stats, some 20 ns more a run), so that is switched on
for a run of its own and never while throughput is measured.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.parse import ParseError
from lab.cluster import Cluster
from lab.host import run
from lab.meshfile import Document

__all__ = ["ROWS", "Cost", "policy_document", "program_costs", "rows_in_force"]

ROWS: Final = 10_000
"""At least so many, on the node that has two of the pods."""

_RULES: Final = 320
"""Of one policy in one direction; with those of the other policies, what fits."""

_STATS: Final = Path("/proc/sys/kernel/bpf_stats_enabled")
_PROGRAMS: Final = {
    "mesh_guard_egress": "guard, leaving",
    "mesh_seal": "seal",
    "mesh_guard_ingress": "guard, entering",
}

Cost = dict[tuple[str, str], float]
"""(metric, unit) and the value."""


def policy_document(document: Document) -> Document:
    """The mesh with policies of every kind that let the bench through, and ROWS rows for a node.

    They select every pod that is measured: the rows are those that a verdict looks in. A range of
    ports is several rows; one policy more for the near server makes its sets other ones.
    """
    ranges = [
        [{"protocol": "TCP", "port": 20_001 + 100 * rule, "endPort": 20_098 + 100 * rule}]
        for rule in range(_RULES)
    ]
    blocks = [
        [{"ipBlock": {"cidr": f"172.{16 + rule // 256}.{rule % 256}.0/24"}}]
        for rule in range(_RULES)
    ]
    both = list(zip(blocks, ranges, strict=True))
    own_pods: Document = {"podSelector": {}}
    network = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "measured", "namespace": "mesh"},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                *({"from": block, "ports": ports} for block, ports in both),
                {"from": [own_pods]},
            ],
            "egress": [
                *({"to": block, "ports": ports} for block, ports in both),
                {"to": [own_pods]},
            ],
        },
    }
    allow = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "measured", "namespace": "mesh"},
        "spec": {"rules": [{"from": [{"source": {"namespaces": ["mesh"]}}]}]},
    }
    strict = {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "measured", "namespace": "mesh"},
        "spec": {"mtls": {"mode": "STRICT"}},
    }
    near = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "near", "namespace": "mesh"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "near"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": "172.31.0.0/24"}}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "172.31.0.0/24"}}]}],
        },
    }
    return document | {"policies": [network, near, allow, strict]}


def rows_in_force(cluster: Cluster, node: str) -> int:
    """Rows of the maps that a verdict looks in, on a node."""
    found = cluster.admin(node, "/status")
    entries = found["dataplane"]["entries"]
    return sum(entries.get(name, 0) for name in ("class_masks", "cidr_masks", "port_masks"))


def _counts() -> dict[str, tuple[int, int]]:
    """Runs and nanoseconds of the packet programs, all nodes' together."""
    found: dict[str, tuple[int, int]] = {}
    for program in json.loads(run(["bpftool", "-j", "prog", "list"])):
        for name, title in _PROGRAMS.items():
            if name.startswith(program.get("name") or " "):  # the kernel keeps 15 letters of it
                runs, spent = found.get(title, (0, 0))
                found[title] = (
                    runs + program.get("run_cnt", 0),
                    spent + program.get("run_time_ns", 0),
                )
    return found


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    before = _STATS.read_text()
    _STATS.write_text("1")
    try:
        yield
    finally:
        _STATS.write_text(before)


@contextlib.contextmanager
def program_costs(cost: Cost) -> Iterator[None]:
    """Fill in the nanoseconds per run of each packet program during the block.

    ParseError where one has not run: then nothing was measured.
    """
    with _counted():
        before = _counts()
        yield
        after = _counts()
    for title in _PROGRAMS.values():
        runs, spent = (a - b for a, b in zip(after[title], before[title], strict=True))
        if not runs:
            raise ParseError(f"{title}: the program has not run")
        cost[title, "ns/packet"] = spent / runs
