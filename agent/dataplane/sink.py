# SPDX-License-Identifier: Apache-2.0
"""The dataplane as the agent sees it: Tables in, enrolled pods, events and totals out.

::

    Tables ──▶ apply() ──▶ policy ─ workloads ─ endpoints ─ frontends ─ enrollments   upserts, then
                                                                             removals in reverse
    kernel ──▶ events() / counters() / statistics()

Nothing is removed before the caller says that every source was in sync. Whatever blocks runs in a
thread, one call at a time; ``close`` leaves pins, rules and filters in place, so that traffic goes
on without an agent and the next one adopts it.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.abi import structs
from agent.abi.structs import Statistic
from agent.dataplane import bpf, kernel, netns, rows
from agent.dataplane.enroll import Enroller
from agent.dataplane.layout import BPFFS, LAYOUT_VERSION, Pins
from agent.dataplane.loader import Loaded, load, remove_other_versions
from agent.dataplane.pods import EnrolledPod
from agent.dataplane.policy import PolicyMaps
from agent.dataplane.reaper import reap
from agent.dataplane.recheck import Recheck
from agent.dataplane.ring import RingReader
from agent.dataplane.series import TrafficSeries
from agent.dataplane.sync import TableMap
from agent.dataplane.telemetry import (
    KernelEvent,
    TrafficTotal,
    decode_event,
    read_statistics,
    read_traffic,
)
from agent.errors import DataplaneError
from mesh.model.workload import WorkloadUid
from mesh.rows import changed_keys
from mesh.tables import EnrollmentRow, SubjectRow, Tables, WorkloadId

__all__ = ["Dataplane", "DataplaneStatus"]

log = logging.getLogger(__name__)

OWN_NETNS = Path("/proc/self/ns/net")

CARE_SECONDS = 5.0
"""How often failed enrolments are tried again and old records aged."""

_HASH_TYPES = frozenset({1, 5})
"""BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_HASH: the others cannot fill up."""

CARE_SOONEST_SECONDS = 0.2
"""A pod that changes its network all the time is visited so often at most."""

DEEP_CARE_SECONDS = 60.0
"""How often each pod is visited, to put back what was taken away without a word."""


@dataclass(frozen=True, slots=True)
class DataplaneStatus:
    """For ``nodemesh status``."""

    layout: str
    cgroup: str
    pins: str
    compiled: bool
    """False: the programs of an earlier run were adopted."""

    generation: int
    entries: dict[str, int]
    """Map -> rows of ours in it."""

    pods: dict[str, str]
    """Workload uid -> enrolment state."""

    ends_idle: bool
    """An open connection that a change forbids ends at once, and not at its next packet: the kernel
    has CONFIG_INET_DIAG_DESTROY."""


class Dataplane:
    """One node's kernel half. Start it, apply Tables to it, keep ``run()`` running."""

    def __init__(
        self,
        node: str,
        *,
        cgroup: str | None = None,
        bpffs: Path = BPFFS,
        node_netns: Path = OWN_NETNS,
    ) -> None:
        """``node_netns`` is the node's network namespace, by default our own."""
        self._pins = Pins(node, bpffs)
        self._cgroup = cgroup
        self._lock = asyncio.Lock()
        self._loaded: Loaded | None = None
        self._enroller: Enroller | None = None
        self._tables: dict[str, TableMap] = {}
        self._policy: PolicyMaps | None = None
        self._recheck: Recheck | None = None
        self._subjects: Mapping[WorkloadId, SubjectRow] | None = None
        self._node_netns = node_netns
        self._node_netns_fd = -1
        self._node_cookie = 0
        self._own_cgroup = 0
        self._is_alone = False
        self._ring: RingReader | None = None
        self._series: TrafficSeries | None = None
        self._held: Tables | None = None
        """The tables that the kernel holds exactly; None where that is not known."""

    async def start(self) -> None:
        """Compiles or adopts the programs and attaches them; MeshError says what is in the way."""
        await self._in_thread(self._start)

    def _start(self) -> None:
        loaded = load(self._pins, self._cgroup)
        self._loaded = loaded
        self._node_netns_fd = netns.open_netns(str(self._node_netns))
        self._enroller = Enroller(loaded, self._node_netns_fd)
        self._tables = {
            name: TableMap(loaded.maps[name]) for name in ("workloads", "endpoints", "frontends")
        }
        events = loaded.maps["events"]
        self._ring = RingReader(events, bpf.map_info(events).max_entries)
        size = ctypes.sizeof(structs.Config)
        raw = bpf.map_lookup(loaded.maps["config"], bytes(4), size)
        generation = structs.Config.from_buffer_copy(raw).generation if raw else 0
        self._node_cookie = netns.netns_cookie(self._node_netns_fd)
        self._own_cgroup = kernel.agent_cgroup_id(loaded.cgroup)
        self._policy = PolicyMaps(loaded.maps, generation)
        self._recheck = Recheck(loaded.programs, loaded.maps["judged_sockets"])
        self._series = TrafficSeries(loaded.maps["traffic"])
        self._write_config(generation)

    def _write_config(self, generation: int) -> None:
        value = bytes(structs.Config(self._own_cgroup, self._node_cookie, generation, 0))
        bpf.map_update(self._running.maps["config"], bytes(4), value)

    @property
    def _running(self) -> Loaded:
        if self._loaded is None:
            raise DataplaneError("The dataplane has not been started.")
        return self._loaded

    @property
    def _enrolling(self) -> Enroller:
        if self._enroller is None:
            raise DataplaneError("The dataplane has not been started.")
        return self._enroller

    @property
    def _judging(self) -> PolicyMaps:
        if self._policy is None:
            raise DataplaneError("The dataplane has not been started.")
        return self._policy

    @property
    def _traffic(self) -> TrafficSeries:
        if self._series is None:
            raise DataplaneError("The dataplane has not been started.")
        return self._series

    async def _in_thread(self, function: Callable[[], object]) -> None:
        """One at a time, and to its end: a thread must not outlive the descriptors that it uses."""
        async with self._lock:
            work = asyncio.get_running_loop().run_in_executor(None, function)
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])
                raise

    async def apply(self, tables: Tables, *, in_sync: bool) -> list[EnrolledPod]:
        """Makes the kernel hold ``tables``; returns every pod whose enrolment changed.

        Without ``in_sync`` nothing is removed. A pod that cannot be enrolled is a pod with a state,
        not an error; MapError (a map is full) leaves what was applied so far.
        """
        changed: list[EnrolledPod] = []
        await self._in_thread(partial(self._apply, tables, changed, in_sync=in_sync))
        return changed

    def _apply(
        self,
        tables: Tables,
        changed: list[EnrolledPod],
        *,
        in_sync: bool,
    ) -> None:
        # A pod must find its policy when it is captured, and an address the class behind it; and
        # one that gets another number has the old one until it is told.
        self._judging.apply(tables, self._write_config, in_sync=False)
        self._subjects = tables.subjects
        held, self._held = self._held, None  # until all of it is there
        changes = rows.map_changes(held, tables)
        for name, change in changes.items():
            self._tables[name].add(change.content)
        gone = self._unwanted(tables) if in_sync else frozenset()
        for row in self._to_enrol(held, tables):
            before = self._enrolling.pods.get(row.key)
            pod = self._enrolling.ensure(row, gone)
            if pod != before:
                changed.append(pod)
        if in_sync:
            self._remove_pods(gone, changed, are_others=held is None)
            for name, change in reversed(changes.items()):
                table, keys = self._tables[name], change.gone
                if keys is None:
                    table.keep(change.content)
                else:
                    table.remove(keys)
            self._judging.apply(tables, self._write_config, in_sync=True)
            self._traffic.follow(held, tables)
            self._held = tables
            if not self._is_alone:
                remove_other_versions(self._running)  # every pod has the filters of this one now
                self._is_alone = True

    def _to_enrol(self, held: Tables | None, tables: Tables) -> Iterable[EnrollmentRow]:
        """The rows that are new or differ, and those of pods that are not captured as they should.

        What happens to a pod whose row stays is noticed in run().
        """
        rows = tables.enrollments
        keys = None if held is None else changed_keys(held.enrollments, rows)
        if keys is None:
            return rows.values()
        pods = self._enrolling.pods
        failed = [uid for uid, pod in pods.items() if pod.detail or not pod.is_captured]
        return [rows[uid] for uid in {*keys, *failed} if uid in rows]

    def _unwanted(self, tables: Tables) -> frozenset[WorkloadUid]:
        return frozenset(uid for uid in self._enrolling.pods if uid not in tables.enrollments)

    def _remove_pods(
        self, gone: AbstractSet[WorkloadUid], changed: list[EnrolledPod], *, are_others: bool
    ) -> None:
        """``are_others``: there may be pods that an agent of before has enrolled."""
        for uid in gone:
            pod = self._enrolling.remove(uid)
            if pod is not None:
                changed.append(pod)
        if are_others or changed:
            self._enrolling.remove_strangers()

    async def end_forbidden(self) -> None:
        """Ends open connections on the node that the policy applied last forbids, pod by pod."""
        recheck, subjects = self._recheck, self._subjects
        if recheck is None or subjects is None:
            return
        for uid in recheck.affected(self.pods().values(), subjects):
            await self._in_thread(partial(self._end_forbidden, recheck, uid))

    def _end_forbidden(self, recheck: Recheck, uid: WorkloadUid) -> None:
        recheck.look(self._enrolling.pods.get(uid), self._judging.generation)

    async def run(self, on_change: Callable[[Sequence[EnrolledPod]], None]) -> None:
        """Looks after pods and maps until cancelled; ``on_change`` hears of pods that changed."""
        deep_at = time.monotonic() + DEEP_CARE_SECONDS
        while True:
            await self._pause()
            changed: list[EnrolledPod] = []
            deep = time.monotonic() >= deep_at
            if deep:
                deep_at = time.monotonic() + DEEP_CARE_SECONDS
            try:
                await self._in_thread(partial(self._care, changed, deep=deep))
            except DataplaneError as error:
                log.warning("looking after the dataplane: %s", error)
            if changed:
                on_change(changed)

    async def _pause(self) -> None:
        """Until the next round, or until a pod's network changes: then soon."""
        loop, touched = asyncio.get_running_loop(), asyncio.Event()
        watch = self._enrolling.watch.fileno()
        await asyncio.sleep(CARE_SOONEST_SECONDS)
        loop.add_reader(watch, touched.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CARE_SECONDS - CARE_SOONEST_SECONDS):
                    await touched.wait()
        finally:
            loop.remove_reader(watch)

    def _care(self, changed: list[EnrolledPod], *, deep: bool) -> None:
        changed.extend(self._enrolling.reconcile(deep=deep))
        reap(self._running.maps)
        self._traffic.forget()

    def events_fd(self) -> int:
        """Readable while events wait: for loop.add_reader(), whose callback calls events()."""
        return self._running.maps["events"]

    def events(self) -> list[KernelEvent]:
        """The events that wait, at most a few thousand; does not block."""
        return [decode_event(raw) for raw in self.raw_events()]

    def raw_events(self) -> list[bytes]:
        """The same as the kernel wrote them, for who looks at few of them; see decode_event()."""
        return self._ring.read() if self._ring is not None else []

    async def counters(self) -> list[TrafficTotal]:
        """What the kernel's path has carried and refused."""
        return await asyncio.to_thread(read_traffic, self._running.maps["traffic"])

    async def statistics(self) -> dict[Statistic, int]:
        """Losses and nonces, since the maps were made."""
        return await asyncio.to_thread(read_statistics, self._running.maps["statistics"])

    async def map_fill(self) -> dict[str, tuple[int, int]]:
        """Map -> (entries, most entries), of every map that can fill up."""
        return await asyncio.to_thread(self._map_fill)

    def _map_fill(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for name, fd in self._running.maps.items():
            info = bpf.map_info(fd)
            if info.type not in _HASH_TYPES:
                continue
            table = self._tables.get(name)
            entries = (
                sum(1 for _ in bpf.batch_items(fd, info)) if table is None else len(table.have)
            )
            found[name] = (entries, info.max_entries)
        return found

    def flow_records_fd(self) -> int:
        """The map that the core reads after accept(); duplicate it to keep it."""
        return self._running.maps["flow_records"]

    def query_fd(self) -> int:
        """The program that answers for decide(); duplicate it to keep it."""
        return self._running.programs["query"]

    @property
    def generation(self) -> int:
        """Of the policy in force; it grows with every change."""
        return self._judging.generation

    def pods(self) -> dict[WorkloadUid, EnrolledPod]:
        """Every pod that should be captured, by uid."""
        return dict(self._enroller.pods) if self._enroller else {}

    @contextlib.asynccontextmanager
    async def steady_pods(self) -> AsyncIterator[dict[WorkloadUid, EnrolledPod]]:
        """The pods, with fds that nobody closes for as long as the block runs."""
        async with self._lock:
            yield self.pods()

    def status(self) -> DataplaneStatus:
        """What there is to say at a glance; from memory, does not block."""
        return DataplaneStatus(
            layout=LAYOUT_VERSION,
            cgroup=str(self._running.cgroup),
            pins=str(self._pins.root),
            compiled=self._running.compiled,
            generation=self._judging.generation,
            entries={
                **{name: len(table.have) for name, table in self._tables.items()},
                **self._judging.entries,
            },
            pods={uid: pod.state.value for uid, pod in self.pods().items()},
            ends_idle=self._recheck is not None and self._recheck.is_possible,
        )

    def close(self) -> None:
        """Lets go of every fd; pins, links, rules and filters stay."""
        if self._enroller is not None:
            self._enroller.close()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        if self._policy is not None:
            self._policy.close()
            self._policy = None
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None
            os.close(self._node_netns_fd)
