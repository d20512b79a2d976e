# SPDX-License-Identifier: Apache-2.0
"""Settings, the lock of the one writer, the id table's file, the one-slot inbox, readiness."""

import asyncio
import os
from pathlib import Path

import pytest

from agent.config import AccessLogSettings, AgentConfig, ListenSettings, Paths
from agent.errors import ConfigError, LockError
from agent.inbox import Inbox
from agent.readiness import Readiness
from agent.statefiles import IdsFile, hold_lock
from mesh.model.workload import WorkloadUid


def test_a_second_agent_is_refused_with_the_first_ones_process(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "node1")
    with hold_lock(paths):
        with pytest.raises(LockError, match=f"process {os.getpid()}"), hold_lock(paths):
            raise AssertionError
        with hold_lock(Paths(tmp_path / "node2")):
            pass
    with hold_lock(paths):
        pass


def test_numbers_survive_a_restart_and_are_saved_only_when_they_change(tmp_path: Path) -> None:
    uid = WorkloadUid("Kubernetes//Pod/shop/curl")
    ids = IdsFile(tmp_path / "ids.json")
    ids.load()
    number = ids.table.workload_id(uid)
    assert ids.save()
    assert not ids.save()
    again = IdsFile(tmp_path / "ids.json")
    again.load()
    assert again.table.workload_id(uid) == number
    assert not again.save()
    assert [path.name for path in tmp_path.iterdir()] == ["ids.json"]


def test_a_broken_id_table_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text("{")
    with pytest.raises(ConfigError, match="nodemesh cleanup"):
        IdsFile(tmp_path / "ids.json").load()


@pytest.mark.parametrize(
    "wrong",
    [
        {"node": "Node_1"},
        {"node": "a/../b"},
        {"access_log": AccessLogSettings(sample=1.5)},
        {"access_log": AccessLogSettings(lines_per_second=0)},
        {"listen": ListenSettings(metrics_port=70000)},
        {"drain_seconds": -1.0},
        {"kept_connections": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    right = {"node": "node1", "mesh_file": tmp_path / "mesh.yaml", "paths": Paths(tmp_path)}
    AgentConfig(**right)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        AgentConfig(**{**right, **wrong})  # type: ignore[arg-type]


async def test_the_latest_value_wins() -> None:
    inbox: Inbox[int] = Inbox()
    inbox.offer(1)
    inbox.offer(2)
    assert await inbox.take() == 2
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(inbox.take(), 0.01)
    inbox.offer(3)
    assert await inbox.take() == 3


async def test_ready_when_the_last_task_is_done_and_not_while_draining() -> None:
    readiness = Readiness(["sources", "certificates"])
    readiness.done("sources")
    assert readiness.pending == ["certificates"]
    readiness.done("certificates")
    readiness.done("certificates")
    await asyncio.wait_for(readiness.wait(), 1)
    assert readiness.is_ready
    readiness.drain()
    assert not readiness.is_ready
    assert readiness.pending == ["draining"]
