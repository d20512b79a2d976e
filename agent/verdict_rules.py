# SPDX-License-Identifier: Apache-2.0
"""Which rule gave a verdict: for whoever follows verdicts, and counted for the metrics."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from agent.errors import DataplaneError
from agent.explain import Explainer
from agent.telemetry.feed import Feed, Told, Verdict

__all__ = ["PolicyCounts", "RuleFinder"]

_RULES_PER_SECOND: Final = 100
"""Verdicts whose rule is looked for: each costs a system call or two on the event loop."""

_WAIT_SECONDS: Final = 60.0


class RuleFinder:
    """Asks for the rule behind a verdict, a bounded number of times a second."""

    def __init__(self, explainer: Callable[[], Explainer]) -> None:
        """``explainer`` makes one for the policy in force."""
        self._explainer = explainer
        self._second = self._asked = 0

    def find(self, told: Told) -> tuple[str, dict[str, Any] | None]:
        """The direction that was judged, and the rule that gives this verdict there now.

        No rule where none gives it, where it is allowed, or where there is no time to ask.
        """
        if told.verdict is Verdict.ALLOWED or not self._may_ask():
            return told.direction, None
        source = _host(told.source) or told.source_workload
        host, _, port = told.destination.rpartition(":")
        try:
            halves = self._explainer().explain(
                source, host.strip("[]"), port=int(port or 0), protocol=told.protocol
            )["directions"]
        except (ValueError, DataplaneError):
            return told.direction, None
        for half in halves:
            if half.get("reason") == told.reason:
                direction = "outbound" if half["direction"] == "egress" else "inbound"
                return direction, half["decided_by"]
        return told.direction, None

    def _may_ask(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._asked = second, 0
        self._asked += 1
        return self._asked <= _RULES_PER_SECOND


class PolicyCounts:
    """Counts refusals, and what dry run would refuse, by the policy whose rule decided."""

    def __init__(self, finder: RuleFinder) -> None:
        self._finder = finder
        self.counts: Counter[tuple[str, Verdict, str]] = Counter()
        """Ever since, by policy, verdict and direction. No policy ("") where no rule decided (for
        lack of one that allows), and where there were too many in a second to ask."""

    async def run(self, feed: Feed) -> None:
        """Count until cancelled."""
        with feed.watch(Verdict.DENIED, Verdict.DRY_RUN) as watcher:
            while True:
                for told in await watcher.take(_WAIT_SECONDS):
                    direction, rule = self._finder.find(told)
                    self.counts[rule["policy"] if rule else "", told.verdict, direction] += 1


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].strip("[]")
