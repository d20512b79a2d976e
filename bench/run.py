# SPDX-License-Identifier: Apache-2.0
"""Set up, measure in turns, clean up.

Systems take turns within each round: a neighbour's noise, or a machine that gets warm, then meets
them all. The first run of each is thrown away.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.crowd import WORKLOADS, know_many
from bench.envoy import envoy_binary, start_envoys
from bench.guard import ROWS, policy_document, rows_in_force
from bench.parse import ParseError
from bench.report import format_figure
from bench.scenarios import (
    OPEN_CONNECTIONS,
    SCENARIOS,
    Bench,
    Run,
    Scenario,
    hold_open,
    memory,
)
from bench.stats import SYSTEMS, Results, add_excess, collect
from bench.topology import (
    Route,
    bench_spec,
    check_congestion_control,
    far_routes,
    start_servers,
)
from lab.cluster import Cluster
from lab.errors import CommandError, LabError
from lab.host import check_machine
from lab.manifest import load_manifest
from lab.process import wait_until
from lab.screen import Screen
from lab.teardown import remove_lab

__all__ = ["FULL", "PROGRAMS", "QUICK", "TITLES", "Effort", "Outcome", "bench"]

PROGRAMS = ("ip", "nsenter", "ss", "nginx", "iperf3", "wrk")
SETTLE_SECONDS = 2.0

TITLES = {scenario.name: scenario.title for scenario in SCENARIOS} | {
    "memory-idle": "memory, idle",
    "memory-open": f"memory, {OPEN_CONNECTIONS:,} open connections",
    "memory-after": "memory, after all of this",
    "memory-known": f"memory, {WORKLOADS:,} workloads known",
}


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds, and the seconds of a run and of the warm-up before them."""

    rounds: int
    seconds: int
    warmup_seconds: int = 1
    crowd: bool = True
    """Whether to let the agents know 10,000 workloads at the end, which takes half a minute."""


QUICK, FULL = Effort(2, 1, crowd=False), Effort(5, 4, 2)


@dataclass(slots=True)
class Outcome:
    """What was measured, and a sentence for each run that failed."""

    results: Results = field(default_factory=Results)
    failures: list[str] = field(default_factory=list)


def bench(lab: str, effort: Effort, chosen: Sequence[Scenario], screen: Screen) -> Outcome:
    """Build the lab, measure, remove it. LabError if it cannot be built."""
    check_machine(PROGRAMS)
    envoy_binary()
    _remove_earlier(lab)
    outcome = Outcome()
    with _running(lab, screen) as running:
        _measure_memory(running, outcome, screen)
        for scenario in chosen:
            _measure(running, scenario, effort, outcome, screen)
        _sample_memory(running, "memory-after", outcome)
        if effort.crowd:
            _measure_crowd(running, outcome, screen)
    add_excess(outcome.results, "request-response", "p50", "us")
    return outcome


def _remove_earlier(lab: str) -> None:
    manifest = load_manifest(lab)
    if manifest is None:
        return
    if manifest.owner_alive():
        raise LabError(f"the lab {lab!r} is in use by process {manifest.owner[0]}")
    remove_lab(lab)


@contextmanager
def _running(lab: str, screen: Screen) -> Iterator[Bench]:
    """Everything started, and removed at the end however it ends."""
    cluster = Cluster.up(bench_spec(lab), workers=1)
    try:
        check_congestion_control(cluster.spec)
        with screen.step("servers: nginx, iperf3 and an echo in every server pod"):
            start_servers(cluster, sys.executable)
        with screen.step("an Envoy in each of its two pods"):
            envoys = start_envoys(cluster)
        with screen.step("the certificate authority and an agent on each node"):
            cluster.start_mesh()
        with screen.step(f"policies of {ROWS:,} rows"):
            _load_policies(cluster)
        first, second = (cluster.agents[node.name] for node in cluster.spec.real_nodes)
        agents = {"client": first, "server": second}
        yield Bench(cluster, {"envoy": envoys, "nodemesh": agents})
    finally:
        with screen.step("everything removed"):
            cluster.close()


def _load_policies(cluster: Cluster) -> None:
    cluster.write_mesh(policy_document(cluster.document()))
    node = cluster.spec.pod("mesh/client").node
    wait_until(
        lambda: rows_in_force(cluster, node) >= ROWS,
        seconds=60,
        what="the policies to be in force",
    )


def _measure(
    running: Bench, scenario: Scenario, effort: Effort, outcome: Outcome, screen: Screen
) -> None:
    routes = scenario.routes(running.cluster.spec)
    runs: dict[str, list[Run]] = {route.system: [] for route in routes}

    def once(route: Route, seconds: int) -> Run | None:
        running.require_running()
        try:
            return scenario.run(running, route, seconds)
        except (ParseError, CommandError) as error:
            outcome.failures.append(f"{scenario.title}, {route.system}: {error}")
            return None

    with screen.step(scenario.title):
        for route in routes:
            once(route, effort.warmup_seconds)
        for _ in range(effort.rounds):
            for route in routes:
                if run := once(route, effort.seconds):
                    runs[route.system].append(run)
    for system, taken in runs.items():
        for measurement in collect(scenario.name, system, taken):
            outcome.results.add(measurement)
    _say(outcome.results, scenario.name, screen)


def _say(results: Results, scenario: str, screen: Screen) -> None:
    """Say the scenario's first metric of every system."""
    for name, metric, unit in results.lines():
        if name == scenario:
            medians = [
                f"{system} {format_figure(value)}"
                for system in SYSTEMS
                if (value := results.median(name, metric, system)) is not None
            ]
            screen.say(f"      {metric}, {unit}: {', '.join(medians)}")
            return


def _measure_memory(running: Bench, outcome: Outcome, screen: Screen) -> None:
    time.sleep(SETTLE_SECONDS)
    _sample_memory(running, "memory-idle", outcome)
    with screen.step(TITLES["memory-open"]):
        for route in far_routes(running.cluster.spec):
            if route.system in running.proxies:
                try:
                    with hold_open(running, route):
                        run = memory(running, route.system)
                except ParseError as error:
                    outcome.failures.append(str(error))
                    continue
                for measurement in collect("memory-open", route.system, [run]):
                    outcome.results.add(measurement)


def _measure_crowd(running: Bench, outcome: Outcome, screen: Screen) -> None:
    try:
        with screen.step(TITLES["memory-known"]):
            known = know_many(running)
    except LabError as error:
        outcome.failures.append(str(error))
        return
    for measurement in collect("memory-known", "nodemesh", [known]):
        outcome.results.add(measurement)


def _sample_memory(running: Bench, scenario: str, outcome: Outcome) -> None:
    for system in running.proxies:
        for measurement in collect(scenario, system, [memory(running, system)]):
            outcome.results.add(measurement)
