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
from agent.statefiles import MAX_ADDED, IdsFile, hold_lock
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.added", "ids.json"]


def saved(path: Path, *names: str) -> IdsFile:
    """Numbers given one at a time, each saved."""
    ids = IdsFile(path)
    ids.load()
    for name in names:
        ids.table.workload_id(WorkloadUid(name))
        ids.table.peer_class_id(name)
        ids.save()
    return ids


def loaded(path: Path) -> IdsFile:
    ids = IdsFile(path)
    ids.load()
    return ids


def test_numbers_that_were_added_survive_and_the_table_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "ids.json"
    ids = saved(path, "a")
    whole = path.read_text()
    ids.table.workload_id(WorkloadUid("b"))
    ids.table.policy_set_id("set")
    ids.save()
    assert path.read_text() == whole
    assert loaded(path).table.to_json() == ids.table.to_json()
    again = saved(path, "b", "c")
    assert again.table.workload_id(WorkloadUid("b")) == ids.table.workload_id(WorkloadUid("b"))
    assert loaded(path).table.to_json() == again.table.to_json()


def test_numbers_that_were_freed_do_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "ids.json"
    ids = saved(path, "a", "b", "c")
    ids.table.collect(workloads={WorkloadUid("a")}, services=(), frontends=())
    ids.save()
    ids.table.workload_id(WorkloadUid("d"))
    ids.save()
    assert loaded(path).table.to_json() == ids.table.to_json()
    assert [loaded(path).table.workload_uid(number) for number in (1, 2, 3)] == ["a", None, None]


def test_a_table_that_has_grown_much_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "ids.json"
    ids = saved(path, "a")
    whole = path.read_text()
    for number in range(MAX_ADDED + 1):
        ids.table.workload_id(WorkloadUid(f"w{number}"))
    ids.save()
    assert path.read_text() != whole
    assert (tmp_path / "ids.added").read_text().count("\n") == 1
    assert loaded(path).table.to_json() == ids.table.to_json()


def test_an_agent_that_ends_while_it_writes_leaves_a_table_that_can_be_read(tmp_path: Path) -> None:
    """The kernel has no number of a line that is not whole, and none that is of another table."""
    path, added = tmp_path / "ids.json", tmp_path / "ids.added"
    ids = saved(path, "a", "b")
    before = ids.table.to_json()
    text = added.read_text()
    added.write_text(text + '["workloads", "c", 3')
    assert loaded(path).table.to_json() == before
    added.write_text("another table\n" + '["workloads", "c", 3]\n')
    assert loaded(path).table.workload_id(WorkloadUid("b")) == 2
    for wrong in (
        '["workloads", "c"]',
        '["pods", "c", 3]',
        '["workloads", "c", 1]',
        "{",
        "[[], 1, 2]",
    ):
        added.write_text(f"{text}{wrong}\n")
        with pytest.raises(ConfigError, match="nodemesh cleanup"):
            loaded(path)


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
