# SPDX-License-Identifier: Apache-2.0
"""The policy rows of a node, with a memory for what it need not do again.

::

    policies ──────▶ what judges the pods of this node ─▶ sets ┐
    workloads that ┬▶ the same, if on this node                ├▶ rows that come and go
    were touched   └▶ classes of peers ─▶ masks, subjects ─────┘
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Final

from mesh.compile.ids import IdTable
from mesh.compile.node import NodeConfig
from mesh.compile.policy.classes import Classes, Looker, Looks, PortNames
from mesh.compile.policy.judge import Judge, Judged
from mesh.compile.policy.merge import SetTables
from mesh.compile.policy.network import NamedPorts
from mesh.compile.policy.select import Judgement
from mesh.compile.policy.sets import PolicyTooLargeError
from mesh.compile.policy.warnings import policy_warnings
from mesh.model.enrollment import is_enrolled
from mesh.model.policies import Policy
from mesh.model.workload import WorkloadUid
from mesh.rows import Rows
from mesh.state import MeshState
from mesh.tables import (
    CidrMaskKey,
    CidrMaskRow,
    ClassMaskKey,
    ClassMaskRow,
    PolicySetRow,
    PortMaskKey,
    PortMaskRow,
    RuleKey,
    RuleRow,
    SetId,
    SubjectRow,
    Tables,
    WorkloadId,
)

__all__ = ["PolicyCompiler", "PolicyRows"]


@dataclass(frozen=True, slots=True)
class PolicyRows:
    """Everything that decide() looks at, and what its answers mean."""

    subjects: Mapping[WorkloadId, SubjectRow] = field(default_factory=dict)
    policy_sets: Mapping[SetId, PolicySetRow] = field(default_factory=dict)
    class_masks: Mapping[ClassMaskKey, ClassMaskRow] = field(default_factory=dict)
    cidr_masks: Mapping[CidrMaskKey, CidrMaskRow] = field(default_factory=dict)
    port_masks: Mapping[PortMaskKey, PortMaskRow] = field(default_factory=dict)
    rules: Mapping[RuleKey, RuleRow] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    problem: str = ""
    """Why the policies that are known are not those in force."""

    def put_into(self, tables: Tables) -> Tables:
        """``tables`` with these rows. What is said of them is left to the caller."""
        return replace(
            tables,
            subjects=self.subjects,
            policy_sets=self.policy_sets,
            class_masks=self.class_masks,
            cidr_masks=self.cidr_masks,
            port_masks=self.port_masks,
            rules=self.rules,
        )


_FIELDS: Final = tuple(one.name for one in fields(PolicyRows))


@dataclass(frozen=True, slots=True)
class _InForce:
    """What the pods of the node are judged by, beside themselves."""

    policies: tuple[Policy, ...]
    looks: Looks
    named: NamedPorts
    node: NodeConfig
    judged: bool

    def is_same(self, other: "_InForce | None") -> bool:
        """Whether a pod that did not change is judged as before."""
        return (
            other is not None
            and self.policies is other.policies
            and self.named == other.named
            and (self.node, self.judged) == (other.node, other.judged)
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """What there is to commit."""

    force: _InForce
    local: Mapping[WorkloadUid, Judged | None]
    """What judges a pod; None where nothing says what."""


_EVERYTHING: Final = None
"""Of what was touched: nobody knows, so all of it."""


class PolicyCompiler:
    """Compiles the policies of a MeshState for one node. The rows depend on the state alone.

    What it holds it changes only once all that can fail has been done.
    """

    def __init__(self, ids: IdTable) -> None:
        self._looker = Looker()
        self._ports = PortNames()
        self._classes = Classes(ids)
        self._sets = SetTables()
        self._judge = Judge(ids)
        self._state: MeshState | None = None
        self._seen = (-1, -1, -1)
        self._setting: tuple[NodeConfig, bool] | None = None
        self._policies: tuple[Policy, ...] = ()
        self._good: tuple[Policy, ...] | None = None
        self._in_force: _InForce | None = None
        self._subjects: dict[WorkloadUid, WorkloadId] = {}
        self._subject_rows: Rows[WorkloadId, SubjectRow] = Rows()
        self._local: dict[WorkloadUid, Judged] = {}
        self._live: dict[SetId, Judgement] = {}
        self._rows = PolicyRows()

    def compile(self, state: MeshState, *, node: NodeConfig, judged: bool) -> PolicyRows:
        """Make the rows. ``judged``: every source of policies has delivered its first listing.

        Where the policies do not fit, those of before hold on, for new pods too, and ``problem``
        says why; without any before, no pod's policies are known, and the kernel lets nothing pass.
        """
        seen = (state.workloads.revision, state.namespaces.revision, state.policies.revision)
        if (state is self._state, seen, (node, judged)) == (True, self._seen, self._setting):
            return self._rows
        touched = self._touched(state)
        if state is not self._state or seen[2] != self._seen[2]:
            self._policies = tuple(sorted(state.policies.values(), key=attrgetter("key")))
        uids = state.workloads.keys() | self._subjects.keys() if touched is None else touched
        self._ports.note(state, uids)
        if self._rows.problem:
            touched = _EVERYTHING  # what does not fit may fit now
        problem = ""
        try:
            plan = self._plan(state, self._force(self._policies, node, judged=judged), touched)
        except PolicyTooLargeError as error:
            problem, good = str(error), self._good
            force = self._force(good or (), node, judged=judged and good is not None)
            plan = self._plan(state, force, touched, lenient=True)
        else:
            self._good = self._policies if judged else None
        self._commit(state, plan, uids, problem)
        self._state, self._seen, self._setting = state, seen, (node, judged)
        return self._rows

    def _touched(self, state: MeshState) -> set[WorkloadUid] | None:
        if state is not self._state:
            return _EVERYTHING
        workloads = state.workloads.changed_since(self._seen[0])
        namespaces = state.namespaces.changed_since(self._seen[1])
        if workloads is None or namespaces is None:
            return _EVERYTHING
        inside = (state.workloads_by_namespace[name] for name in namespaces)
        return set(workloads).union(*inside)

    def _force(self, policies: tuple[Policy, ...], node: NodeConfig, *, judged: bool) -> "_InForce":
        before = self._in_force
        if before is not None and before.policies is policies:
            looks = before.looks
        else:
            looks = self._looker.look(policies)
        return _InForce(policies, looks, self._ports.of(looks.ports), node, judged)

    def _plan(
        self,
        state: MeshState,
        force: "_InForce",
        touched: set[WorkloadUid] | None,
        *,
        lenient: bool = False,
    ) -> "_Plan":
        """What judges the pods of this node that may be judged otherwise than before.

        ``lenient``: a pod that even the policies of before do not fit is judged by none, so that
        nothing may pass to or from it.
        """
        here = set(state.workloads_by_node[force.node.name])
        uids = here | self._local.keys()
        if touched is not None and force.is_same(self._in_force):
            uids &= touched
        found: dict[WorkloadUid, Judged | None] = {}
        for uid in sorted(uids):
            workload = state.workloads.get(uid)
            found[uid] = None
            if not force.judged or workload is None or uid not in here:
                continue
            if is_enrolled(workload, state.namespaces.get(workload.namespace)):
                root = force.node.root_namespace
                try:
                    found[uid] = self._judge.judge(workload, force.policies, root, force.named)
                except PolicyTooLargeError:
                    if not lenient:
                        raise
        return _Plan(force, found)

    def _commit(
        self, state: MeshState, plan: "_Plan", uids: Iterable[WorkloadUid], problem: str
    ) -> None:
        looked = self._classes.note(state, uids, plan.force.looks)
        for uid, judged in plan.local.items():
            if judged is None:
                self._local.pop(uid, None)
            else:
                self._local[uid] = judged
        before = self._rows
        if plan.local:
            self._live = self._collect_sets()
        self._sets.merge(self._live, self._judge.sets, self._classes.features)
        warnings = before.warnings
        if self._in_force is None or plan.force.policies is not self._in_force.policies:
            warnings = policy_warnings(plan.force.policies)
        self._in_force = plan.force
        rows = PolicyRows(
            subjects=self._merge_subjects(looked | plan.local.keys()),
            policy_sets=self._sets.heads,
            class_masks=self._sets.classes,
            cidr_masks=self._sets.cidrs,
            port_masks=self._sets.ports,
            rules=self._sets.rules,
            warnings=before.warnings if before.warnings == warnings else warnings,
            problem=before.problem if before.problem == problem else problem,
        )
        if any(getattr(before, name) is not getattr(rows, name) for name in _FIELDS):
            self._rows = rows

    def _merge_subjects(self, uids: Iterable[WorkloadUid]) -> Rows[WorkloadId, SubjectRow]:
        upserts: dict[WorkloadId, SubjectRow] = {}
        removes: set[WorkloadId] = set()
        for uid in uids:
            member = self._classes.member(uid)
            before = self._subjects.pop(uid, None)
            if before is not None:
                removes.add(before)
            if member is None:
                continue
            number, peer_class = member
            self._subjects[uid] = number
            judged = self._local.get(uid)
            row = SubjectRow(number, peer_class)
            if judged is not None:
                ingress, egress = judged.ingress, judged.egress
                row = SubjectRow(number, peer_class, judged=True, ingress=ingress, egress=egress)
            upserts[number] = row
        self._subject_rows = self._subject_rows.change(upserts, removes - upserts.keys())
        return self._subject_rows

    def _collect_sets(self) -> dict[SetId, Judgement]:
        live: dict[SetId, Judgement] = {}
        for judged in self._local.values():
            live.update(judged.rules)
        self._judge.keep(self._local.values(), live)
        return live
