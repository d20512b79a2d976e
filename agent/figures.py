# SPDX-License-Identifier: Apache-2.0
"""Gathers what /metrics shows, when it is asked for and at most once a second.

Every tick also lets the series of workloads go that were removed longer ago than the grace: in the
directory, in the core and in the series book, all at once. (The kernel's totals of a removed
workload go when its rows go; the book keeps the last ones until then.)
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from agent.abi.structs import Statistic
from agent.brain import Brain, Timing
from agent.config import agent_version
from agent.dataplane.listeners import count_drops
from agent.dataplane.sink import Dataplane
from agent.dataplane.telemetry import TrafficTotal
from agent.observe import Observer
from agent.pki.provider import SvidProvider
from agent.policy_status import policy_status
from agent.readiness import Readiness
from agent.sources.file import FileSource
from agent.telemetry.labels import reason_text
from agent.telemetry.log import dropped_lines
from agent.telemetry.metrics import Figure, Figures, MetricsPage
from agent.telemetry.traffic import SeriesBook, TrafficTotals
from agent.tunnel.core import CoreThread
from agent.tunnel.records import traffic_totals
from agent.tunnel.sink import TunnelSink
from agent.verdict_rules import PolicyCounts

if TYPE_CHECKING:
    from agent.tunnel._hbone import Stats

__all__ = ["Gatherer", "Parts"]

_FRESH_SECONDS: Final = 1.0
"""Two scrapers in one second get the same figures."""

_TICK_SECONDS: Final = 5.0
"""How often gone workloads are looked for: well below any grace that makes sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What there is to look at."""

    readiness: Readiness
    source: FileSource
    brain: Brain
    pki: SvidProvider
    core: CoreThread
    dataplane: Dataplane
    tunnel_sink: TunnelSink
    observer: Observer
    policy_counts: PolicyCounts
    apply_timing: Mapping[str, Timing]


class Gatherer:
    """Keeps the metrics page current."""

    def __init__(self, parts: Parts, page: MetricsPage) -> None:
        self._parts = parts
        self._page = page
        self._book = SeriesBook()
        self._one = asyncio.Lock()
        self._lag = 0.0

    async def run(self) -> None:
        """Let old series go and measure the loop's lag, until cancelled."""
        while True:
            started = time.monotonic()
            await asyncio.sleep(_TICK_SECONDS)
            self._lag = max(self._lag, time.monotonic() - started - _TICK_SECONDS)
            async with self._one:
                await self._expire()

    async def refresh(self) -> None:
        """Gather, unless that was done a moment ago."""
        async with self._one:
            if time.monotonic() - self._page.figures.taken_at < _FRESH_SECONDS:
                return
            await self._gather()

    async def _gather(self) -> None:
        parts = self._parts
        directory = parts.observer.directory
        counters = await parts.core.counters()
        stats = await parts.core.stats()
        totals = [traffic_totals(counter) for counter in counters]
        for total in await parts.dataplane.counters():
            totals += _kernel_totals(total)
        await asyncio.to_thread(
            self._book.observe, totals, peers=directory.peers, services=directory.services
        )
        figures = [
            *_core_figures(stats),
            *_pki_figures(parts.pki),
            *self._agent_figures(),
            *await _kernel_figures(parts.dataplane),
        ]
        traffic = list(self._book.samples())
        self._page.update(Figures(traffic, figures, taken_at=time.monotonic()))
        self._lag = 0.0

    async def _expire(self) -> None:
        gone = self._parts.observer.directory.expire()
        if gone:
            numbers = [int(number) for number in gone]
            await self._parts.core.forget_counters(numbers)
            self._book.forget(numbers)

    def _agent_figures(self) -> Iterable[Figure]:
        parts = self._parts
        observer = parts.observer
        status = parts.source.status
        source = (("source", "file"),)
        yield Figure("build", 1, (("version", agent_version()),))
        yield Figure("ready", float(parts.readiness.is_ready))
        yield Figure("source_generation", status.generation, source)
        yield Figure("source_error", float(status.last_error is not None), source)
        yield Figure("source_in_sync", float("file" in parts.brain.state.in_sync), source)
        yield Figure("compiles", parts.brain.timing.count, kind="counter")
        yield Figure("compile_seconds", parts.brain.timing.seconds, kind="counter")
        yield from self._policy_figures()
        for sink, timing in parts.apply_timing.items():
            labels = (("sink", sink),)
            yield Figure("applies", timing.count, labels, "counter")
            yield Figure("apply_seconds", timing.seconds, labels, "counter")
            yield Figure("apply_failures", timing.failures, labels, "counter")
        yield Figure("connections_seen", observer.ledger.total, kind="counter")
        yield Figure("access_log_dropped", observer.access_log.dropped, kind="counter")
        yield Figure("log_dropped", dropped_lines(), kind="counter")
        yield Figure("loop_lag_seconds", self._lag)

    def _policy_figures(self) -> Iterable[Figure]:
        parts = self._parts
        tables, known = parts.brain.latest.tables, parts.brain.state.policies.values()
        status = policy_status(tables, known, parts.dataplane.generation)
        yield Figure("policy_problem", float(bool(status["problem"])))
        yield Figure("policy_generation", status["generation"])
        for kind, count in status["policies"].items():
            yield Figure("policies", count, (("kind", kind),))
        for what in ("sets", "rules", "classes"):
            yield Figure("policy_rows", status[what], (("what", what),))
        for (by, verdict, direction, reason), count in parts.observer.feed.verdicts.items():
            ends = (("verdict", verdict.value), ("direction", direction))
            why = ("reason", reason_text(reason) if reason else "")
            yield Figure("verdicts", count, (*ends, ("by", by), why), "counter")
        for (policy, verdict, direction), count in parts.policy_counts.counts.items():
            ends = (("verdict", verdict.value), ("direction", direction))
            yield Figure("policy_refusals", count, (("policy", policy), *ends), "counter")


def _core_figures(stats: "Stats") -> Iterable[Figure]:
    yield Figure("tunnels", stats["tunnels"])
    yield Figure("streams", stats["connections"])
    yield Figure("buffers_bytes", stats["buffers_bytes"])
    yield Figure("handshakes", stats["handshakes"], kind="counter")
    yield Figure("tunnels_opened", stats["tunnels_opened"], kind="counter")
    yield Figure("tunnels_reused", stats["tunnels_reused"], kind="counter")
    yield Figure("spills", stats["spills"], kind="counter")
    yield Figure("tunnels_moved", stats["tunnels_moved"], kind="counter")
    yield Figure("tunnels_evicted", stats["tunnels_evicted"], kind="counter")
    yield Figure("tunnels_refused", stats["tunnels_refused"], kind="counter")
    for share in stats["shares"]:
        worker = (("worker", str(share["worker"])),)
        yield Figure("worker_busy_ratio", share["busy"], worker)
        yield Figure("worker_tunnels", share["tunnels"], worker)
        yield Figure("worker_streams", share["connections"], worker)
    yield Figure("core_events_dropped", stats["events_dropped"], kind="counter")
    yield Figure("core_events_withheld", stats["events_withheld"], kind="counter")
    for name in ("handshakes_failed", "tunnels_closed", "capture_refused"):
        for reason, count in stats[name].items():
            yield Figure(name, count, (("reason", reason_text(reason)),), "counter")


def _pki_figures(pki: SvidProvider) -> Iterable[Figure]:
    for status in pki.status():
        identity = ("identity", str(status.identity))
        yield Figure("svid_state", 1, (identity, ("state", status.state.value)))
        if status.not_after is not None:
            yield Figure("svid_expiry_seconds", status.not_after.timestamp(), (identity,))


async def _kernel_figures(dataplane: Dataplane) -> list[Figure]:
    figures = [
        Figure("enrollments", count, (("state", state),))
        for state, count in Counter(dataplane.status().pods.values()).items()
    ]
    figures += _listener_figures(dataplane)
    for name, (entries, most) in (await dataplane.map_fill()).items():
        figures.append(Figure("map_entries", entries, (("map", name),)))
        figures.append(Figure("map_capacity", most, (("map", name),)))
    statistics = await dataplane.statistics()
    lost = statistics.pop(Statistic.EVENTS_LOST, 0)
    figures.append(Figure("kernel_events_lost", lost, kind="counter"))
    figures += [
        Figure("kernel_counter", count, (("name", statistic.name.lower()),), "counter")
        for statistic, count in statistics.items()
    ]
    return figures


def _listener_figures(dataplane: Dataplane) -> Iterable[Figure]:
    for uid, pod in dataplane.pods().items():
        for kind, fds in (("capture", pod.capture_listeners), ("inbound", pod.inbound_listeners)):
            if drops := count_drops(fds):
                yield Figure("listener_drops", drops, (("pod", uid), ("kind", kind)), "counter")


def _kernel_totals(total: TrafficTotal) -> Iterable[TrafficTotals]:
    """What the kernel carried or refused, at the source; if it was proven, at the other end too."""
    if total.protocol != socket.IPPROTO_TCP:
        return
    at_source = TrafficTotals(
        reporter="source",
        source_id=total.source_workload,
        destination_id=total.destination_workload,
        service_id=total.service_id,
        secure=False,
        opened=total.opened,
        closed=total.closed,
        client_bytes=total.bytes_sent,
        server_bytes=total.bytes_received,
        failed={int(total.reason): total.failed} if total.failed else {},
    )
    yield at_source
    if total.attested:
        yield replace(at_source, reporter="destination", failed={})
