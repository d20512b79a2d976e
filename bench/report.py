# SPDX-License-Identifier: Apache-2.0
"""The Markdown table: medians, ratios, aims. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.stats import SYSTEMS, Results

__all__ = ["AIMS", "Aim", "format_figure", "markdown"]


@dataclass(frozen=True, slots=True)
class Aim:
    """What nodemesh's median is to be, as a multiple of another system's (empty: as it is)."""

    bound: float
    at_least: bool = False
    against: str = "envoy"

    def judge(self, results: Results, scenario: str, metric: str) -> bool | None:
        """Say whether it is reached; None where it was not measured."""
        if self.against:
            value = results.ratio(scenario, metric, self.against)
        else:
            value = results.median(scenario, metric, "nodemesh")
        if value is None:
            return None
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.bound:g}{f' x {self.against}' if self.against else ''}"


AIMS: Mapping[tuple[str, str], Aim] = {
    ("bulk-1", "throughput"): Aim(1.3, at_least=True),
    ("bulk-1", "CPU, client"): Aim(0.7),
    ("bulk-1", "CPU, server"): Aim(0.5),
    ("bulk-4", "throughput"): Aim(1.5, at_least=True),
    ("bulk-4", "CPU, client"): Aim(0.7),
    ("bulk-4", "CPU, server"): Aim(0.5),
    ("requests-64", "requests"): Aim(1.5, at_least=True),
    ("requests-64", "CPU, client"): Aim(0.6),
    ("requests-64", "CPU, server"): Aim(0.6),
    ("requests-256", "requests"): Aim(1.8, at_least=True),
    ("requests-256", "CPU, client"): Aim(0.6),
    ("requests-256", "CPU, server"): Aim(0.6),
    ("short-64", "connections"): Aim(2, at_least=True),
    ("request-response", "p50 over direct"): Aim(0.6),
    ("same-node-bulk-1", "throughput"): Aim(0.97, at_least=True, against="direct"),
    ("same-node-bulk-4", "throughput"): Aim(0.97, at_least=True, against="direct"),
    ("same-node-request-response", "p50"): Aim(1.05, against="direct"),
    ("memory-idle", "memory, client"): Aim(80, against=""),
    ("memory-idle", "memory, server"): Aim(80, against=""),
    ("memory-known", "memory, client"): Aim(110, against=""),
    ("memory-known", "memory, server"): Aim(110, against=""),
}
"""What the project wants of these lines; a wish that is printed beside the figure, not a test."""


def format_figure(value: float | None) -> str:
    """Return three significant digits without an exponent, a dash for nothing."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def _verdict(results: Results, scenario: str, metric: str) -> str:
    aim = AIMS.get((scenario, metric))
    if aim is None:
        return ""
    reached = aim.judge(results, scenario, metric)
    return f"{aim}: " + {True: "reached", False: "**missed**", None: "not measured"}[reached]


def _says_nothing(metric: str, medians: Sequence[float | None]) -> bool:
    """Say whether a line is left out: no failures; no CPU, as on the kernel's own path."""
    return metric.startswith(("failed", "CPU")) and all((value or 0) < 0.005 for value in medians)


def markdown(results: Results, titles: Mapping[str, str]) -> str:
    """Return the table, one line a metric; failures and CPU only where there are any."""
    head = ["scenario", "", "unit", *SYSTEMS, "x envoy", "x direct", "aim"]
    rows = [head, ["---"] * 3 + ["---:"] * (len(SYSTEMS) + 2) + ["---"]]
    before = ""
    for scenario, metric, unit in results.lines():
        medians = [results.median(scenario, metric, system) for system in SYSTEMS]
        if _says_nothing(metric, medians):
            continue
        title = titles.get(scenario, scenario) if scenario != before else ""
        before = scenario
        ratios = [results.ratio(scenario, metric, system) for system in ("envoy", "direct")]
        cells = [title, metric, unit, *map(format_figure, [*medians, *ratios])]
        rows.append([*cells, _verdict(results, scenario, metric)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
