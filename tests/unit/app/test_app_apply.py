# SPDX-License-Identifier: Apache-2.0
"""The brain and the applier: order, certificates before capture, retry, nothing removed early.

The kernel and the core are fakes that record; the brain, the compiler and the sink are real.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from agent import apply
from agent.apply import Applier
from agent.brain import Brain, Compiled
from agent.errors import MapError
from agent.pki.provider import SvidEvent, SvidExpired, SvidForgotten, SvidUpdated
from agent.readiness import Readiness
from agent.statefiles import IdsFile
from agent.tunnel.sink import TunnelSink
from mesh.compile import NodeConfig
from mesh.model.events import (
    InSync,
    NamespaceAdded,
    NodeAdded,
    ServiceAdded,
    WorkloadAdded,
    WorkloadRemoved,
)
from mesh.model.identity import Identity, parse_identity
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.model.node import Node
from mesh.model.service import Service, ServicePort
from mesh.model.workload import Workload, WorkloadUid
from mesh.tables import EnrollmentRow, Tables, WorkloadId

CURL = parse_identity("spiffe://cluster.local/ns/shop/sa/curl")


@dataclass(frozen=True)
class Material:
    identity: Identity = CURL
    chain: tuple[bytes, ...] = (b"leaf",)
    private_key: bytes = b"key"
    roots: tuple[bytes, ...] = (b"root",)


@dataclass(frozen=True)
class Pod:
    row: EnrollmentRow
    is_captured: bool = True
    netns_fd: int = 10
    netns_cookie: int = 77
    capture_listeners: tuple[int, ...] = (11,)
    inbound_listeners: tuple[int, ...] = (12,)
    mark: int = 1

    @property
    def uid(self) -> str:
        return self.row.key

    @property
    def workload_id(self) -> int:
        return self.row.workload_id

    @property
    def identity(self) -> Identity:
        return self.row.identity

    @property
    def addresses(self) -> tuple[Any, ...]:
        return self.row.addresses


class Machine:
    """Kernel, core and authority in one record of what was done, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.enrolled: dict[WorkloadUid, Pod] = {}
        self.failures = 0
        self.wanted: set[Identity] = set()
        self.updates: asyncio.Queue[SvidEvent] = asyncio.Queue()
        self.issues_at_once = True
        self.generation = 1
        self.judgements = 0
        self.looks = 0

    # dataplane
    async def apply(self, tables: Tables, *, in_sync: bool) -> list[Any]:
        if self.failures:
            self.failures -= 1
            raise MapError("the map workloads is full")
        self.done.append(f"kernel {len(tables.enrollments)} in_sync={in_sync}")
        for uid, row in tables.enrollments.items():
            self.enrolled.setdefault(uid, Pod(row))
        if in_sync:
            for uid in self.enrolled.keys() - tables.enrollments.keys():
                del self.enrolled[uid]
        return []

    async def end_forbidden(self) -> None:
        self.looks += 1

    @contextlib.asynccontextmanager
    async def steady_pods(self) -> AsyncIterator[dict[WorkloadUid, Pod]]:
        yield dict(self.enrolled)

    # core
    async def call(self, action: Callable[[Any], Any]) -> Any:
        return action(self)

    def judge_again(self) -> None:
        self.judgements += 1

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(("put_", "remove_")):
            raise AttributeError(name)
        return lambda *_arguments, **_named: self.done.append(name)

    # authority
    def want(self, identities: Iterable[Identity]) -> None:
        wanted = set(identities)
        new, dropped = wanted - self.wanted, self.wanted - wanted
        self.wanted = wanted
        for identity in dropped:
            self.updates.put_nowait(SvidForgotten(identity))
        if self.issues_at_once:
            for identity in new:
                self.updates.put_nowait(SvidUpdated(Material(identity)))  # type: ignore[arg-type]


class Rig:
    def __init__(self, tmp_path: Path) -> None:
        self.machine = Machine()
        self.readiness = Readiness(["sources", "tables", "certificates"])
        self.applier = Applier(
            dataplane=self.machine,  # type: ignore[arg-type]
            core=self.machine,  # type: ignore[arg-type]
            pki=self.machine,  # type: ignore[arg-type]
            readiness=self.readiness,
            sink=TunnelSink(remove_drain_ms=0),
        )
        self.ids = IdsFile(tmp_path / "ids.json")
        self.seen: list[Tables] = []
        self.brain = Brain(
            ids=self.ids,
            node_config=lambda: NodeConfig("node1"),
            sources=["file"],
            observers=[self.seen.append],
            inbox=self.applier.inbox,
            readiness=self.readiness,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(work)
                for work in (
                    self.brain.run(),
                    self.applier.run(),
                    self.applier.watch_certificates(),
                    self.applier.watch_pods(),
                    self.applier.watch_policy(),
                )
            ]
            yield
            for task in tasks:
                task.cancel()

    def tell(self, *events: Any) -> None:
        for event in events:
            self.brain.queue.put_nowait(event)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - fakes have nothing to wait for
                await asyncio.sleep(0.005)


def workload(name: str = "curl") -> Workload:
    return Workload(
        uid=WorkloadUid(f"Kubernetes//Pod/shop/{name}"),
        name=name,
        namespace="shop",
        identity=CURL,
        node="node1",
        addresses=(ip_address("10.0.0.1"),),
        labels=Labels({}),
        netns="/var/run/netns/x",
    )


BEGIN = (
    NamespaceAdded(Namespace("shop", Labels({"istio.io/dataplane-mode": "ambient"}))),
    NodeAdded(Node("node1")),
    WorkloadAdded(workload()),
)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_from_facts_to_capture_in_order(rig: Rig) -> None:
    rig.tell(*BEGIN, InSync("file"))
    async with rig.running():
        await asyncio.wait_for(rig.readiness.wait(), 5)
    kernel = rig.machine.done.index("kernel 1 in_sync=True")
    assert rig.machine.done.index("put_peers") < kernel
    assert rig.machine.done.index("put_svid") < kernel
    assert rig.machine.done.index("put_workload") > kernel
    # The events were taken together and compiled once, and the numbers are on disk.
    assert rig.brain.timing.count == len(rig.seen) == 1
    again = IdsFile(rig.ids._path)
    again.load()
    assert again.table.workload_id(workload().uid) == 1
    assert not again.save()


async def test_numbers_of_what_went_before_the_start_are_freed_once_in_sync(rig: Rig) -> None:
    table = rig.ids.table
    gone, stays = WorkloadUid("Kubernetes//Pod/shop/gone"), workload().uid
    assert (table.workload_id(gone), table.workload_id(stays)) == (1, 2)
    web = Service(
        name="web",
        namespace="shop",
        hostname="web.shop.svc.cluster.local",
        vips=(ip_address("10.96.0.10"),),
        ports=(ServicePort(port=80, target_port=8080),),
        selector=Labels({"app": "web"}),
    )
    rig.tell(*BEGIN, ServiceAdded(web))
    async with rig.running():
        await rig.until(lambda: len(rig.seen) == 1)
        assert table.workload_uid(WorkloadId(1)) == gone
        before = dict(rig.seen[0].frontends)
        assert before
        rig.tell(InSync("file"))
        await rig.until(lambda: len(rig.seen) == 2)
        assert table.workload_uid(WorkloadId(1)) is None
        assert list(rig.seen[1].peers) == [WorkloadId(2)]
        assert rig.seen[1].frontends == before
        # Whoever goes later keeps the number, and nobody gets a number that was freed.
        rig.tell(WorkloadRemoved(stays), WorkloadAdded(workload("new")))
        await rig.until(lambda: len(rig.seen) == 3)
        assert list(rig.seen[2].peers) == [WorkloadId(3)]
        assert table.workload_uid(WorkloadId(2)) == stays


async def test_nothing_is_removed_before_in_sync(rig: Rig) -> None:
    rig.tell(*BEGIN)
    async with rig.running():
        await rig.until(lambda: "put_workload" in rig.machine.done)
        rig.tell(WorkloadRemoved(workload().uid))
        await rig.until(lambda: "kernel 0 in_sync=False" in rig.machine.done)
        assert not [call for call in rig.machine.done if call.startswith("remove_")]
        assert rig.machine.wanted == {CURL}
        assert rig.readiness.pending == ["sources", "certificates"]
        rig.tell(InSync("file"))
        await rig.until(lambda: {"remove_peers", "remove_svid"} <= set(rig.machine.done))
    kernel = rig.machine.done.index("kernel 0 in_sync=True")
    removed = [call for call in rig.machine.done if call.startswith("remove_")]
    assert sorted(removed) == ["remove_peers", "remove_svid", "remove_workload"]
    assert rig.machine.done.index("remove_peers") > rig.machine.done.index("remove_workload")
    assert rig.machine.done.index("remove_peers") > kernel
    assert rig.machine.wanted == set()


async def test_a_pod_is_captured_when_its_certificate_is_there_or_waiting_took_too_long(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "_SVID_WAIT_SECONDS", 0.2)
    rig.machine.issues_at_once = False
    rig.tell(*BEGIN, InSync("file"))
    async with rig.running():
        await rig.until(lambda: "put_peers" in rig.machine.done)
        await asyncio.sleep(0.05)
        assert not rig.machine.enrolled
        await rig.until(lambda: bool(rig.machine.enrolled))
        assert "put_svid" not in rig.machine.done
        assert rig.readiness.pending == ["certificates"]
        rig.machine.updates.put_nowait(SvidUpdated(Material()))  # type: ignore[arg-type]
        await asyncio.wait_for(rig.readiness.wait(), 5)
        assert "put_svid" in rig.machine.done


async def test_an_expired_certificate_is_taken_away(rig: Rig) -> None:
    rig.tell(*BEGIN, InSync("file"))
    async with rig.running():
        await asyncio.wait_for(rig.readiness.wait(), 5)
        rig.machine.updates.put_nowait(SvidExpired(CURL))
        await rig.until(lambda: "remove_svid" in rig.machine.done)


async def test_what_the_kernel_did_not_take_is_tried_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "_RETRY_FIRST_SECONDS", 0.01)
    rig.machine.failures = 3
    rig.tell(*BEGIN, InSync("file"))
    async with rig.running():
        await asyncio.wait_for(rig.readiness.wait(), 5)
    timing = rig.applier.timing["dataplane"]
    assert (timing.failures, timing.count, timing.last_error) == (3, 1, "")


async def test_new_tables_do_not_wait_for_the_pause_after_a_failure(rig: Rig) -> None:
    rig.machine.failures = 1
    rig.tell(*BEGIN, InSync("file"))
    async with rig.running():
        await rig.until(lambda: rig.applier.timing["dataplane"].failures == 1)
        rig.applier.inbox.offer(Compiled(rig.seen[0], may_remove=True))
        async with asyncio.timeout(0.5):
            await rig.readiness.wait()


async def test_a_changed_setting_compiles_again(rig: Rig) -> None:
    rig.tell(*BEGIN, InSync("file"))
    async with rig.running():
        await asyncio.wait_for(rig.readiness.wait(), 5)
        rig.brain.compile_again()
        await rig.until(lambda: rig.brain.timing.count == 2)
