# SPDX-License-Identifier: Apache-2.0
"""What an agent, its kernel maps and its pods hold: taken before and after, and compared."""

import json
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.soak.world import World

__all__ = ["Holding", "compare", "growth", "pod_network", "private_dirty", "take"]

MAPS = (
    "enrollments", "device_captures", "guarded_pods", "frontends", "endpoints", "workloads",
    "flow_records", "nonces",
)  # fmt: skip

RECORD_AGE_SECONDS = 120.0
"""A flow record that no agent came for, because it was dead, lives so long (agent/dataplane)."""

ASKS_THE_AUTHORITY = b"agent.pki.ca_child"
"""A process that an agent has while certificates are renewed, and a little longer: no leak."""

ASKING_FDS = {"socket": 1, "pipe": 2}
"""What the agent holds of it: its standard input, output and error."""

SLACK_FDS = 2
"""A scrape or a file read may be under way at the moment of looking."""

SLACK_THREADS = 6
"""asyncio's own executor starts a thread when it first needs one more: at most 4 more than CPUs."""

GROWTH_BYTES = 6_000_000
GROWTH_SHARE = 0.10
"""Memory may differ by this between the second and the last quarter: an allocator's play."""


@dataclass
class Holding:
    """What one agent holds at one moment."""

    fds: Counter[str] = field(default_factory=Counter)
    threads: int = 0
    children: int = 0
    zombies: int = 0
    private_dirty: int = 0
    connections: int = 0
    tunnels: int = 0
    buffers_bytes: int = 0
    maps: dict[str, int] = field(default_factory=dict)


def take(world: World, node: str) -> Holding:
    """Look at the node's agent now."""
    pid = world.cluster.agents[node].pid
    core = world.cluster.admin(node, "/status")["core"]
    fds, children = _fds(pid), _children(pid)
    for child in [one for one in children if ASKS_THE_AUTHORITY in _command(one)]:
        children.remove(child)
        fds.subtract(ASKING_FDS)
    return Holding(
        fds=fds,
        threads=len(list(Path(f"/proc/{pid}/task").iterdir())),
        children=len(children),
        zombies=sum(_state(child) == "Z" for child in children),
        private_dirty=private_dirty(pid),
        connections=core["connections"],
        tunnels=core["tunnels"],
        buffers_bytes=core["buffers_bytes"],
        maps={name: _entries(world, node, name) for name in MAPS},
    )


def private_dirty(pid: int) -> int:
    """Memory that is the process's own, bytes (proc(5), smaps_rollup)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Private_Dirty:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _fds(pid: int) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            target = str(entry.readlink())
            kinds[re.sub(r":\[\d+\]$", "", target) if ":[" in target else "file"] += 1
    return kinds


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _entries(world: World, node: str, name: str) -> int:
    pin = Path("/sys/fs/bpf/nodemesh") / node / "v2" / "maps" / name
    command = ["bpftool", "-j", "map", "dump", "pinned", str(pin)]
    return len(json.loads(world.cluster.node(node).run(command).stdout))


def pod_network(world: World, pod: str) -> str:
    """Rules, routes and filters inside a pod, in words that do not change by themselves."""
    script = (
        "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; "
        "tc filter show dev eth0 ingress; tc qdisc show dev eth0"
    )
    text = world.cluster.pod(pod).run(["sh", "-c", script]).stdout
    # What the kernel itself adds and ages: link-local routes, and neighbours' exceptions.
    lines = (re.sub(r"\s+(expires|cache|refcnt) \S+", "", line) for line in text.splitlines())
    return "\n".join(sorted(line.strip() for line in lines if "fe80" not in line))


def compare(before: Holding, after: Holding, *, waited: float) -> list[str]:
    """What ``after`` holds that ``before`` did not; sentences, none if all is well.

    ``waited``: seconds since the load ended; flow records are judged when they had time to age.
    """
    found = [
        f"{kind}: {after.fds[kind]} descriptors, {before.fds[kind]} before"
        for kind in after.fds
        if after.fds[kind] - (after.tunnels if kind == "socket" else 0)
        > before.fds[kind] + SLACK_FDS
    ]
    if after.connections:
        found.append(f"{after.connections} connections are still open in the core")
    if after.threads > before.threads + SLACK_THREADS:
        found.append(f"{after.threads} threads, {before.threads} before")
    if after.children > before.children or after.zombies:
        found.append(f"{after.children} children, {after.zombies} of them zombies")
    found += [
        f"map {name}: {count} entries, {before.maps[name]} before"
        for name, count in after.maps.items()
        if count != before.maps[name] and (name != "flow_records" or waited > RECORD_AGE_SECONDS)
    ]
    return found


def growth(series: list[tuple[float, int]]) -> tuple[int, int, str]:
    """Median memory of the second and of the last quarter, and a sentence if it grew too much."""
    if len(series) < 8:
        return 0, 0, ""
    quarter = len(series) // 4
    early, late = (
        sorted(value for _, value in part)[quarter // 2]
        for part in (series[quarter : 2 * quarter], series[-quarter:])
    )
    if late > early + GROWTH_BYTES + GROWTH_SHARE * early:
        return early, late, f"private memory grew from {early} to {late} bytes"
    return early, late, ""


def as_json(holding: Holding) -> dict[str, Any]:
    """The holding as plain values."""
    return {**vars(holding), "fds": dict(holding.fds)}
