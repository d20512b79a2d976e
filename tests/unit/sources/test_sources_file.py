# SPDX-License-Identifier: Apache-2.0
"""The file source with real files: hot reload, bad edits, and every way of writing a file."""

# ruff: noqa: ASYNC110, ASYNC240 - a test may wait by looking, and its files are small
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mesh_text import GOOD, spoil

from agent.sources import apart
from agent.sources.apart import parse_mesh_apart
from agent.sources.convert import parse_mesh
from agent.sources.file import FileSource, read_mesh_file
from agent.sources.problems import MeshFileError
from agent.sources.settings import MeshFile
from mesh.model.events import (
    Event,
    InSync,
    NamespaceAdded,
    NamespaceRemoved,
    NodeAdded,
    ServiceAdded,
    ServiceRemoved,
    WorkloadAdded,
    WorkloadRemoved,
)
from mesh.model.service import ServiceName
from mesh.model.workload import pod_uid

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MOVED = spoil('"10.0.0.1"', '"10.0.0.9"')


class Watched:
    """A running source and what it queued."""

    def __init__(self, path: Path, settle_seconds: float = 0.1) -> None:
        self.loads: list[MeshFile] = []
        self.source = FileSource(
            path,
            poll_seconds=0.02,
            settle_seconds=settle_seconds,
            now=lambda: NOON,
            on_load=self.loads.append,
        )
        self.queue: asyncio.Queue[Event] = asyncio.Queue()

    def taken(self) -> list[Event]:
        events = []
        while not self.queue.empty():
            events.append(self.queue.get_nowait())
        return events

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.01)

    async def generation(self, number: int) -> list[Event]:
        await self.until(lambda: self.source.status.generation == number and self.queue.qsize() > 0)
        return self.taken()

    async def refusal(self) -> str:
        await self.until(lambda: self.source.status.last_error is not None)
        return str(self.source.status.last_error)


@asynccontextmanager
async def watching(
    path: Path, *, load: bool = True, settle_seconds: float = 0.1
) -> AsyncIterator[Watched]:
    watched = Watched(path, settle_seconds)
    if load:
        watched.source.load()
    task = asyncio.get_running_loop().create_task(watched.source.run(watched.queue))
    try:
        yield watched
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mesh.yaml"
    path.write_text(GOOD)
    return path


async def test_the_first_listing_ends_with_in_sync(path: Path) -> None:
    async with watching(path) as watched:
        events = await watched.generation(1)
        kinds = [type(event) for event in events]
        assert kinds == [NodeAdded, NamespaceAdded, WorkloadAdded, ServiceAdded, InSync]
        assert events[-1] == InSync("file")
        status = watched.source.status
        assert (status.path, status.last_loaded, status.last_error) == (str(path), NOON, None)
        assert watched.loads == [watched.source.current]


async def test_what_an_edit_leaves_alone_is_held_once(path: Path) -> None:
    async with watching(path) as watched:
        first = await watched.generation(1)
        path.write_text(MOVED)
        (moved,) = await watched.generation(2)
        told = {type(event): event for event in first}
        now = watched.source.current
        assert now is not None
        assert now.nodes[0] is told[NodeAdded].node
        assert now.namespaces[0] is told[NamespaceAdded].namespace
        assert now.services[0] is told[ServiceAdded].service
        assert now.workloads[0] is moved.workload
        assert now == read_mesh_file(path)


async def test_a_good_edit_says_only_what_changed(path: Path) -> None:
    async with watching(path) as watched:
        await watched.generation(1)
        path.write_text(MOVED)
        (event,) = await watched.generation(2)
        assert isinstance(event, WorkloadAdded)
        assert str(event.workload.addresses[0]) == "10.0.0.9"
        head, _, _ = GOOD.partition("namespaces:")
        path.write_text(head)
        assert await watched.generation(3) == [
            ServiceRemoved(ServiceName("shop", "web")),
            WorkloadRemoved(pod_uid("shop", "web")),
            NamespaceRemoved("shop"),
        ]
        assert len(watched.loads) == 3


async def test_a_bad_edit_keeps_the_last_good_state_and_says_where_and_why(path: Path) -> None:
    async with watching(path) as watched:
        await watched.generation(1)
        before = watched.source.current
        path.write_text(spoil('"10.0.0.1"', '"10.1.1"'))
        assert await watched.refusal() == (
            f'{path}:13: workloads[0].addresses[0]: "10.1.1" is not an IP address '
            "(IPv4 like 10.0.0.1 or IPv6 like fd00::1)"
        )
        assert watched.taken() == []
        assert watched.source.current is before
        assert watched.source.status.generation == 1
        path.write_text(MOVED)
        assert len(await watched.generation(2)) == 1
        assert watched.source.status.last_error is None


async def test_undoing_a_bad_edit_clears_the_error_without_an_event(path: Path) -> None:
    async with watching(path) as watched:
        await watched.generation(1)
        path.write_text("nonsense: [")
        await watched.refusal()
        path.write_text(GOOD)
        await watched.until(lambda: watched.source.status.last_error is None)
        assert watched.taken() == []
        assert watched.source.status.generation == 1


async def test_a_touch_or_a_comment_changes_nothing_of_the_mesh(path: Path) -> None:
    async with watching(path) as watched:
        await watched.generation(1)
        os.utime(path)
        await asyncio.sleep(0.3)
        assert watched.source.status.generation == 1
        path.write_text(GOOD + "# a comment\n")
        await watched.until(lambda: watched.source.status.generation == 2)
        await asyncio.sleep(0.1)
        assert watched.taken() == []


async def test_an_editor_that_renames(path: Path) -> None:
    async with watching(path) as watched:
        await watched.generation(1)
        new = path.with_suffix(".swp")
        new.write_text(MOVED)
        os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        new.replace(path)
        assert len(await watched.generation(2)) == 1


async def test_a_swapped_symlink_as_in_a_configmap_volume(tmp_path: Path) -> None:
    for name, text in (("one", GOOD), ("two", MOVED)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mesh.yaml").write_text(text)
    data, path = tmp_path / "..data", tmp_path / "mesh.yaml"
    data.symlink_to("one")
    path.symlink_to("..data/mesh.yaml")
    async with watching(path) as watched:
        await watched.generation(1)
        fresh = tmp_path / "..data_tmp"
        fresh.symlink_to("two")
        fresh.replace(data)
        assert len(await watched.generation(2)) == 1


async def test_a_file_that_is_away_for_a_while(path: Path) -> None:
    async with watching(path) as watched:
        await watched.generation(1)
        path.unlink()
        assert await watched.refusal() == f"{path}:1: cannot be read: no such file or directory"
        assert watched.taken() == []
        path.write_text(MOVED)
        assert len(await watched.generation(2)) == 1


async def test_a_file_written_slowly_is_not_read_by_halves(path: Path) -> None:
    """Cut before the services it is good, and the service would be gone for a moment."""
    async with watching(path, settle_seconds=0.5) as watched:
        await watched.generation(1)
        head, separator, tail = MOVED.partition("services:")
        with path.open("w") as file:
            for part in (head, *["# slow\n"] * 16, separator + tail):
                file.write(part)
                file.flush()
                await asyncio.sleep(0.05)
        (event,) = await watched.generation(2)
        assert isinstance(event, WorkloadAdded)


async def test_without_a_good_file_nothing_is_said_to_be_in_sync(path: Path) -> None:
    path.unlink()
    async with watching(path, load=False) as watched:
        await watched.refusal()
        assert watched.taken() == []
        assert watched.source.status.last_loaded is None
        path.write_text(GOOD)
        assert (await watched.generation(1))[-1] == InSync("file")


async def test_a_failed_start_is_an_error_with_every_problem(path: Path) -> None:
    path.write_text("kind: Mesh\n")
    with pytest.raises(MeshFileError, match='the field "trustDomain" is missing'):
        FileSource(path).load()


def test_what_is_not_a_regular_file_is_refused_and_does_not_block(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, reason in (
        (fifo, "is not a regular file"),
        (tmp_path, "is a directory"),
        (tmp_path / "none", "no such file or directory"),
    ):
        with pytest.raises(MeshFileError, match=reason):
            read_mesh_file(path)


def test_relative_paths_in_a_file_start_at_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(GOOD + "agent: {certificates: {provider: files, directory: certs}}\n")
    certificates = read_mesh_file(path).agent.certificates
    assert getattr(certificates, "directory", None) == tmp_path / "certs"


def test_a_parse_apart_is_the_parse_here_and_hashes_are_made_anew(path: Path) -> None:
    """A hash of text differs from process to process; labels keep theirs."""
    here = read_mesh_file(path)
    away = parse_mesh_apart(path.read_bytes(), str(path), base=path.parent)
    assert away == here
    assert {workload.labels for workload in away.workloads} == {
        workload.labels for workload in here.workloads
    }


def test_a_parse_apart_takes_over_what_is_known(path: Path) -> None:
    """Of more workloads than go in one portion; their order is the file's, known or not."""
    many = [
        f"  - {{name: w{n}, namespace: shop, node: node1, addresses: [10.1.{n >> 8}.{n & 255}]}}\n"
        for n in range(700)
    ]
    head, _, tail = GOOD.partition("services:")

    def parse_both(entries: list[str], have: MeshFile | None) -> tuple[MeshFile, MeshFile]:
        path.write_text(head + "".join(entries) + "services:" + tail)
        content = path.read_bytes()
        return read_mesh_file(path), parse_mesh_apart(content, "f", base=path.parent, have=have)

    here, first = parse_both(many, None)
    assert here == first
    changed = [*reversed(many[:300]), *many[301:], many[300].replace("10.1", "10.2")]
    here, second = parse_both(changed, first)
    assert here == second
    known = {workload.uid: workload for workload in first.workloads}
    new = [workload for workload in second.workloads if workload is not known[workload.uid]]
    assert [workload.name for workload in new] == ["w300"]
    assert second.services[0] is first.services[0]


def test_a_parse_apart_says_every_problem_as_here(path: Path) -> None:
    bad = b"kind: Mush\nnodes: 1\n"
    with pytest.raises(MeshFileError) as here:
        parse_mesh(bad, "f", base=path.parent)
    with pytest.raises(MeshFileError) as away:
        parse_mesh_apart(bad, "f", base=path.parent)
    assert len(away.value.problems) > 1
    assert away.value.problems == here.value.problems


def test_a_parser_that_dies_is_a_problem_of_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import os; os.kill(os.getpid(), 11)"
    monkeypatch.setattr(apart, "child_command", lambda _module: [sys.executable, "-c", text])
    with pytest.raises(MeshFileError, match="the process that reads it ended with -11"):
        FileSource(path).load()
