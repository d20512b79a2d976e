# SPDX-License-Identifier: Apache-2.0
"""Tasks that carry what happened out of the core and the kernel into telemetry.

::

    core eventfd ──▶ drain_events ──┬─▶ Ended ─▶ ledger, access log; verdicts ─▶ feed, recent
    kernel ring buffer ─▶ events ───┘
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from agent.config import AgentConfig
from agent.dataplane.sink import Dataplane
from agent.dataplane.telemetry import decode_event
from agent.errors import TunnelError
from agent.telemetry.access_log import AccessLog
from agent.telemetry.connections import ConnectionLedger, Ended
from agent.telemetry.directory import Directory
from agent.telemetry.feed import Feed
from agent.telemetry.kernel_flows import KernelFlows
from agent.telemetry.labels import reason_text
from agent.telemetry.recent import RecentConnections
from agent.tunnel.core import CoreThread
from agent.tunnel.records import EndedTunnelled
from mesh.reasons import Reason

if TYPE_CHECKING:
    from agent.tunnel._hbone import ClosedConnection, Event

__all__ = ["Observer"]

log = logging.getLogger(__name__)

_LINES_PER_SECOND: Final = 50
"""Of refused handshakes and captures: a stranger who knocks all day must not fill the log."""

_REFUSED_KINDS: Final = frozenset({"handshake_failed", "capture_refused"})

_GATHER_SECONDS: Final = 0.02
"""Pause between two drains: one wake-up for many events, and nobody reads a log faster."""


class Observer:
    """Takes events from both sides and keeps what telemetry shows. Lives on the event loop."""

    def __init__(self, config: AgentConfig) -> None:
        self.directory = Directory(grace_seconds=config.series_grace_seconds, clock=time.monotonic)
        self.ledger = ConnectionLedger(kept=config.kept_connections)
        self.flows = KernelFlows(self.directory, decode=decode_event, now=time.time)
        self.feed = Feed(self.directory, self.flows, now=time.time)
        self.recent = RecentConnections(self.flows, now=time.time)
        self.access_log = AccessLog(
            config.access_log, log_format=config.log_format, random=random.random
        )
        self._log_second = self._logged = self._unlogged = 0

    async def watch_core(self, core: CoreThread) -> None:
        """Carry the core's events out, until cancelled.

        Raises:
            TunnelError: a worker died; the agent must not go on with half a core.

        """
        async with _readable(core.event_fd) as wait:
            while True:
                await wait()
                self._take_core_events(*await core.drain_events())
                await asyncio.sleep(_GATHER_SECONDS)

    async def watch_kernel(self, dataplane: Dataplane) -> None:
        """Carry the kernel's events out, until cancelled."""
        async with _readable(dataplane.events_fd()) as wait:
            while True:
                await wait()
                while events := dataplane.raw_events():
                    self.feed.kernel(events)
                    self.recent.kernel(events)
                    self._record(self.flows.observe(events))
                    await asyncio.sleep(0)
                await asyncio.sleep(_GATHER_SECONDS)

    async def flush(self, core: CoreThread) -> None:
        """Take the last events of a core that has drained."""
        self._take_core_events(*await core.drain_events())

    def close(self) -> None:
        """Close the access log."""
        self.access_log.close()

    def _take_core_events(
        self, closed: "list[ClosedConnection]", others: "Iterable[Event]"
    ) -> None:
        now = time.time()
        directory = self.directory
        ended = [EndedTunnelled(connection, directory, now) for connection in closed]
        self.feed.tunnelled(ended)
        self.recent.tunnelled(ended)
        self._record(ended)
        for event in others:
            if event["kind"] == "worker_panicked":
                raise TunnelError(
                    f"a worker of the tunnel core died: {event.get('detail', '')}. The agent "
                    "stops, so that no connection is served by half a core"
                )
            if event["kind"] in _REFUSED_KINDS:
                self.feed.refused_by_core(event)
            self._log_event(event["kind"], event)

    def _log_event(self, kind: str, event: "Event") -> None:
        # A pod that leaves is no trouble: the sinks work at once, and the core may see it first.
        quiet = kind.startswith("tunnel_") or event.get("reason") == Reason.WORKLOAD_REMOVED
        level = logging.DEBUG if quiet else logging.WARNING
        if not log.isEnabledFor(level) or not self._may_log():
            return
        own = self.directory.workload(event.get("workload_id", 0))
        peer = self.directory.workload(event.get("peer_workload_id", 0))
        fields = {
            "direction": event.get("direction", ""),
            "workload": own.text if own else "",
            "peer": peer.text if peer else "",
            "source": event.get("source", ""),
            "destination": event.get("destination", "") or event.get("hbone_address", ""),
            "reason": reason_text(event["reason"]) if event.get("reason") else "",
            "detail": event.get("detail", ""),
        }
        fields = {name: value for name, value in fields.items() if value}
        log.log(level, "%s", kind.replace("_", " "), extra={"fields": fields})

    def _may_log(self) -> bool:
        """Whether this second's lines are not used up; what is left out is said once."""
        second = int(time.monotonic())
        if second != self._log_second:
            if self._unlogged:
                fields = {"events": self._unlogged}
                log.warning("more happened than is logged", extra={"fields": fields})
            self._log_second, self._logged, self._unlogged = second, 0, 0
        if self._logged >= _LINES_PER_SECOND:
            self._unlogged += 1
            return False
        self._logged += 1
        return True

    def _record(self, ended: Sequence[Ended]) -> None:
        if ended:
            self.ledger.add(ended)
            self.access_log.write(self.access_log.select(ended))


@contextlib.asynccontextmanager
async def _readable(descriptor: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Wait for a descriptor again and again; it is watched only while somebody waits."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()

    def on_readable() -> None:
        # The loop is level-triggered: it would call this over and over until the drain is done.
        loop.remove_reader(descriptor)
        ready.set()

    async def wait() -> None:
        ready.clear()
        loop.add_reader(descriptor, on_readable)
        await ready.wait()

    try:
        yield wait
    finally:
        loop.remove_reader(descriptor)
