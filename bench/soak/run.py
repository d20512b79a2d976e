# SPDX-License-Identifier: Apache-2.0
"""One soak from beginning to end: build, load, faults, settle, compare."""

import json
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.soak.faults import Injector
from bench.soak.judge import Judge, Unexplained
from bench.soak.leaks import Holding, compare, growth, pod_network, private_dirty, take
from bench.soak.world import APPS, CLIENTS, FLIPS, World, soak_spec
from lab.cluster import Cluster
from lab.errors import LabError
from lab.process import wait_until
from lab.screen import Screen

__all__ = ["Outcome", "Settings", "soak"]

LEAF_LIFETIME = "60s"
"""Renewed at half of it: a run of 20 minutes sees some forty leaves of each identity."""

POOL_IDLE_SECONDS = 300.0
"""How long the core keeps a tunnel that nobody uses (hbone/core/src/config.rs)."""

_LOG_BYTES = 400_000
_ALARMS = re.compile(r"Traceback|panicked|Z error (?!access )")
"""What an agent logs of itself, not of a connection."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is to be."""

    lab: str
    seconds: float
    seed: int
    gap_seconds: float
    """Mean pause between two faults of a lane."""
    logs: Path
    """Where every log goes if something is not as it should be."""
    wait_for_idle: bool
    """Also wait until the pools let their idle tunnels go, which takes five minutes."""


@dataclass
class Outcome:
    """What came of it."""

    judge: Judge
    injector: Injector
    problems: list[str] = field(default_factory=list)
    before: dict[str, Holding] = field(default_factory=dict)
    after: dict[str, Holding] = field(default_factory=dict)
    memory: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    core: list[tuple[float, int, int, int]] = field(default_factory=list)
    """Of the agent that lived through: seconds, connections, tunnels, bytes of buffers."""
    renewals: int = 0
    agents_started: int = 0

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.problems or self.judge.unexplained or self.injector.errors)


class _Tail:
    """Reads the JSON lines that a program has written since the last time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = whole.decode(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def soak(settings: Settings, screen: Screen) -> Outcome:
    """Run it. LabError if the cluster cannot be built; everything is removed in any case."""
    with Cluster.up(soak_spec(settings.lab), lifetime=LEAF_LIFETIME) as cluster:
        cluster.agent_arguments = ("--access-log-sample", "0.01")
        world = World(cluster, settings.seed)
        good = False
        try:
            outcome = _Run(settings, world, screen).run()
            good = outcome.good
        finally:
            shutil.rmtree(settings.logs, ignore_errors=True)
            if not good:
                shutil.copytree(cluster.dir / "logs", settings.logs)
        return outcome


class _Run:
    def __init__(self, settings: Settings, world: World, screen: Screen) -> None:
        self._settings = settings
        self._world = world
        self._screen = screen
        injector = Injector(world, settings.gap_seconds)
        self.outcome = Outcome(Judge(world.node_of), injector)
        self._began = 0.0
        self._tails: dict[str, _Tail] = {}
        self._server_tails: dict[str, _Tail] = {}

    def run(self) -> Outcome:
        world, outcome = self._world, self.outcome
        pods = [pod.key for pod in world.spec.pods]
        networks = {pod: pod_network(world, pod) for pod in pods}
        with self._screen.step("the mesh starts"):
            world.cluster.start_mesh()
            for pod in (*APPS, *FLIPS):
                world.start_server(pod)
        self._wait_all_enrolled()
        nodes = [node.name for node in world.spec.real_nodes]
        outcome.before = {node: take(world, node) for node in nodes}
        try:
            self._load()
        finally:
            outcome.injector.stop()
        with self._screen.step("what is under way ends"):
            world.stop_loads()
        self._collect()
        outcome.judge.settle(outcome.injector.faults)
        self._read_alarms(nodes)
        if dead := [node for node, agent in world.cluster.agents.items() if not agent.running]:
            outcome.problems.append(f"not running at the end: {', '.join(dead)}")
            return outcome
        self._settle(nodes)
        self._leave_mesh(networks)
        return outcome

    # ── the load ──

    def _load(self) -> None:
        world, outcome = self._world, self.outcome
        for pod in CLIENTS:
            world.start_load(pod)
        self._tails = {pod: _Tail(world.log("load", pod)) for pod in CLIENTS}
        self._server_tails = {pod: _Tail(world.log("serve", pod)) for pod in (*APPS, *FLIPS)}
        self._began = time.monotonic()
        outcome.injector.start()
        told = self._began
        while (now := time.monotonic()) < self._began + self._settings.seconds:
            time.sleep(1)
            self._collect()
            self._sample(now - self._began)
            if now - told >= 15:
                told = now
                self._tell(now - self._began)

    def _collect(self) -> None:
        outcome = self.outcome
        for tail in self._tails.values():
            for line in tail.read():
                if "kind" in line:
                    known = len(outcome.judge.unexplained)
                    outcome.judge.judge(line, outcome.injector.faults)
                    for found in outcome.judge.unexplained[known:]:
                        self._explain(found)
        for tail in self._server_tails.values():
            for line in tail.read():
                if "seed" in line:
                    outcome.judge.told_by_server(line)

    def _explain(self, found: Unexplained) -> None:
        """Add what the agents logged about this connection."""
        port = found.operation.get("port")
        for node in self._world.cluster.agents:
            lines = self._log_end(node).splitlines()
            found.log += [f"{node}: {line}" for line in lines if port and f":{port}" in line][-3:]
        self._screen.bad(json.dumps(found.operation))
        for line in found.log:
            self._screen.say(f"      {line}")

    def _log_end(self, node: str) -> str:
        with self._world.cluster.log(f"agent-{node}").open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _LOG_BYTES))
            return file.read().decode(errors="replace")

    def _sample(self, seconds: float) -> None:
        world, outcome = self._world, self.outcome
        for node, agent in world.cluster.agents.items():
            if agent.running:
                memory = outcome.memory.setdefault(node, [])
                with suppress(OSError):  # it may be killed at this moment
                    memory.append((round(seconds, 1), private_dirty(agent.pid)))
            elif not outcome.injector.agent_down:
                outcome.problems.append(f"the agent of {node} ended by itself")
                raise LabError(
                    f"the agent of {node} ended by itself:\n{self._log_end(node)[-3000:]}"
                )
        core = world.cluster.admin(world.lasting, "/status")["core"]
        outcome.core.append(
            (round(seconds, 1), core["connections"], core["tunnels"], core["buffers_bytes"])
        )

    def _tell(self, seconds: float) -> None:
        judge, faults = self.outcome.judge, self.outcome.injector.faults
        now = [fault.kind for fault in faults if fault.ended == float("inf")]
        _, connections, tunnels, _ = self.outcome.core[-1]
        self._screen.say(
            f"  {seconds:5.0f} s  {judge.operations.total():7,} operations, "
            f"{judge.failed.total()} failed, {len(judge.unexplained)} unexplained; "
            f"{len(faults)} faults; {connections} connections in {tunnels} tunnels"
            + (f"; now: {', '.join(now)}" if now else "")
        )

    # ── afterwards ──

    def _wait_all_enrolled(self) -> None:
        world = self._world

        def enrolled() -> bool:
            found = [
                world.cluster.admin(node.name, "/status")["enrollments"].get("captured", 0)
                for node in world.spec.real_nodes
            ]
            return bool(sum(found) == sum(p.namespace == "shop" for p in world.spec.pods))

        wait_until(enrolled, seconds=60, what="every pod to be enrolled")

    def _settle(self, nodes: list[str]) -> None:
        """Wait until every agent holds what it held before, for as long as that may take."""
        world, outcome = self._world, self.outcome
        patience = POOL_IDLE_SECONDS + 40 if self._settings.wait_for_idle else 30.0
        began = time.monotonic()
        with self._screen.step("everything settles"):
            while True:
                waited = time.monotonic() - began
                outcome.after = {node: take(world, node) for node in nodes}
                found = [
                    f"{node}: {what}"
                    for node in nodes
                    for what in compare(outcome.before[node], outcome.after[node], waited=waited)
                ]
                tunnels = sum(held.tunnels for held in outcome.after.values())
                if self._settings.wait_for_idle and tunnels:
                    found.append(f"{tunnels} idle tunnels after {patience:.0f} s")
                if not found or waited > patience:
                    break
                time.sleep(1)
        outcome.problems += found
        _, _, grown = growth(outcome.memory.get(world.lasting, []))
        if grown:
            outcome.problems.append(f"{world.lasting}: {grown}")

    def _leave_mesh(self, networks: dict[str, str]) -> None:
        """Take every pod out of the mesh: then nothing of the mesh may be left in any."""
        world = self._world
        world.opted_out = set(networks)
        world.write_mesh()
        left: list[str] = []
        deadline = time.monotonic() + 40
        with self._screen.step("every pod leaves the mesh"):
            while True:
                left = self._left(networks)
                if not left or time.monotonic() > deadline:
                    break
                time.sleep(0.5)
        self.outcome.problems += left

    def _left(self, networks: dict[str, str]) -> list[str]:
        world, found = self._world, []
        for node in world.spec.real_nodes:
            held = take(world, node.name)
            empty = ("enrollments", "device_captures", "guarded_pods", "flow_records", "nonces")
            found += [
                f"{node.name}: map {name} has {held.maps[name]} entries with no pod in the mesh"
                for name in empty
                if held.maps[name]
            ]
            if held.tunnels or held.connections:
                found.append(f"{node.name}: {held.tunnels} tunnels with no pod in the mesh")
        for pod, network in networks.items():
            if (now := pod_network(world, pod)) != network:
                lines = set(now.splitlines()) ^ set(network.splitlines())
                found.append(f"{pod}: not as before the mesh: {sorted(lines)}")
        return found

    def _read_alarms(self, nodes: list[str]) -> None:
        outcome = self.outcome
        for node in nodes:
            text = self._world.cluster.log(f"agent-{node}").read_text(errors="replace")
            lines = text.splitlines()
            outcome.renewals += sum("renewed" in line for line in lines)
            found = [line for line in lines if _ALARMS.search(line)]
            outcome.problems += [f"{node} logged: {line}" for line in found[:5]]
