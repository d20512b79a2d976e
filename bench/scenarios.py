# SPDX-License-Identifier: Apache-2.0
"""The scenarios: what one run of one system is, and which metrics it gives."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.guard import program_costs
from bench.parse import (
    ParseError,
    parse_cpu_ticks,
    parse_iperf3,
    parse_latency,
    parse_rss_bytes,
    parse_wrk,
)
from bench.topology import ECHO_PORT, HTTP_PORT, IPERF_PORT, PEER, Route, far_routes, near_routes
from lab.cluster import Cluster
from lab.process import Process
from lab.spec import LabSpec

__all__ = ["OPEN_CONNECTIONS", "SCENARIOS", "Bench", "Run", "Scenario", "hold_open", "memory"]

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
OPEN_CONNECTIONS = 1000

Run = dict[tuple[str, str], float]
"""(metric, unit) and the value of one run."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A cluster that runs, and each system's proxy processes by side (client, server)."""

    cluster: Cluster
    proxies: dict[str, dict[str, Process]]

    def cpu_seconds(self, system: str) -> dict[str, float]:
        """Return the CPU time that each proxy of a system has used, all its threads."""
        return {
            side: parse_cpu_ticks(Path(f"/proc/{process.pid}/stat").read_text()) / TICKS_PER_SECOND
            for side, process in self.proxies.get(system, {}).items()
        }

    def require_running(self) -> None:
        """LabError with its log if a proxy has ended."""
        for sides in self.proxies.values():
            for process in sides.values():
                process.require_running()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of work; ``run`` takes so many seconds and measures one way once."""

    name: str
    title: str
    routes: Callable[[LabSpec], tuple[Route, ...]]
    run: Callable[[Bench, Route, int], Run]


def _cpu_since(before: dict[str, float], bench: Bench, system: str) -> dict[str, float]:
    """Return the CPU seconds that each proxy has used since then."""
    after = bench.cpu_seconds(system)
    return {f"CPU, {side}": after[side] - used for side, used in before.items()}


def _client(bench: Bench, route: Route, command: list[str], seconds: int) -> str:
    place = bench.cluster.pod(route.client)
    return place.run(command, timeout=seconds + 20, check=False).stdout


def _bulk(streams: int) -> Callable[[Bench, Route, int], Run]:
    def run(bench: Bench, route: Route, seconds: int) -> Run:
        before = bench.cpu_seconds(route.system)
        to = ["-c", route.address, "-p", str(IPERF_PORT)]
        command = ["iperf3", "-J", *to, "-t", str(seconds), "-P", str(streams)]
        seen = parse_iperf3(_client(bench, route, command, seconds))
        cpu = _cpu_since(before, bench, route.system)
        return {
            ("throughput", "Gb/s"): seen.bits_per_second / 1e9,
            **{(m, "s/GB"): used * 1e9 / seen.received_bytes for m, used in cpu.items()},
        }

    return run


def _wrk(connections: int, what: str, *headers: str) -> Callable[[Bench, Route, int], Run]:
    def run(bench: Bench, route: Route, seconds: int) -> Run:
        before = bench.cpu_seconds(route.system)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
        for header in headers:
            command += ["-H", header]
        command.append(f"http://{route.address}:{HTTP_PORT}/")
        seen = parse_wrk(_client(bench, route, command, seconds))
        cpu = _cpu_since(before, bench, route.system)
        return {
            (f"{what}s", "/s"): seen.per_second,
            **{(m, f"us/{what}"): used * 1e6 / seen.total for m, used in cpu.items()},
            ("p50", "us"): seen.p50_us,
            ("p99", "us"): seen.p99_us,
            ("failed", "count"): seen.failed,
        }

    return run


def _ask(bench: Bench, route: Route, seconds: int) -> Run:
    command = [sys.executable, str(PEER), "ask", route.address, str(ECHO_PORT), str(seconds)]
    seen = parse_latency(_client(bench, route, command, seconds))
    return {("p50", "us"): seen.p50_us, ("p99", "us"): seen.p99_us}


def _near_meshed(spec: LabSpec) -> tuple[Route, ...]:
    return tuple(route for route in near_routes(spec) if route.system == "nodemesh")


def _costs(of: Callable[[Bench, Route, int], Run]) -> Callable[[Bench, Route, int], Run]:
    """What the packet programs cost while that runs; its own figures mean nothing then."""

    def run(bench: Bench, route: Route, seconds: int) -> Run:
        cost: Run = {}
        with program_costs(cost):
            of(bench, route, seconds)
        return cost

    return run


_CLOSE = "Connection: close"

SCENARIOS = (
    Scenario("bulk-1", "bulk, 1 stream", far_routes, _bulk(1)),
    Scenario("bulk-4", "bulk, 4 streams", far_routes, _bulk(4)),
    Scenario("requests-64", "requests, 64 connections", far_routes, _wrk(64, "request")),
    Scenario("requests-256", "requests, 256 connections", far_routes, _wrk(256, "request")),
    Scenario(
        "short-16", "short connections, 16 at a time", far_routes, _wrk(16, "connection", _CLOSE)
    ),
    Scenario(
        "short-64", "short connections, 64 at a time", far_routes, _wrk(64, "connection", _CLOSE)
    ),
    Scenario("request-response", "request/response", far_routes, _ask),
    Scenario("same-node-bulk-1", "same node, bulk, 1 stream", near_routes, _bulk(1)),
    Scenario("same-node-bulk-4", "same node, bulk, 4 streams", near_routes, _bulk(4)),
    Scenario("same-node-request-response", "same node, request/response", near_routes, _ask),
    Scenario(
        "same-node-short-16",
        "same node, short connections, 16 at a time",
        near_routes,
        _wrk(16, "connection", _CLOSE),
    ),
    Scenario("guard-bulk", "packet programs, bulk", _near_meshed, _costs(_bulk(1))),
    Scenario("guard-requests", "packet programs, request/response", _near_meshed, _costs(_ask)),
    Scenario(
        "guard-short",
        "packet programs, short connections",
        _near_meshed,
        _costs(_wrk(16, "connection", _CLOSE)),
    ),
)


def memory(bench: Bench, system: str) -> Run:
    """Return the resident memory of each proxy of a system now."""
    return {
        (f"memory, {side}", "MB"): parse_rss_bytes(Path(f"/proc/{process.pid}/status").read_text())
        / 1e6
        for side, process in bench.proxies[system].items()
    }


@contextlib.contextmanager
def hold_open(bench: Bench, route: Route) -> Iterator[None]:
    """Hold OPEN_CONNECTIONS connections open, each of which has carried bytes both ways."""
    command = [sys.executable, str(PEER), "hold", route.address, str(ECHO_PORT)]
    process = subprocess.Popen(
        bench.cluster.pod(route.client).argv([*command, str(OPEN_CONNECTIONS)]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = process.stdout.readline() if process.stdout else ""
        if said != "open\n":
            raise ParseError(f"holding connections open by way of {route.system}: {said.strip()}")
        yield
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=10)
        process.kill()
        process.wait()
