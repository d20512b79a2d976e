# SPDX-License-Identifier: Apache-2.0
"""One real node for the kernel tests: a Dataplane, its Tables, and the agent's side of capture."""

import asyncio
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from agent.abi import structs
from agent.abi.codec import decode_address, decode_port, encode_address, encode_port
from agent.abi.structs import EventKind, FlowRecord
from agent.dataplane import bpf
from agent.dataplane.pods import EnrolledPod
from agent.dataplane.reaper import Reaped, reap
from agent.dataplane.sink import Dataplane
from agent.dataplane.telemetry import KernelEvent
from mesh.compile import IdTable, NodeConfig
from mesh.compile.policy import PolicyCompiler
from mesh.model.events import NamespaceAdded, PolicyAdded, WorkloadAdded
from mesh.model.identity import Identity
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.model.policies import Policy
from mesh.model.service import Protocol
from mesh.model.workload import DATAPLANE_MODE_LABEL, Workload, WorkloadUid
from mesh.state import MeshState
from mesh.tables import (
    NO_SET,
    EndpointKey,
    EndpointRow,
    EnrollmentRow,
    FrontendKey,
    FrontendRow,
    PeerClass,
    Route,
    ServiceId,
    SetId,
    SubjectRow,
    Tables,
    WorkloadId,
    WorkloadRow,
)
from tests.kernel.pods import SLOWNESS, Lan, Pod

REMOTE_V4, REMOTE_V6 = "10.240.0.5", "fd24::5"
REMOTE_ID = 500


class Accepted:
    """A captured connection as the core finds it after accept()."""

    def __init__(self, connection: socket.socket, record: FlowRecord | None) -> None:
        self.connection = connection
        self.record = record

    @property
    def original(self) -> tuple[str, int]:
        assert self.record is not None
        return str(decode_address(self.record.original)), decode_port(self.record.original_port)

    @property
    def upstream(self) -> tuple[str, int]:
        assert self.record is not None
        return str(decode_address(self.record.upstream)), decode_port(self.record.upstream_port)


class _Compiler(PolicyCompiler):
    """With the numbers that the test has given to its pods."""

    def __init__(self) -> None:
        self.numbers: dict[WorkloadUid, WorkloadId] = {}
        outer = self

        class Ids(IdTable):
            def workload_id(self, uid: WorkloadUid) -> WorkloadId:
                return outer.numbers[uid]

        super().__init__(Ids())


class Node:
    def __init__(self, lan: Lan, name: str) -> None:
        self.lan = lan
        self.name = name
        self.runner = asyncio.Runner()
        self.dataplane = self._make()
        self.runner.run(self.dataplane.start())
        self.tables = Tables()
        self._next_id = 100
        self.compiler = _Compiler()

    def _make(self) -> Dataplane:
        """The bridge's netns is the node's."""
        path = Path("/var/run/netns") / self.lan.host
        return Dataplane(self.name, cgroup=self.lan.cgroup_name, node_netns=path)

    def apply(self, tables: Tables | None = None, *, in_sync: bool = True) -> list[EnrolledPod]:
        if tables is not None:
            self.tables = tables
        return self.runner.run(self.dataplane.apply(self.tables, in_sync=in_sync))

    def reset(self) -> None:
        """Nothing enrolled, nothing known, no event waiting."""
        self.apply(Tables())
        while self.dataplane.events():
            pass

    def stop(self) -> None:
        """What the kernel does to a killed agent's process: every fd is closed, nothing else."""
        self.dataplane.close()

    def start_again(self) -> None:
        """The next agent of the same node."""
        self.dataplane = self._make()
        self.runner.run(self.dataplane.start())

    # Tables

    def add_workload(
        self, address: str, workload_id: int, route: Route, *, enrolled: bool, local: bool
    ) -> None:
        key = ip_address(address)
        row = WorkloadRow(key, WorkloadId(workload_id), route, enrolled, local)
        self.tables = replace(self.tables, workloads={**self.tables.workloads, key: row})

    def add_remote(self) -> None:
        """A workload of another node, with an address of each family."""
        for address in (REMOTE_V4, REMOTE_V6):
            self.add_workload(address, REMOTE_ID, Route.TUNNEL, enrolled=True, local=False)

    def enrol(self, *pods: Pod, remote: bool = True) -> list[EnrolledPod]:
        """Enrols the pods as local workloads and applies; all must be captured."""
        if remote:
            self.add_remote()
        for pod in pods:
            self.add_pod(pod)
        self.apply()
        found = [self.enrolled(pod) for pod in pods]
        assert all(one.is_captured for one in found), [one.detail for one in found]
        return found

    def add_pod(self, pod: Pod) -> int:
        self._next_id += 1
        number = WorkloadId(self._next_id)
        uid = self.uid(pod)
        identity = Identity("cluster.local", "shop", pod.name)
        path = f"/var/run/netns/{pod.netns}"
        row = EnrollmentRow(uid, number, identity, path, pod.addresses)
        self.tables = replace(self.tables, enrollments={**self.tables.enrollments, uid: row})
        for address in pod.addresses:
            self.add_workload(str(address), number, Route.DIRECT, enrolled=True, local=True)
        self.judge(number)
        return number

    def judge(
        self,
        number: WorkloadId,
        ingress: SetId = NO_SET,
        egress: SetId = NO_SET,
        peer_class: int = 0,
    ) -> None:
        """By these sets; by default everything may pass."""
        row = SubjectRow(number, PeerClass(peer_class), True, ingress, egress)
        self.tables = replace(self.tables, subjects={**self.tables.subjects, number: row})

    def drop_pod(self, pod: Pod) -> None:
        enrollments = {k: v for k, v in self.tables.enrollments.items() if k != self.uid(pod)}
        workloads = {k: v for k, v in self.tables.workloads.items() if k not in pod.addresses}
        self.tables = replace(self.tables, enrollments=enrollments, workloads=workloads)

    def forget_subject(self, number: WorkloadId) -> None:
        """As if its policies had not arrived yet."""
        rows = {key: row for key, row in self.tables.subjects.items() if key != number}
        self.tables = replace(self.tables, subjects=rows)
        self.apply()

    def add_service(
        self,
        vip: str,
        port: int,
        endpoints: Iterable[tuple[str, int]],
        *,
        protocol: Protocol = Protocol.TCP,
        service_id: int = 7,
        frontend_id: int | None = None,
    ) -> None:
        number = frontend_id if frontend_id is not None else 1000 + len(self.tables.frontends)
        listed = list(endpoints)
        key = FrontendKey(ip_address(vip), port, protocol)
        whole = FrontendKey(ip_address(vip), 0, Protocol.ANY)
        service = ServiceId(service_id)
        frontends = dict(self.tables.frontends)
        frontends[key] = FrontendRow(key, number, service, len(listed))
        frontends[whole] = FrontendRow(whole, 0, service, 0)
        rows = {k: v for k, v in self.tables.endpoints.items() if k.frontend_id != number}
        for index, (address, target) in enumerate(listed):
            where = EndpointKey(number, index)
            rows[where] = EndpointRow(where, ip_address(address), target, WorkloadId(0))
        self.tables = replace(self.tables, frontends=frontends, endpoints=rows)

    def care(self, *, deep: bool = False) -> list[EnrolledPod]:
        """One round of what run() does every few seconds."""
        changed: list[EnrolledPod] = []
        self.dataplane._care(changed, deep=deep)
        return changed

    def set_policies(
        self, *policies: Policy, labels: Mapping[str, dict[str, str]] | None = None
    ) -> None:
        """Compiles and applies them; ``labels`` by the name of the pod, also its account."""
        state = MeshState()
        state.apply(NamespaceAdded(Namespace("shop", Labels({DATAPLANE_MODE_LABEL: "ambient"}))))
        for uid, row in self.tables.enrollments.items():
            name = uid.rsplit("/", 1)[1]
            own = Labels((labels or {}).get(name, {"app": name}))
            state.apply(
                WorkloadAdded(
                    Workload(
                        uid=uid,
                        name=name,
                        namespace="shop",
                        identity=row.identity,
                        node=self.name,
                        addresses=row.addresses,
                        labels=own,
                    )
                )
            )
        state.apply_all(PolicyAdded(policy) for policy in policies)
        self.compiler.numbers = {u: row.workload_id for u, row in self.tables.enrollments.items()}
        compiled = self.compiler.compile(state, node=NodeConfig(self.name), judged=True)
        self.tables = compiled.put_into(self.tables)
        self.apply()

    # What is there now

    def uid(self, pod: Pod) -> WorkloadUid:
        return WorkloadUid(f"Kubernetes//Pod/shop/{pod.name}")

    def enrolled(self, pod: Pod) -> EnrolledPod:
        return self.dataplane.pods()[self.uid(pod)]

    def map(self, name: str) -> int:
        assert self.dataplane._loaded is not None
        return self.dataplane._loaded.maps[name]

    def map_size(self, name: str) -> int:
        fd = self.map(name)
        return sum(1 for _ in bpf.batch_items(fd, bpf.map_info(fd)))

    def take_record(
        self, pod: Pod, peer: tuple[str, int], port: int, family: int
    ) -> FlowRecord | None:
        """Reads and deletes the record of an accepted connection, as the core does."""
        key = structs.FlowKey(
            self.enrolled(pod).netns_cookie,
            encode_address(ip_address(peer[0])),
            encode_port(peer[1]),
            encode_port(port),
            family,
        )
        fd = self.map("flow_records")
        raw = bpf.map_lookup(fd, bytes(key), 80)
        if raw is None:
            return None
        bpf.map_delete(fd, bytes(key))
        return FlowRecord.from_buffer_copy(raw)

    def accept(self, pod: Pod, timeout: float = 1.0) -> Accepted | None:
        """The next captured connection of the pod; None where none comes."""
        until = time.monotonic() + timeout * SLOWNESS
        while time.monotonic() < until:
            for fd in self.enrolled(pod).capture_listeners:
                with socket.socket(fileno=os.dup(fd)) as listener:
                    try:
                        connection, peer = listener.accept()
                    except BlockingIOError:
                        continue
                    port = listener.getsockname()[1]
                    family = 4 if isinstance(ip_address(peer[0]), IPv4Address) else 6
                    record = self.take_record(pod, peer[:2], port, family)
                    return Accepted(connection, record)
            time.sleep(0.002)
        return None

    def captured(self, pod: Pod) -> Accepted:
        """The next captured connection, which must have its record."""
        accepted = self.accept(pod)
        assert accepted is not None, "nothing was captured"
        assert accepted.record is not None, "captured without a record"
        return accepted

    def events(self, kind: EventKind, timeout: float = 1.0) -> list[KernelEvent]:
        """The waiting events of a kind, waiting for the first."""
        until = time.monotonic() + timeout * SLOWNESS
        while time.monotonic() < until:
            found = [event for event in self.dataplane.events() if event.kind is kind]
            if found:
                return found
            time.sleep(0.005)
        return []

    def reap(self, after: float = 0) -> Reaped:
        """Ages what the kernel half has left, as if that many seconds had passed."""
        assert self.dataplane._loaded is not None
        return reap(self.dataplane._loaded.maps, now_ns=time.monotonic_ns() + int(after * 1e9))

    def statistic(self, which: structs.Statistic) -> int:
        return self.runner.run(self.dataplane.statistics())[which]

    def close(self) -> None:
        self.dataplane.close()
        self.runner.close()
