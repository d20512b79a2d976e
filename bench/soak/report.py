# SPDX-License-Identifier: Apache-2.0
"""What a soak says at its end: tables for people, JSON for everything else."""

from collections import Counter
from typing import Any

from bench.soak.leaks import as_json, growth
from bench.soak.run import Outcome, Settings
from lab.screen import Screen, format_table

__all__ = ["as_report", "show"]


def show(screen: Screen, outcome: Outcome) -> None:
    """Print the summary."""
    judge = outcome.judge
    screen.title(f"{judge.operations.total():,} operations, {judge.bytes / 1e9:.2f} GB verified")
    rows = [
        [kind, f"{count:,}", f"{judge.failed[kind]:,}"]
        for kind, count in sorted(judge.operations.items())
    ]
    _table(screen, ["operation", "count", "failed"], rows)
    screen.title("Faults, and the failures that they explain")
    done = Counter(fault.kind for fault in outcome.injector.faults)
    rows = [
        [kind, str(count), ", ".join(f"{n} {e}" for (k, e), n in sorted(judge.explained.items())
                                     if k == kind) or "-"]
        for kind, count in sorted(done.items())
    ]  # fmt: skip
    _table(screen, ["fault", "times", "explains"], rows)
    screen.title("What the agents hold, before and after")
    _table(screen, ["agent", "what", "before", "after"], _holdings(outcome))
    for node, series in outcome.memory.items():
        early, late, _ = growth(series)
        step = max(1, len(series) // 12)
        shown = " ".join(f"{value / 1e6:.1f}" for _, value in series[::step])
        screen.say(f"  private memory of {node}, MB: {shown}")
        screen.say(f"    second quarter {early / 1e6:.1f}, last quarter {late / 1e6:.1f} (medians)")
    _verdict(screen, outcome)


def _verdict(screen: Screen, outcome: Outcome) -> None:
    screen.title("Verdict")
    for problem in (*outcome.problems, *outcome.injector.errors):
        screen.bad(problem)
    for found in outcome.judge.unexplained[:20]:
        screen.bad(f"unexplained: {found.operation}")
        for line in found.log:
            screen.say(f"      {line}")
    if more := outcome.judge.unexplained[20:]:
        screen.bad(f"and {len(more)} more")
    if outcome.good:
        screen.good("no byte wrong, no unexplained failure, no leak")


def _table(screen: Screen, titles: list[str], rows: list[list[str]]) -> None:
    for line in format_table(titles, rows):
        screen.say(f"  {line}")


def _holdings(outcome: Outcome) -> list[list[str]]:
    rows = []
    for node, before in outcome.before.items():
        after = outcome.after.get(node)
        if after is None:
            continue
        pairs: list[tuple[str, Any, Any]] = [
            ("descriptors", before.fds.total(), after.fds.total()),
            ("of these sockets", before.fds["socket"], after.fds["socket"]),
            ("threads", before.threads, after.threads),
            ("children", before.children, after.children),
            ("connections", before.connections, after.connections),
            ("tunnels", before.tunnels, after.tunnels),
            ("buffers, bytes", before.buffers_bytes, after.buffers_bytes),
            *((f"map {name}", count, after.maps[name]) for name, count in before.maps.items()),
        ]
        rows += [[node, what, f"{old:,}", f"{new:,}"] for what, old, new in pairs]
    return rows


def as_report(settings: Settings, outcome: Outcome) -> dict[str, Any]:
    """Everything as plain values."""
    judge = outcome.judge
    return {
        "seed": settings.seed,
        "seconds": settings.seconds,
        "good": outcome.good,
        "operations": dict(judge.operations),
        "failed": dict(judge.failed),
        "bytes": judge.bytes,
        "explained": [
            {"fault": kind, "error": error, "count": count}
            for (kind, error), count in sorted(judge.explained.items())
        ],
        "faults": [
            {"kind": f.kind, "detail": f.detail, "began": f.began, "seconds": f.ended - f.began}
            for f in outcome.injector.faults
        ],
        "unexplained": [vars(found) for found in judge.unexplained],
        "problems": [*outcome.problems, *outcome.injector.errors],
        "before": {node: as_json(held) for node, held in outcome.before.items()},
        "after": {node: as_json(held) for node, held in outcome.after.items()},
        "private_memory": outcome.memory,
        "core": outcome.core,
    }
