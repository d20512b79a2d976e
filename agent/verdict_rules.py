# SPDX-License-Identifier: Apache-2.0
"""Which rule gave a verdict: for whoever follows verdicts, and counted for the metrics."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from agent.errors import DataplaneError
from agent.explain import Explainer
from agent.telemetry.connections import split_endpoint
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

    def find(self, tell: Callable[[], Told]) -> dict[str, Any] | None:
        """The rule that gives this refusal now, or that refuses in dry run.

        None where none does, or where there is no time to ask: then it is not put into words.
        """
        if not self._may_ask():
            return None
        told = tell()
        source, _ = split_endpoint(told.source)
        target, port = split_endpoint(told.destination)
        explainer, egress = self._explainer(), told.direction == "outbound"
        try:
            verdict = explainer.verdict(
                source or told.source_workload,
                target,
                port=port,
                protocol=told.protocol,
                egress=egress,
            )
        except (ValueError, DataplaneError):
            return None
        if verdict is None:
            return None
        if told.verdict is Verdict.DRY_RUN:
            return explainer.rule(verdict.dry_rule)
        return explainer.rule(verdict.rule) if verdict.reason.text == told.reason else None

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
                for happened in await watcher.take_untold(_WAIT_SECONDS):
                    rule = self._finder.find(happened.tell)
                    policy = rule["policy"] if rule else ""
                    self.counts[policy, happened.verdict, happened.direction] += 1
