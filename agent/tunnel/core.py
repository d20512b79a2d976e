# SPDX-License-Identifier: Apache-2.0
"""Doorway to the Rust core. Every call is made from one thread of its own.

The core asks for one caller at a time, and two of its calls wait (counters, drain): so all of them
go to a single named thread, and the event loop never blocks on a worker.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from agent.errors import TunnelError
from agent.tunnel.fingerprint import source_fingerprint

if TYPE_CHECKING:
    from agent.tunnel._hbone import (
        ClosedConnection,
        Connection,
        Core,
        Counter,
        Event,
        Stats,
        Tunnel,
    )

__all__ = ["CoreSettings", "CoreThread", "require_core", "start_core"]

T = TypeVar("T")

HBONE_PORT: Final = 15008
"""Fixed by HBONE as ztunnel and Istio speak it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSettings:
    """What the core is started with."""

    workers: int = 0
    """Worker threads; 0 is one per core."""

    congestion_control: str = ""
    """TCP congestion control of tunnels; empty leaves the kernel's default."""

    spin_microseconds: int = 0
    """How long a worker looks for more before it sleeps, where that has paid lately; 0 is never."""


class CoreThread:
    """The core and the one thread that calls it."""

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._stopped = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hbone-calls")
        self.event_fd = core.event_fd()

    async def call(self, action: "Callable[[Core], T]") -> T:
        """Run ``action`` with the core in its thread. The core's exceptions come out."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, action, self._core)

    async def drain_events(self) -> "tuple[list[ClosedConnection], list[Event]]":
        """Every waiting event, oldest first: connections that ended, and everything else."""
        return await self.call(lambda core: core.drain_events())

    async def counters(self) -> "list[Counter]":
        """Traffic totals since start."""
        return await self.call(lambda core: core.counters())

    async def connections(self) -> "list[Connection]":
        """Open streams."""
        return await self.call(lambda core: core.connections())

    async def tunnels(self) -> "list[Tunnel]":
        """Open HBONE connections."""
        return await self.call(lambda core: core.tunnels())

    async def stats(self) -> "Stats":
        """Gauges and totals of the whole core."""
        return await self.call(lambda core: core.stats())

    async def forget_counters(self, workload_ids: list[int]) -> None:
        """Drop the totals that name these workloads."""
        await self.call(lambda core: core.forget_counters(workload_ids))

    async def drain(self, seconds: float) -> None:
        """Take nothing new, let what is open finish, at most so long."""
        await self.call(lambda core: core.drain(int(seconds * 1000)))

    async def stop(self) -> None:
        """End the workers and this thread. Safe to call twice."""
        if not self._stopped:
            self._stopped = True
            await self.call(lambda core: core.stop())
            self._thread.shutdown(wait=False)


def require_core() -> None:
    """See that the core can be used, before anything is touched.

    Raises:
        TunnelError: it was not built, does not load, or was built from other sources than those
            beside us: it would run, and every change since would seem to have no effect.

    """
    try:
        from agent.tunnel import _hbone  # noqa: PLC0415 - built code: say so when it is missing
    except ImportError as error:
        raise TunnelError(
            "the Rust core agent.tunnel._hbone is not built or does not load: run `make setup`"
        ) from error
    sources = Path(__file__).resolve().parents[2] / "hbone"
    built = _hbone.build_fingerprint()
    try:
        current = source_fingerprint(sources)
    except OSError:
        return
    if current is not None and current != built:
        raise TunnelError(
            f"the Rust core was built from other sources than those in {sources} (fingerprint "
            f"{built}, not {current}): run `make setup`, which builds it anew"
        )


def start_core(settings: CoreSettings, *, flow_records_fd: int, query_fd: int) -> CoreThread:
    """Start the workers.

    Raises:
        TunnelError: as require_core(), or the core could not start its workers.

    """
    require_core()
    from agent.tunnel import _hbone  # noqa: PLC0415 - built code

    try:
        core = _hbone.Core(
            flow_records_fd=flow_records_fd,
            query_fd=query_fd,
            workers=settings.workers,
            hbone_port=HBONE_PORT,
            congestion_control=settings.congestion_control,
            spin_us=settings.spin_microseconds,
        )
    except (OSError, ValueError) as error:
        raise TunnelError(f"the Rust core could not start: {error}") from error
    return CoreThread(core)
