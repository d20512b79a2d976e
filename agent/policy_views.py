# SPDX-License-Identifier: Apache-2.0
"""What the admin socket answers about policy: why, which policies, and verdicts as they happen."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from agent.abi.structs import Statistic
from agent.admin.server import Query, Stream, View
from agent.explain import Explainer
from agent.figures import Parts
from agent.saved_state import write_state
from agent.sources.spelling import Facts
from agent.telemetry.feed import Told, Verdict
from agent.telemetry.recent import Seen
from agent.tunnel.records import open_record
from agent.verdict_rules import RuleFinder
from mesh.compile.policy.select import Book, Selected
from mesh.model.address import parse_address
from mesh.model.errors import InvalidAddressError
from mesh.model.names import is_dns_label
from mesh.model.policies import Policy
from mesh.model.policy import PolicyName
from mesh.model.workload import Workload
from mesh.tables import Tables

__all__ = ["PolicyViews"]

_BEAT_SECONDS: Final = 5.0
"""A line is sent at least so often: by it a reader knows that the agent lives, and the agent
learns that a reader has gone."""


class PolicyViews:
    """Answers for GET."""

    def __init__(
        self, parts: Parts, explainer: Callable[[], Explainer], *, trust_domain: str
    ) -> None:
        """``explainer`` makes one for the policy in force."""
        self._trust_domain = trust_domain
        self._parts = parts
        self._explainer = explainer
        self._finder = RuleFinder(explainer)

    @property
    def views(self) -> Mapping[str, View]:
        """GET routes with one answer."""
        return {
            "/explain": self.explain,
            "/policies": self.policies,
            "/policy/state": self.state,
            "/connections/recent": self.recent,
            "/events": self.events,
        }

    @property
    def streams(self) -> Mapping[str, Stream]:
        """GET routes that go on and on."""
        return {"/events/follow": self.follow}

    async def explain(self, query: Query) -> Any:
        """Why one workload may or may not reach another."""
        return self._explainer().explain(
            query.get("from", ""),
            query.get("to", ""),
            port=_port(query.get("port", "0")),
            protocol=query.get("protocol", "TCP"),
        )

    async def policies(self, _query: Query) -> Any:
        """Every policy that is known, and the pods of this node that it selects."""
        brain = self._parts.brain
        tables, state = brain.latest.tables, brain.state
        known = list(state.policies.values())
        judged = {
            row.uid: row.key
            for row in tables.peers.values()
            if row.key in tables.subjects and tables.subjects[row.key].judged
        }
        pods = [workload for workload in state.workloads.values() if workload.uid in judged]
        book = Book(known, brain.node_config.root_namespace)
        return await asyncio.to_thread(_describe_policies, known, pods, book, tables)

    async def recent(self, _query: Query) -> Any:
        """Who talked to whom in the last hour, how often and when last; newest first."""
        seen = await self._seen()
        return await asyncio.to_thread(lambda: [one.as_json() for one in seen()])

    async def state(self, _query: Query) -> Any:
        """Everything that policies can be tried on."""
        seen, brain = await self._seen(), self._parts.brain
        facts, config = Facts.of(brain.state), brain.node_config
        domain, now = self._trust_domain, time.time()
        return await asyncio.to_thread(
            lambda: write_state(facts, config, seen(), trust_domain=domain, now=now)
        )

    async def _seen(self) -> Callable[[], list[Seen]]:
        """What was seen, as a call for another thread."""
        observer = self._parts.observer
        describe, opened = observer.recent.snapshot(), observer.flows.open_flows()
        streams = await self._parts.core.connections()

        def make() -> list[Seen]:
            records = [open_record(stream, observer.directory) for stream in streams]
            return describe([*records, *(one() for one in opened)])

        return make

    async def events(self, query: Query) -> Any:
        """The last refusals, and what policies in dry run would refuse; oldest first."""
        wanted = _Wanted(query)
        told = [one for one in self._parts.observer.feed.recent() if wanted.takes(one)]
        return [self._with_rule(one) for one in told[-wanted.limit :]]

    def follow(self, query: Query) -> AsyncIterator[Any]:
        """Verdicts from now on. ValueError where the question is wrong, before anything is sent."""
        return self._follow(_Wanted(query))

    async def _follow(self, wanted: "_Wanted") -> AsyncIterator[Any]:
        before = await self._lost()
        with self._parts.observer.feed.watch(*wanted.verdicts) as watcher:
            yield None  # whoever reads this knows that nothing is missed from here on
            counted = time.monotonic()
            while True:
                for told in await watcher.take(_BEAT_SECONDS):
                    if wanted.takes(told):
                        yield self._with_rule(told)
                if time.monotonic() - counted < _BEAT_SECONDS:
                    continue
                counted = time.monotonic()
                lost = await self._lost()
                news = {name: lost[name] - before[name] for name in lost}
                news["reader"], watcher.lost = watcher.lost, 0
                before = lost
                yield {"lost": news} if any(news.values()) else None

    async def _lost(self) -> dict[str, int]:
        """What did not get here, ever since, by where it was lost."""
        statistics = await self._parts.dataplane.statistics()
        stats = await self._parts.core.stats()
        return {
            "kernel": statistics.get(Statistic.EVENTS_LOST, 0),
            "tunnel": stats["events_dropped"] + stats["events_withheld"],
        }

    def _with_rule(self, told: Told) -> dict[str, Any]:
        """The verdict with the rule that gives it now, if one does and there is time to ask."""
        allowed = told.verdict is Verdict.ALLOWED
        return {**told.as_json(), "rule": None if allowed else self._finder.find(lambda: told)}


class _Wanted:
    """What of the verdicts somebody wants to see."""

    def __init__(self, query: Query) -> None:
        verdict = query.get("verdict", "")
        if verdict and verdict not in set(Verdict):
            raise ValueError(f"verdict must be one of {', '.join(Verdict)}, not {verdict!r}")
        limit = query.get("limit", "100")
        if not limit.isdecimal() or not 0 < int(limit[:9]) <= 10_000:
            raise ValueError(f"limit must be a number from 1 to 10000, not {limit!r}")
        self.verdicts = frozenset({Verdict(verdict)} if verdict else Verdict)
        self.limit = int(limit)
        self._source = _end(query.get("from", ""))
        self._target = _end(query.get("to", ""))

    def takes(self, told: Told) -> bool:
        """Whether this is one of them."""
        return (
            told.verdict in self.verdicts
            and (not self._source or told.is_from(self._source))
            and (not self._target or told.is_to(self._target))
        )


def _port(text: str) -> int | str:
    """A number, or what can be a port's name (RFC 6335, section 5.1)."""
    if text.isascii() and text.isdecimal():
        if int(text[:6]) > 65535:
            raise ValueError(f"port must be a number up to 65535 or a name, not {text!r}")
        return int(text)
    if not is_dns_label(text):
        raise ValueError(f"port must be a number up to 65535 or a name, not {text!r}")
    return text


def _end(text: str) -> str:
    """``namespace/name``, or an address as it is always spelt."""
    if not text or "/" in text:
        return text
    try:
        return str(parse_address(text))
    except InvalidAddressError:
        raise ValueError(f"{text!r} is no namespace/name and no address") from None


def _describe_policies(
    known: list[Policy], pods: list[Workload], book: Book, tables: Tables
) -> list[dict[str, Any]]:
    selected: dict[PolicyName, list[str]] = {}
    for pod in pods:
        for key in _keys(book.select(pod)):
            selected.setdefault(key, []).append(f"{pod.namespace}/{pod.name}")
    rules = Counter(name for name, _ in {(row.policy, row.rule) for row in tables.rules.values()})
    return [
        {
            "kind": policy.key.kind.value,
            "namespace": policy.key.namespace,
            "name": policy.key.name,
            "pods": sorted(selected.get(policy.key, ())),
            "rules": rules[policy.key],
            "file": policy.origin.file,
            "line": policy.origin.line,
            "warnings": [one for one in tables.warnings if one.startswith(f"{policy.key} (")],
        }
        for policy in sorted(known, key=lambda one: one.key)
    ]


def _keys(selected: Selected) -> set[PolicyName]:
    found = {one.key for one in selected.network}
    found.update(one.key for one in selected.authorization)
    found.update(one.key for one in (selected.mode, selected.port_modes) if one is not None)
    return found
