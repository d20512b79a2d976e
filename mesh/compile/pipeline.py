# SPDX-License-Identifier: Apache-2.0
"""From MeshState to Tables: groups of rows, kept while their inputs stay the same, then merged.

::

    workloads ─ WorkloadInputs ─▶ WorkloadGroup ┬▶ workloads   peers   enrollments   svids
    services ── ServiceInputs ──▶ ServiceGroup ─┴▶ frontends   endpoints   services
    policies ── PolicyCompiler ─▶ PolicyRows ─────▶ subjects   sets   masks   rules

Whether anything was kept can be seen in the time it takes and by ``is``, never in the rows.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Final

from mesh.compile.claims import Claims, resolve_claims
from mesh.compile.groups import Change, Groups, merge_table
from mesh.compile.ids import IdTable
from mesh.compile.node import NodeConfig
from mesh.compile.policy import PolicyCompiler, PolicyRows
from mesh.compile.services import CandidateFinder, ServiceGroup, ServiceInputs, compile_service
from mesh.compile.workloads import NOTHING_LOST, WorkloadGroup, WorkloadInputs, compile_workload
from mesh.model.service import ServiceName
from mesh.model.workload import WorkloadUid
from mesh.state import MeshState
from mesh.tables import FrontendKey, Tables

__all__ = ["Compiler", "compile_mesh"]

_NO_KEYS: Final[frozenset[FrontendKey]] = frozenset()


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
    did.
    """

    def __init__(self, ids: IdTable) -> None:
        self._ids = ids
        self._candidates = CandidateFinder()
        self._tables = Tables()
        self._policy_rows = PolicyRows()
        self._forget(None)

    def compile(self, state: MeshState, *, node: NodeConfig, judged: bool = True) -> Tables:
        """Make the rows of one node.

        ``judged`` says that every source of policies has delivered its first listing: before, no
        workload's policies are known, and the kernel lets nothing pass.
        """
        if node != self._node:
            self._forget(node)
        claims = resolve_claims(state)
        workload_changes = self._workloads.renew(
            self._workload_inputs(state, claims), partial(compile_workload, node=node)
        )
        service_changes = self._services.renew(
            self._service_inputs(state, claims), partial(compile_service, ids=self._ids)
        )
        tables = self._merge(workload_changes, service_changes)
        policy = self._policies.compile(state, node=node, judged=judged)
        groups = (group.warnings for group in self._workloads)
        warnings = tuple(chain(claims.warnings, *groups, policy.warnings))
        if tables is self._tables and policy is self._policy_rows and warnings == tables.warnings:
            return tables
        self._policy_rows = policy
        self._tables = replace(
            tables,
            subjects=policy.subjects,
            policy_sets=policy.policy_sets,
            class_masks=policy.class_masks,
            cidr_masks=policy.cidr_masks,
            port_masks=policy.port_masks,
            rules=policy.rules,
            warnings=warnings,
            policy_problem=policy.problem,
        )
        return self._tables

    def _forget(self, node: NodeConfig | None) -> None:
        self._node = node
        self._workloads: Groups[WorkloadUid, WorkloadInputs, WorkloadGroup] = Groups()
        self._services: Groups[ServiceName, ServiceInputs, ServiceGroup] = Groups()
        self._policies = PolicyCompiler(self._ids)
        self._policy_rows = PolicyRows()
        self._tables = Tables()

    def _workload_inputs(
        self, state: MeshState, claims: Claims
    ) -> Iterator[tuple[WorkloadUid, WorkloadInputs]]:
        lost, namespaces = claims.lost_addresses, state.namespaces.by_key()
        for uid, workload in sorted(state.workloads.by_key().items(), key=itemgetter(0)):
            namespace = namespaces.get(workload.namespace)
            number = self._ids.workload_id(uid)
            yield uid, WorkloadInputs(workload, namespace, lost.get(uid, NOTHING_LOST), number)

    def _service_inputs(
        self, state: MeshState, claims: Claims
    ) -> Iterator[tuple[ServiceName, ServiceInputs]]:
        services = (state.services[name] for name in sorted(state.services.keys()))
        for service, candidates in self._candidates.find_all(state, services, claims):
            name = service.key
            lost = claims.lost_keys.get(name, _NO_KEYS)
            number = self._ids.service_id(name)
            yield name, ServiceInputs(service, candidates, lost, number)

    def _merge(
        self,
        workload_changes: list[Change[WorkloadGroup]],
        service_changes: list[Change[ServiceGroup]],
    ) -> Tables:
        if not workload_changes and not service_changes:
            return self._tables
        before, workloads, services = self._tables, self._workloads, self._services
        return Tables(
            frontends=merge_table(
                before.frontends, lambda g: g.frontends, services, service_changes
            ),
            endpoints=merge_table(
                before.endpoints, lambda g: g.endpoints, services, service_changes
            ),
            services=merge_table(before.services, lambda g: g.services, services, service_changes),
            workloads=merge_table(
                before.workloads, lambda g: g.workloads, workloads, workload_changes
            ),
            enrollments=merge_table(
                before.enrollments, lambda g: g.enrollments, workloads, workload_changes
            ),
            peers=merge_table(
                before.peers, lambda g: {g.peer.key: g.peer}, workloads, workload_changes
            ),
            svids=merge_table(before.svids, lambda g: g.svids, workloads, workload_changes),
        )
