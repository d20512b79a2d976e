# SPDX-License-Identifier: Apache-2.0
"""What policies cost the agent: `python -m bench.policy [--quick]`, as root.

10,000 workloads, 500 classes of peers, 1,000 policies. The state, the compiler and the kernel's
maps are the agent's; nothing else of it runs. Prints a table; nothing is asserted.
"""

import argparse
import asyncio
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.brain import Brain, Compiled
from agent.dataplane.cleanup import cleanup
from agent.dataplane.sink import Dataplane
from agent.inbox import Inbox
from agent.readiness import Readiness
from agent.statefiles import IdsFile
from agent.telemetry.directory import Directory
from bench.edit import edit_latency
from bench.machine import describe_hardware
from bench.policy_world import (
    APPS,
    NODE,
    POLICIES,
    WORKLOADS,
    everything,
    network_policy,
    pod_changes,
)
from bench.report import format_figure
from lab.errors import LabError
from lab.host import NETNS_DIR, cgroup2_mount, check_machine, ensure_bpffs, run
from mesh.compile import Compiler, IdTable, NodeConfig
from mesh.model.events import Event, InSync, PolicyAdded
from mesh.state import MeshState
from mesh.tables import Tables

NAME = "nmbp"
SOURCE = "bench"
CHANGES_A_SECOND = 100

_FIRST = 5

Line = tuple[str, str, str, float, str]
"""What, which figure, its unit, the figure, what is wanted of it."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    edits: int
    pods: int
    seconds: int


FULL, QUICK = Effort(20, 400, 10), Effort(6, 80, 3)


@contextmanager
def _dataplane() -> Iterator[tuple[asyncio.Runner, Dataplane]]:
    """The kernel half of a node without pods, removed at the end."""
    cgroup = cgroup2_mount() / NAME
    _remove(cgroup)
    cgroup.mkdir()
    run(["ip", "netns", "add", NAME])
    try:
        with asyncio.Runner() as runner:
            made = Dataplane(NAME, cgroup=NAME, node_netns=NETNS_DIR / NAME)
            runner.run(made.start())
            try:
                yield runner, made
            finally:
                made.close()
    finally:
        _remove(cgroup)


def _remove(cgroup: Path) -> None:
    cleanup(NAME)
    if (NETNS_DIR / NAME).exists():
        run(["ip", "netns", "del", NAME])
    if cgroup.exists():
        cgroup.rmdir()


class _Steps:
    """Wall and CPU milliseconds of each step of a change."""

    def __init__(self) -> None:
        self.cpu: dict[str, list[float]] = {}
        self.wall: list[float] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.cpu.setdefault(name, []).append((time.process_time() - began) * 1000)

    @contextmanager
    def whole(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.wall.append((time.monotonic() - began) * 1000)

    def lines(self, what: str, aims: dict[str, str]) -> list[Line]:
        steps = {f"{name}, CPU": statistics.median(taken) for name, taken in self.cpu.items()}
        totals = [sum(parts) for parts in zip(*self.cpu.values(), strict=True)]
        steps["all of it, CPU"] = statistics.median(totals)
        steps["all of it, wall clock"] = statistics.median(self.wall)
        if len(self.wall) > 1:
            steps["the slowest"] = max(self.wall)
        return [(what, name, "ms", figure, aims.get(name, "")) for name, figure in steps.items()]


class _Path:
    """From an event to the kernel, as in the agent."""

    def __init__(self, runner: asyncio.Runner, dataplane: Dataplane) -> None:
        self._runner = runner
        self._dataplane = dataplane
        self._state = MeshState()
        self._compiler = Compiler(IdTable())
        self.tables = Tables()

    def take(self, steps: _Steps, *events: Event) -> None:
        with steps.whole():
            with steps.step("state"):
                self._state.apply_all(events)
            with steps.step("compile"):
                self.tables = self._compiler.compile(self._state, node=NodeConfig(NODE))
            with steps.step("encode and write"):
                self._runner.run(self._dataplane.apply(self.tables, in_sync=True))


def _changes(runner: asyncio.Runner, dataplane: Dataplane, effort: Effort) -> list[Line]:
    path, first = _Path(runner, dataplane), _Steps()
    path.take(first, *everything())
    aim = "compile ≤ 1,000 ms"
    lines = first.lines("everything, from nothing", {"compile, CPU": aim})
    warm = _Steps()
    pods = pod_changes()
    for _ in range(8):  # both buffers are known, what was too much to remember is past
        path.take(warm, next(pods))
    edits = _Steps()
    here = [network_policy(app, port=8081) for app in range(100, 100 + effort.edits)]
    for policy in here:
        path.take(edits, PolicyAdded(policy))
    lines += edits.lines("one policy of the node edited", {"all of it, wall clock": "≤ 50 ms"})
    elsewhere = _Steps()
    for app in range(300, 300 + effort.edits):
        path.take(elsewhere, PolicyAdded(network_policy(app, port=8081)))
    lines += elsewhere.lines("one policy of other nodes edited", {})
    one = _Steps()
    for _ in range(effort.pods):
        path.take(one, next(pods))
    lines += one.lines("one pod changed", {"all of it, CPU": "≤ 0.5 ms"})
    tables = path.tables
    lines += [
        ("rows of the node", name, "", float(len(getattr(tables, name))), "")
        for name in ("subjects", "policy_sets", "class_masks", "cidr_masks", "port_masks")
    ]
    return lines


async def _under_load(dataplane: Dataplane, effort: Effort) -> list[Line]:
    """Every part of the agent between a source and the kernel, but for tunnel and source."""
    inbox: Inbox[Compiled] = Inbox()
    directory = Directory(grace_seconds=60, clock=time.monotonic)
    with tempfile.TemporaryDirectory() as place:
        brain = Brain(
            ids=IdsFile(Path(place) / "ids.json"),
            node_config=lambda: NodeConfig(NODE),
            sources=(SOURCE,),
            observers=[directory.update],
            inbox=inbox,
            readiness=Readiness(["sources"]),
        )
        applied = 0

        async def apply() -> None:
            nonlocal applied
            while True:
                compiled = await inbox.take()
                await dataplane.apply(compiled.tables, in_sync=compiled.may_remove)
                applied += 1

        for event in (*everything(), InSync(SOURCE)):
            brain.queue.put_nowait(event)
        pods = pod_changes()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(brain.run()), group.create_task(apply())]
            while applied < _FIRST:  # everything, and what finds both buffers known
                await asyncio.sleep(0.2)
                brain.queue.put_nowait(next(pods))
            await _feed(brain, pods, seconds=1)
            before = applied
            cpu, began = time.process_time(), time.monotonic()
            await _feed(brain, pods, seconds=effort.seconds)
            share = (time.process_time() - cpu) / (time.monotonic() - began) * 100
            for task in tasks:
                task.cancel()
    what = f"{CHANGES_A_SECOND} pod changes a second, {effort.seconds} s"
    return [
        (what, "CPU of one core", "%", share, "≤ 5 %"),
        (what, "applied to the kernel", "/s", (applied - before) / effort.seconds, ""),
    ]


async def _feed(brain: Brain, pods: Iterator[Event], *, seconds: int) -> None:
    began = time.monotonic()
    for number in range(seconds * CHANGES_A_SECOND):
        await asyncio.sleep(began + number / CHANGES_A_SECOND - time.monotonic())
        brain.queue.put_nowait(next(pods))


def _table(lines: list[Line]) -> str:
    rows = ["| what |  | unit | figure | aim |", "| --- | --- | --- | ---: | --- |"]
    before = ""
    for what, name, unit, figure, aim in lines:
        title = "" if what == before else what
        before = what
        rows.append(f"| {title} | {name} | {unit} | {format_figure(figure)} | {aim} |")
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 1 if the machine lacks something."""
    parser = argparse.ArgumentParser(prog="python -m bench.policy", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter and fewer runs")
    logging.getLogger("agent.brain").setLevel(logging.ERROR)  # its pods have no netns, it says
    effort = QUICK if parser.parse_args(argv).quick else FULL
    try:
        check_machine()
        ensure_bpffs()
        machine = describe_hardware()
        with _dataplane() as (runner, dataplane):
            lines = _changes(runner, dataplane, effort)
        with _dataplane() as (runner, dataplane):
            lines += runner.run(_under_load(dataplane, effort))
        lines += edit_latency(effort.edits)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(machine)
    print(f"{WORKLOADS:,} workloads in {APPS} classes, {POLICIES:,} policies, 100 pods here.\n")
    print(_table(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
