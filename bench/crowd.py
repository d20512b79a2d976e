# SPDX-License-Identifier: Apache-2.0
"""Ten thousand workloads of other nodes in the mesh file: what an agent needs to know them."""

import json
import re
import time

from bench.guard import policy_document
from bench.scenarios import Bench, Run, memory
from lab.errors import CommandError, LabError

__all__ = ["WORKLOADS", "know_many", "workload_rows"]

WORKLOADS = 10_000
PATIENCE_SECONDS = 180.0


def workload_rows(metrics: str) -> int:
    """Read how many rows the kernel's map of workloads has, from the agent's metrics."""
    found = re.search(r'^nodemesh_map_entries\{map="workloads"\} (\S+)$', metrics, re.MULTILINE)
    return int(float(found[1])) if found else 0


def _knows(bench: Bench, node: str) -> bool:
    """Ask an agent; one that is too busy to answer does not know them yet."""
    try:
        # A workload has a row for each of its two addresses.
        return workload_rows(bench.cluster.metrics(node)) >= 2 * WORKLOADS
    except CommandError:
        return False


def know_many(bench: Bench) -> Run:
    """Write them to the mesh file and wait until every agent has them in the kernel.

    LabError if that takes longer than PATIENCE_SECONDS.
    """
    cluster = bench.cluster
    document = policy_document(cluster.document())
    document["nodes"].append({"name": "far", "addresses": ["172.31.0.99"]})
    document["workloads"] += [
        {
            "name": f"far-{number}",
            "namespace": "mesh",
            "serviceAccount": f"far-{number % 1000}",
            "node": "far",
            "addresses": [f"10.90.{number >> 8}.{number & 255}", f"fd90::{number + 1:x}"],
            "labels": {"app": f"far-{number % 1000}"},
        }
        for number in range(WORKLOADS)
    ]
    # JSON is YAML too, and quickly written. Whole or not at all: agents watch the file.
    part = cluster.mesh_file.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1))
    began = time.monotonic()
    part.replace(cluster.mesh_file)
    waiting = {node.name for node in cluster.spec.real_nodes}
    while waiting:
        if time.monotonic() - began > PATIENCE_SECONDS:
            raise LabError(f"{WORKLOADS} workloads are not known after {PATIENCE_SECONDS:g} s")
        time.sleep(0.5)
        bench.require_running()
        waiting = {node for node in waiting if not _knows(bench, node)}
    known = time.monotonic() - began
    return {("until known", "s"): known, **memory(bench, "nodemesh")}
