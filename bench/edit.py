# SPDX-License-Identifier: Apache-2.0
"""From the edit of a policy file to the first verdict by it, with a real agent and real dials."""

import json
import re
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.crowd import workload_rows
from bench.topology import ECHO_PORT, PEER, start_listener
from lab.cluster import Cluster
from lab.errors import CommandError, LabError
from lab.manifest import load_manifest
from lab.process import Process, wait_until
from lab.spec import LabSpec, NamespaceSpec, NodeSpec, PodSpec, node_name
from lab.teardown import remove_lab

__all__ = ["edit_latency"]

LAB = "nmbe"
CLIENT, SERVER = "mesh/client", "mesh/near"
PATIENCE_SECONDS = 20.0
FAR_NODES = 99


def edit_latency(edits: int) -> list[tuple[str, str, str, float, str]]:
    """Lines for the table: in a mesh of two pods, and with 10,000 workloads beside them."""
    lines: list[tuple[str, str, str, float, str]] = []
    with _running() as (cluster, dials):
        for workloads in (0, 10_000):
            if workloads:
                _write(cluster.mesh_file, _crowded(cluster, workloads))
                wait_until(
                    partial(_knows, cluster, workloads),
                    seconds=120,
                    what=f"{workloads} workloads to be known",
                )
                time.sleep(2)
            for allowed in (False, True):  # what was known before compares everything, once
                _edit(cluster, dials, allowed=allowed)
            busy = _busy(cluster)
            taken = [_edit(cluster, dials, allowed=turn % 2 == 1) for turn in range(edits)]
            what = f"edit to verdict, {workloads + 2:,} workloads"
            heard = (_busy(cluster) - busy) / edits * 1000
            lines += [
                (what, "median", "ms", statistics.median(taken), ""),
                (what, "the slowest", "ms", max(taken), ""),
                (what, "of it compiling and applying, mean", "ms", heard, "≤ 50 ms"),
            ]
    return lines


@contextmanager
def _running() -> Iterator[tuple[Cluster, Process]]:
    """Two nodes with their agents; on one a server, and a client that dials it over and over."""
    if load_manifest(LAB) is not None:
        remove_lab(LAB)
    node, other = node_name(LAB, 1), node_name(LAB, 2)
    pods = (
        PodSpec("client", "mesh", node, 10, "client", {"app": "client"}),
        PodSpec("near", "mesh", node, 11, "near"),
        PodSpec("far", "mesh", other, 10, "far"),
    )
    nodes = (NodeSpec(node, 1), NodeSpec(other, 2))
    spec = LabSpec(LAB, nodes, (NamespaceSpec("mesh", ambient=True),), pods, ())
    cluster = Cluster.up(spec, workers=1)
    try:
        _write_policy(cluster, allowed=True)
        _write(cluster.mesh_file, {**cluster.document(), "policyFiles": [_policy(cluster).name]})
        command = [sys.executable, str(PEER)]
        start_listener(cluster, SERVER, ECHO_PORT, [*command, "serve", str(ECHO_PORT)])
        cluster.start_mesh()
        dial = [*command, "dial", cluster.spec.address4(SERVER), str(ECHO_PORT)]
        dials = cluster.pod(CLIENT).start(dial, log=cluster.log("dials"))
        try:
            wait_until(
                lambda: _answers(dials)[-1:] == [True],
                seconds=PATIENCE_SECONDS,
                what=f"{CLIENT} to reach {SERVER}",
                alive=[dials],
            )
            yield cluster, dials
        finally:
            dials.stop()
    finally:
        cluster.close()


def _policy(cluster: Cluster) -> Path:
    return cluster.mesh_file.with_name("policy.yaml")


def _write_policy(cluster: Cluster, *, allowed: bool) -> float:
    """Say that the client may dial the echo's port or another; return the moment of the edit."""
    port = ECHO_PORT if allowed else ECHO_PORT + 1
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "one-port", "namespace": "mesh"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "client"}},
            "policyTypes": ["Egress"],
            "egress": [{"ports": [{"port": port}]}],
        },
    }
    return _write(_policy(cluster), policy)


def _write(path: Path, document: object) -> float:
    """Whole or not at all: agents watch it. JSON is YAML too, and quickly written."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(document, indent=1))
    now = time.monotonic()
    part.replace(path)
    return now


def _crowded(cluster: Cluster, workloads: int) -> dict[str, object]:
    """The lab's own mesh, and workloads of other nodes in 500 classes."""
    document = dict(cluster.document())
    nodes = [{"name": f"far{n}", "addresses": [f"172.31.9.{n}"]} for n in range(1, FAR_NODES + 1)]
    others = [
        {
            "name": f"far-{number}",
            "namespace": "mesh",
            "serviceAccount": f"far-{number % 500}",
            "node": f"far{1 + number % FAR_NODES}",
            "addresses": [f"10.90.{number >> 8}.{number & 255}", f"fd90::{number + 1:x}"],
            "labels": {"app": f"far-{number % 500}"},
        }
        for number in range(workloads)
    ]
    document["nodes"] = [*document["nodes"], *nodes]
    document["workloads"] = [*document["workloads"], *others]
    document["policyFiles"] = [_policy(cluster).name]
    return document


def _knows(cluster: Cluster, workloads: int) -> bool:
    """Whether the kernel has a row for each of their two addresses."""
    try:
        return workload_rows(cluster.metrics(cluster.spec.real_nodes[0].name)) >= 2 * workloads
    except CommandError:
        return False


def _busy(cluster: Cluster) -> float:
    """Seconds that the agent has compiled and applied, in kernel and tunnel, so far."""
    said = cluster.metrics(cluster.spec.real_nodes[0].name)
    pattern = r"^nodemesh_(?:compile|apply)_seconds_total(?:\{[^}]*\})? (\S+)$"
    return sum(float(value) for value in re.findall(pattern, said, re.MULTILINE))


def _lines(dials: Process) -> list[tuple[float, bool]]:
    """When the answer to a dial changed, and to what."""
    found = [line.split() for line in dials.log.read_text().splitlines()]
    return [(int(parts[0]) / 1e9, parts[1] == "open") for parts in found if len(parts) == 2]


def _answers(dials: Process) -> list[bool]:
    return [answer for _, answer in _lines(dials)]


def _edit(cluster: Cluster, dials: Process, *, allowed: bool) -> float:
    """Milliseconds from the edit to the end of the first dial that it decides."""
    before = len(_lines(dials))
    began = _write_policy(cluster, allowed=allowed)
    wait_until(
        lambda: len(_lines(dials)) > before,
        seconds=PATIENCE_SECONDS,
        what="the edit to take effect",
        alive=[dials],
    )
    when, answer = _lines(dials)[before]
    if answer is not allowed:
        raise LabError(f"a dial was {'answered' if answer else 'refused'} against the policy")
    return (when - began) * 1000
