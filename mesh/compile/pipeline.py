# SPDX-License-Identifier: Apache-2.0
"""From MeshState to Tables: groups of rows, kept while their inputs stay the same, then merged.

A change costs what it touches: of the thousands of others nothing is looked at.

::

    stores ──── Watcher ─────────▶ the workloads and services that were touched

    workloads ─ WorkloadInputs ─▶ WorkloadGroup ┬▶ workloads   peers   enrollments   svids
    services ── ServiceInputs ──▶ ServiceGroup ─┴▶ frontends   endpoints   services
    policies ── PolicyCompiler ─▶ PolicyRows ─────▶ subjects   sets   masks   rules

Whether anything was kept can be seen in the time it takes and by ``is``, never in the rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Final

from mesh.compile.groups import Change, Groups, merge_changes
from mesh.compile.ids import IdTable
from mesh.compile.node import NodeConfig
from mesh.compile.policy import PolicyCompiler
from mesh.compile.services import CandidateFinder, ServiceGroup, ServiceInputs, compile_service
from mesh.compile.touched import Watcher
from mesh.compile.workloads import NOTHING_LOST, WorkloadGroup, WorkloadInputs, compile_workload
from mesh.model.address import IpAddress
from mesh.model.identity import Identity
from mesh.model.service import ServiceName
from mesh.model.workload import WorkloadUid
from mesh.rows import Rows
from mesh.state import MeshState
from mesh.tables import (
    EndpointKey,
    EndpointRow,
    EnrollmentRow,
    FrontendKey,
    FrontendRow,
    PeerRow,
    ServiceId,
    ServiceRow,
    SvidRow,
    Tables,
    WorkloadId,
    WorkloadRow,
)

__all__ = ["Compiler", "compile_mesh"]

_NO_KEYS: Final[frozenset[FrontendKey]] = frozenset()
_TABLES: Final = tuple(one.name for one in fields(Tables) if one.name != "policy_problem")


def compile_mesh(
    state: MeshState, *, node: NodeConfig, ids: IdTable, judged: bool = True
) -> Tables:
    """Make the rows of one node from scratch. ``judged`` as in Compiler.compile().

    Equal state, node and ids give equal Tables. A name that has no number yet gets one in ``ids``,
    in the order of the names.
    """
    return Compiler(ids).compile(state, node=node, judged=judged)


class Compiler:
    """compile_mesh() with a memory for what it need not do again; the rows are the same.

    A table that did not change is the same object as the last time, and so are the Tables if none
    did. The others know what changed in them (:func:`mesh.rows.changed_keys`).
    """

    def __init__(self, ids: IdTable) -> None:
        self._ids = ids
        self._tables = Tables()
        self._forget(None)

    def compile(self, state: MeshState, *, node: NodeConfig, judged: bool = True) -> Tables:
        """Make the rows of one node.

        ``judged`` says that every source of policies has delivered its first listing: before, no
        workload's policies are known, and the kernel lets nothing pass.
        """
        if node != self._node:
            self._forget(node)
        touched = self._watcher.look(state)
        workload_changes = self._workloads.renew(
            self._workload_inputs(state, touched.workloads), partial(compile_workload, node=node)
        )
        service_changes = self._services.renew(
            self._service_inputs(state, touched.services), partial(compile_service, ids=self._ids)
        )
        self._merge(workload_changes, service_changes)
        policy = self._policies.compile(state, node=node, judged=judged)
        claims = self._watcher.claims.warnings
        own = (group.warnings for _, group in sorted(self._warning.items(), key=itemgetter(0)))
        warnings = tuple(chain(claims, *own, policy.warnings))
        before = self._tables
        tables = Tables(
            frontends=self._frontends,
            endpoints=self._endpoints,
            workloads=self._addresses,
            enrollments=self._enrollments,
            peers=self._peers,
            services=self._service_rows,
            svids=self._svids,
            warnings=before.warnings if before.warnings == warnings else warnings,
            policy_problem=policy.problem,
        )
        tables = policy.put_into(tables)
        if not _is_same(before, tables):
            self._tables = tables
        return self._tables

    def _forget(self, node: NodeConfig | None) -> None:
        self._node = node
        self._watcher = Watcher()
        self._candidates = CandidateFinder()
        self._workloads: Groups[WorkloadUid, WorkloadInputs, WorkloadGroup] = Groups()
        self._services: Groups[ServiceName, ServiceInputs, ServiceGroup] = Groups()
        self._policies = PolicyCompiler(self._ids)
        self._frontends: Rows[FrontendKey, FrontendRow] = Rows()
        self._endpoints: Rows[EndpointKey, EndpointRow] = Rows()
        self._service_rows: Rows[ServiceId, ServiceRow] = Rows()
        self._addresses: Rows[IpAddress, WorkloadRow] = Rows()
        self._peers: Rows[WorkloadId, PeerRow] = Rows()
        self._enrollments: Rows[WorkloadUid, EnrollmentRow] = Rows()
        self._svids: Mapping[Identity, SvidRow] = {}
        self._certified: dict[WorkloadUid, WorkloadGroup] = {}
        self._warning: dict[WorkloadUid, WorkloadGroup] = {}
        self._tables = Tables()

    def _workload_inputs(
        self, state: MeshState, uids: Iterable[WorkloadUid]
    ) -> Iterator[tuple[WorkloadUid, WorkloadInputs | None]]:
        lost = self._watcher.claims.lost_addresses
        for uid in sorted(uids):
            workload = state.workloads.get(uid)
            if workload is None:
                yield uid, None
                continue
            namespace = state.namespaces.get(workload.namespace)
            number = self._ids.workload_id(uid)
            yield uid, WorkloadInputs(workload, namespace, lost.get(uid, NOTHING_LOST), number)

    def _service_inputs(
        self, state: MeshState, names: Iterable[ServiceName]
    ) -> Iterator[tuple[ServiceName, ServiceInputs | None]]:
        claims = self._watcher.claims
        for name in sorted(names):
            service = state.services.get(name)
            if service is None:
                self._candidates.forget(name)
                yield name, None
                continue
            candidates = self._candidates.find(state, service, claims)
            lost = claims.lost_keys.get(name, _NO_KEYS)
            yield name, ServiceInputs(service, candidates, lost, self._ids.service_id(name))

    def _merge(
        self,
        workload_changes: list[Change[WorkloadGroup]],
        service_changes: list[Change[ServiceGroup]],
    ) -> None:
        if service_changes:
            self._frontends = merge_changes(self._frontends, lambda g: g.frontends, service_changes)
            self._endpoints = merge_changes(self._endpoints, lambda g: g.endpoints, service_changes)
            self._service_rows = merge_changes(
                self._service_rows, lambda g: g.services, service_changes
            )
        if workload_changes:
            self._addresses = merge_changes(
                self._addresses, lambda g: g.workloads, workload_changes
            )
            self._peers = merge_changes(
                self._peers, lambda g: {g.peer.key: g.peer}, workload_changes
            )
            self._enrollments = merge_changes(
                self._enrollments, lambda g: g.enrollments, workload_changes
            )
            self._merge_shared(workload_changes)

    def _merge_shared(self, changes: list[Change[WorkloadGroup]]) -> None:
        """What workloads of this node have in common, and what is said of them."""
        for old, _ in changes:
            if old is not None:
                self._certified.pop(old.peer.uid, None)
                self._warning.pop(old.peer.uid, None)
        for _, new in changes:
            if new is not None and new.svids:
                self._certified[new.peer.uid] = new
            if new is not None and new.warnings:
                self._warning[new.peer.uid] = new
        if not any(group is not None and group.svids for change in changes for group in change):
            return
        svids = {key: row for group in self._certified.values() for key, row in group.svids.items()}
        if svids != self._svids:
            self._svids = svids


def _is_same(before: Tables, after: Tables) -> bool:
    return before.policy_problem == after.policy_problem and all(
        getattr(before, name) is getattr(after, name) for name in _TABLES
    )
