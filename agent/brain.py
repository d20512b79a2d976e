# SPDX-License-Identifier: Apache-2.0
"""The one task that owns MeshState.

::

    queue ─▶ take every Event that waits ─▶ MeshState.apply_all ─▶ compile once ─▶ save ids ─▶ offer
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent.inbox import Inbox
from agent.readiness import Readiness
from agent.statefiles import IdsFile
from mesh.compile import Compiler, NodeConfig
from mesh.compile.ids import frontend_name
from mesh.model.address import Family
from mesh.model.events import Event, InSync
from mesh.state import MeshState
from mesh.tables import Tables

__all__ = ["Brain", "Compiled", "Timing"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compiled:
    """Tables and whether what they lack may be taken away."""

    tables: Tables = field(default_factory=Tables)
    may_remove: bool = False
    """Every source has delivered its first full listing."""


@dataclass(slots=True)
class Timing:
    """How often something was done, how long it took, how often it failed."""

    count: int = 0
    seconds: float = 0.0
    failures: int = 0
    last_error: str = ""

    def done(self, started: float, now: float) -> None:
        """Count one that worked."""
        self.count += 1
        self.seconds += now - started
        self.last_error = ""

    def failed(self, error: BaseException) -> None:
        """Count one that did not."""
        self.failures += 1
        self.last_error = str(error) or type(error).__name__


class Brain:
    """Everything known, and the rows that follow from it. ``latest`` may be read on the loop."""

    def __init__(
        self,
        *,
        ids: IdsFile,
        node_config: Callable[[], NodeConfig],
        sources: Sequence[str],
        observers: Sequence[Callable[[Tables], None]],
        inbox: Inbox[Compiled],
        readiness: Readiness,
    ) -> None:
        self._ids = ids
        self._node_config = node_config
        self._sources = sources
        self._observers = observers
        self._inbox = inbox
        self._readiness = readiness
        self._compiler = Compiler(ids.table)
        self._warned: frozenset[str] = frozenset()
        self._collected = False
        self.queue: asyncio.Queue[Event] = asyncio.Queue()
        """Facts for this task."""

        self.state = MeshState()
        self.latest = Compiled()
        self.timing = Timing()

    @property
    def node_config(self) -> NodeConfig:
        """What the rows depend on beside the facts."""
        return self._node_config()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            events = [await self.queue.get()]
            while not self.queue.empty():
                events.append(self.queue.get_nowait())
            self.state.apply_all(events)
            await self._compile()

    def compile_again(self) -> None:
        """A setting that the rows depend on has changed."""
        # A fact that is known already changes nothing, but wakes the task.
        for source in self.state.in_sync:
            self.queue.put_nowait(InSync(source))

    async def _compile(self) -> None:
        started = time.monotonic()
        judged = self.state.is_in_sync(self._sources)
        tables = self._compiler.compile(self.state, node=self._node_config(), judged=judged)
        self.timing.done(started, time.monotonic())
        if not self._collected and self.state.is_in_sync(self._sources):
            self._collected = True
            self._collect()
        # The numbers must be on disk before the kernel's pinned maps hold them: after a crash in
        # between, another workload could otherwise get a number that live sockets still carry.
        if self._ids.is_due:
            await asyncio.to_thread(self._ids.save)
        self._warn(tables)
        before, self.latest = self.latest, Compiled(tables, self.state.is_in_sync(self._sources))
        if tables is before.tables and before.may_remove == self.latest.may_remove:
            return  # what was offered last holds: most changes of pods are no change of rows
        if self.latest.may_remove:
            self._readiness.done("sources")
        for observe in self._observers:
            observe(tables)
        self._inbox.offer(self.latest)

    def _collect(self) -> None:
        """Let the numbers go of what went while, or before, no agent ran; once, in sync.

        Pinned rows and live sockets may hold such a number for a while yet. That is in order:
        nothing asks for the name of a number, rows are compared as bytes and removed as such, and a
        number is given anew only after all others, 2**32 of them. Somebody who returns later gets a
        new one. What goes while this agent runs keeps its number until the next start, so that a
        pod that only restarts keeps its connections' number.
        """
        services = self.state.services.by_key()
        freed = self._ids.table.collect(
            workloads=self.state.workloads.by_key(),
            services=services,
            frontends={
                frontend_name(name, port.port, port.protocol, family)
                for name, service in services.items()
                for port in service.ports
                for family in Family
            },
        )
        if freed:
            log.info("numbers of what is gone were freed", extra={"fields": {"numbers": freed}})

    def _warn(self, tables: Tables) -> None:
        if tables.policy_problem and tables.policy_problem != self.latest.tables.policy_problem:
            log.error("the policies of before hold on: %s", tables.policy_problem)
        warnings = frozenset(tables.warnings)
        for sentence in sorted(warnings - self._warned):
            log.warning("%s", sentence)
        self._warned = warnings
