# SPDX-License-Identifier: Apache-2.0
"""Events of the core on their way to ledger, access log and agent log, over a real eventfd."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from app_rows import Closed, peer, tables

from agent.config import AccessLogSettings, AgentConfig, Paths
from agent.errors import TunnelError
from agent.observe import Observer
from mesh.reasons import Reason

CLOSED = Closed()
REFUSED = {
    "kind": "handshake_failed",
    "direction": "inbound",
    "workload_id": 2,
    "source": "10.9.9.9:1",
    "reason": 16,
}


class Core:
    """Rings like the core: readable until everything was drained."""

    def __init__(self) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.waiting: list[Any] = []
        self.drains = 0

    def happen(self, *events: Any) -> None:
        self.waiting += events
        os.eventfd_write(self.event_fd, 1)

    async def drain_events(self) -> tuple[list[Any], list[Any]]:
        # As the real one: another thread does it, and meanwhile the fd stays readable.
        await asyncio.sleep(0.01)
        self.drains += 1
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.event_fd)
        events, self.waiting = self.waiting, []
        closed = [event for event in events if isinstance(event, Closed)]
        return closed, [event for event in events if event not in closed]


@pytest.fixture
async def observed(tmp_path: Path) -> AsyncIterator[tuple[Observer, Core]]:
    config = AgentConfig(
        node="node1",
        mesh_file=tmp_path / "mesh.yaml",
        paths=Paths(tmp_path),
        access_log=AccessLogSettings(path=tmp_path / "access.log"),
    )
    observer, core = Observer(config), Core()
    observer.directory.update(tables(peer(1, "curl"), peer(2, "web")))
    yield observer, core
    observer.close()
    os.close(core.event_fd)


async def test_an_ended_connection_reaches_ledger_and_access_log(
    observed: tuple[Observer, Core], tmp_path: Path
) -> None:
    observer, core = observed
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(observer.watch_core(core))  # type: ignore[arg-type]
        for expected in (1, 2):
            core.happen(CLOSED)
            async with asyncio.timeout(5):
                while observer.ledger.total < expected:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        watching.cancel()
    # The fd was not spun on while a drain was under way.
    assert core.drains == 2
    (record,) = [item.make() for item in observer.ledger.recent(1)]
    assert record.source_workload == "shop/curl"
    assert observer.access_log._writer.flush(5)
    lines = (tmp_path / "access.log").read_text().splitlines()
    assert len(lines) == 2
    assert "src.workload=curl" in lines[0]


async def test_a_dead_worker_stops_the_agent(observed: tuple[Observer, Core]) -> None:
    observer, core = observed
    core.happen(CLOSED, {"kind": "worker_panicked", "detail": "index out of bounds"})
    with pytest.raises(TunnelError, match="index out of bounds"):
        async with asyncio.timeout(5):
            await observer.watch_core(core)  # type: ignore[arg-type]


async def test_a_stranger_who_knocks_all_day_does_not_fill_the_log(
    observed: tuple[Observer, Core], caplog: pytest.LogCaptureFixture
) -> None:
    observer, core = observed
    core.happen(*[REFUSED] * 5000)
    with caplog.at_level(logging.WARNING, logger="agent.observe"):
        await observer.flush(core)  # type: ignore[arg-type]
    # Two seconds' worth at most, where the clock's second changed meanwhile.
    assert 50 <= len(caplog.records) <= 101
    fields = caplog.records[0].fields  # type: ignore[attr-defined]
    assert fields["workload"] == "shop/web"
    assert fields["reason"] == "tls-handshake-failed"


async def test_a_pod_that_leaves_is_no_trouble(
    observed: tuple[Observer, Core], caplog: pytest.LogCaptureFixture
) -> None:
    observer, core = observed
    core.happen(
        {"kind": "capture_refused", "workload_id": 2, "reason": int(Reason.WORKLOAD_REMOVED)},
        {"kind": "capture_refused", "workload_id": 2, "reason": int(Reason.RESOURCE_LIMIT)},
    )
    with caplog.at_level(logging.WARNING, logger="agent.observe"):
        await observer.flush(core)  # type: ignore[arg-type]
    assert [record.fields["reason"] for record in caplog.records] == ["resource-limit"]  # type: ignore[attr-defined]
