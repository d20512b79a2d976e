# SPDX-License-Identifier: Apache-2.0
"""Doorway to prometheus_client: one collector over the last snapshot of figures.

A scrape never waits for the core or the kernel: the agent gathers a :class:`Figures` on its own
schedule and a scrape formats the last one, in a thread. The registry is private, so nothing that a
library registers leaks out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics.exposition import (
    CONTENT_TYPE_LATEST as OPENMETRICS_TYPE,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from typing_extensions import override

from agent.telemetry.labels import TCP_LABELS
from agent.telemetry.traffic import Sample

__all__ = ["HELP", "Figure", "Figures", "MetricsPage"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One value of a nodemesh metric; the name is without prefix and without ``_total``."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that a scrape shows, at one moment."""

    traffic: Sequence[Sample] = ()
    figures: Sequence[Figure] = ()
    taken_at: float = field(default=0.0)
    """Clock of the gatherer, seconds."""


_TRAFFIC: Final[Mapping[str, tuple[str, str]]] = {
    "opened": ("istio_tcp_connections_opened", "Connections opened."),
    "closed": ("istio_tcp_connections_closed", "Connections closed."),
    "failed": ("istio_tcp_connections_failed", "Connections refused or broken, by flag."),
    "sent_bytes": ("istio_tcp_sent_bytes", "Bytes that the destination sent to the source."),
    "received_bytes": (
        "istio_tcp_received_bytes",
        "Bytes that the destination received from the source.",
    ),
}

HELP: Final[Mapping[str, str]] = {
    "build": "1, with the version of the agent.",
    "ready": "1 once every boot task is done.",
    "handshakes": "TLS handshakes finished, both directions.",
    "handshakes_failed": "TLS handshakes that failed, by reason.",
    "tunnels": "Open HBONE connections.",
    "tunnels_opened": "HBONE connections opened.",
    "tunnels_reused": "Streams that found an open HBONE connection in the pool.",
    "tunnels_closed": "HBONE connections that ended, by reason; `none` is in order.",
    "spills": "Pool keys that got a further worker because theirs was saturated.",
    "tunnels_moved": "Open HBONE connections that went to a worker with more time.",
    "tunnels_evicted": "Idle HBONE connections closed to make room for others.",
    "tunnels_refused": "Dials without room; their connections end as `resource-limit`.",
    "worker_busy_ratio": "Share of time that a worker is awake, smoothed over a second.",
    "worker_tunnels": "Open HBONE connections of a worker.",
    "worker_streams": "Connections of a worker.",
    "streams": "Open tunnelled connections.",
    "buffers_bytes": "Memory in the core's buffers.",
    "core_events_dropped": "Events that the core dropped because the agent was too slow.",
    "core_events_withheld": "Refusals that were not told one by one: their address had many.",
    "capture_refused": "Captured connections that the core closed without a tunnel, by reason.",
    "listener_drops": "Connection attempts that found a pod's accept queue full, by pod and kind.",
    "svid_expiry_seconds": "Time when the certificate in use expires, seconds since 1970.",
    "svid_state": "1 for the state that an identity's certificate is in.",
    "enrollments": "Pods of this node in the mesh, by state.",
    "map_entries": "Entries of a kernel map.",
    "map_capacity": "Most entries that a kernel map can hold.",
    "kernel_events_lost": "Ring buffer records that the kernel could not deliver.",
    "kernel_counter": "Counters of the kernel half, by name.",
    "compiles": "Times that the state was compiled.",
    "compile_seconds": "Seconds spent compiling.",
    "applies": "Times that tables were applied, by sink.",
    "apply_seconds": "Seconds spent applying tables, by sink.",
    "apply_failures": "Failed attempts to apply tables, by sink.",
    "policies": "Policies that are known, by kind.",
    "policy_problem": "1 if the policies that are known do not fit: those of before hold on.",
    "policy_generation": "Generation of the policy in force; it grows with every change.",
    "policy_rows": "What the policies of this node's pods come to: sets, rules, peer classes.",
    "verdicts": "Verdicts on connections and packets, by who told of it (kernel, tunnel).",
    "policy_refusals": "What was refused or dry run would refuse, by the policy that decided.",
    "source_generation": "Generation of the facts that a source delivered.",
    "source_error": "1 if the last reading of a source was refused.",
    "source_in_sync": "1 once a source delivered its first full listing.",
    "connections_seen": "Ended connections that telemetry recorded.",
    "access_log_dropped": (
        "Access log lines not written: too many in a second, a full disk, or a slow reader."
    ),
    "log_dropped": "Lines of the agent's own log not written because nobody read them.",
    "loop_lag_seconds": "Worst delay of the event loop since the last gathering.",
}


class _Snapshot(Collector):
    def __init__(self) -> None:
        self.figures = Figures()

    def describe(self) -> Iterable[Metric]:
        return ()

    @override
    def collect(self) -> Iterable[Metric]:
        figures = self.figures
        yield from _traffic_families(figures.traffic)
        yield from _figure_families(figures.figures)


def _traffic_families(samples: Iterable[Sample]) -> Iterable[Metric]:
    families = {
        key: CounterMetricFamily(name, text, labels=TCP_LABELS)
        for key, (name, text) in _TRAFFIC.items()
    }
    for sample in samples:
        families[sample.metric].add_metric(sample.labels, sample.value)
    yield from families.values()


def _figure_families(figures: Iterable[Figure]) -> Iterable[Metric]:
    families: dict[str, Metric] = {}
    for figure in figures:
        family = families.get(figure.name)
        if family is None:
            names = [name for name, _ in figure.labels]
            text = HELP[figure.name]
            family = (
                CounterMetricFamily(f"nodemesh_{figure.name}", text, labels=names)
                if figure.kind == "counter"
                else GaugeMetricFamily(f"nodemesh_{figure.name}", text, labels=names)
            )
            families[figure.name] = family
        values = [value for _, value in figure.labels]
        family.add_metric(values, figure.value)  # type: ignore[attr-defined]
    yield from families.values()


class MetricsPage:
    """The text of /metrics. ``update`` on the loop, ``render`` in any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._snapshot = _Snapshot()
        self._registry.register(self._snapshot)
        ProcessCollector(registry=self._registry)

    @property
    def figures(self) -> Figures:
        """The snapshot that a scrape would show now."""
        return self._snapshot.figures

    def update(self, figures: Figures) -> None:
        """Show these figures from now on."""
        self._snapshot.figures = figures

    def render(self, accept: str) -> tuple[bytes, str]:
        """Body and content type for an Accept header: OpenMetrics where it is asked for."""
        if "application/openmetrics-text" in accept:
            text: bytes = generate_openmetrics(self._registry)  # type: ignore[no-untyped-call]
            return text, OPENMETRICS_TYPE
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
