# SPDX-License-Identifier: Apache-2.0
"""What was measured: runs, medians, ratios. No I/O."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["SYSTEMS", "Measurement", "Results", "add_excess", "collect"]

SYSTEMS = ("direct", "envoy", "nodemesh")

Run = Mapping[tuple[str, str], float]
"""What one run of one system gave: (metric, unit) and the value."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One metric of one system in one scenario: every run, in order."""

    scenario: str
    system: str
    metric: str
    unit: str
    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the runs; there is at least one."""
        return statistics.median(self.runs)

    def as_json(self) -> dict[str, object]:
        """Return the entry of results.json."""
        return {
            "scenario": self.scenario,
            "system": self.system,
            "metric": self.metric,
            "unit": self.unit,
            "median": _significant(self.median),
            "runs": [_significant(run) for run in self.runs],
        }


METRICS = (
    *("throughput", "requests", "connections", "CPU, client", "CPU, server"),
    *("memory, client", "memory, server", "until known", "p50", "p50 over direct", "p99", "failed"),
    *("guard, leaving", "seal", "guard, entering"),
)
"""Every metric, in the order that a reader wants them."""


def _rank(metric: str) -> int:
    return METRICS.index(metric) if metric in METRICS else len(METRICS)


def _significant(value: float, digits: int = 5) -> float:
    return float(f"{value:.{digits}g}")


def collect(scenario: str, system: str, runs: Sequence[Run]) -> list[Measurement]:
    """Turn the runs of one system into measurements, in the order that metrics first came."""
    metrics = dict.fromkeys(key for run in runs for key in run)
    return [
        Measurement(
            scenario,
            system,
            metric,
            unit,
            tuple(run[metric, unit] for run in runs if (metric, unit) in run),
        )
        for metric, unit in metrics
    ]


class Results:
    """All measurements of a run, found by scenario, system and metric."""

    def __init__(self, measurements: Iterable[Measurement] = ()) -> None:
        self._all: dict[tuple[str, str, str], Measurement] = {}
        for measurement in measurements:
            self.add(measurement)

    def add(self, measurement: Measurement) -> None:
        """Add one; ValueError if the run has it already."""
        key = (measurement.scenario, measurement.metric, measurement.system)
        if key in self._all:
            raise ValueError(f"measured twice: {', '.join(key)}")
        self._all[key] = measurement

    def as_json(self) -> list[dict[str, object]]:
        """Return the content of results.json."""
        return [measurement.as_json() for measurement in self._all.values()]

    def lines(self) -> list[tuple[str, str, str]]:
        """Return each (scenario, metric, unit) once: scenarios as measured, metrics as read."""
        found = dict.fromkeys((m.scenario, m.metric, m.unit) for m in self._all.values())
        scenarios = list(dict.fromkeys(scenario for scenario, _, _ in found))
        return sorted(found, key=lambda line: (scenarios.index(line[0]), _rank(line[1])))

    def median(self, scenario: str, metric: str, system: str) -> float | None:
        """Return the median, None where that system was not measured."""
        found = self._all.get((scenario, metric, system))
        return None if found is None else found.median

    def ratio(self, scenario: str, metric: str, against: str) -> float | None:
        """Return nodemesh's median over that of ``against``; None where there is none to form."""
        ours = self.median(scenario, metric, "nodemesh")
        theirs = self.median(scenario, metric, against)
        return None if ours is None or not theirs else ours / theirs

    def runs(self, scenario: str, metric: str, system: str) -> tuple[float, ...]:
        """Return the runs; empty where that system was not measured."""
        found = self._all.get((scenario, metric, system))
        return () if found is None else found.runs


def add_excess(results: Results, scenario: str, metric: str, unit: str) -> None:
    """Add ``<metric> over direct``: what a system adds to the direct path, round by round.

    Rounds are interleaved, so the direct run beside a run is the one that saw the same machine.
    """
    base = results.runs(scenario, metric, "direct")
    for system in SYSTEMS:
        runs = results.runs(scenario, metric, system)
        if system == "direct" or not runs or len(runs) != len(base):
            continue
        over = tuple(mine - direct for mine, direct in zip(runs, base, strict=True))
        results.add(Measurement(scenario, system, f"{metric} over direct", unit, over))
