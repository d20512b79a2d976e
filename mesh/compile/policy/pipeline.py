# SPDX-License-Identifier: Apache-2.0
"""The policy rows of a node, with a memory for what it need not do again."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter

from mesh.compile.ids import IdTable
from mesh.compile.node import NodeConfig
from mesh.compile.policy.network import NamedPorts
from mesh.compile.policy.peers import Features, restrict
from mesh.compile.policy.select import Book, Judgement, Selected
from mesh.compile.policy.sets import PolicySet, PolicyTooLargeError, set_name
from mesh.compile.policy.warnings import policy_warnings
from mesh.model.enrollment import is_enrolled
from mesh.model.labels import NO_LABELS, Labels
from mesh.model.network_policy import NetworkPolicy, NetworkRule, PodPeer
from mesh.model.policies import Policy
from mesh.model.workload import Workload, WorkloadUid
from mesh.state import MeshState
from mesh.tables import (
    NO_SET,
    CidrMaskKey,
    CidrMaskRow,
    ClassMaskKey,
    ClassMaskRow,
    PeerClass,
    PolicySetRow,
    PortMaskKey,
    PortMaskRow,
    RuleKey,
    RuleRow,
    SetId,
    SubjectRow,
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


@dataclass(frozen=True, slots=True)
class _Looks:
    """What policies look at in a peer: two workloads alike in this are one class."""

    labels: frozenset[str]
    namespace_labels: frozenset[str]
    ports: frozenset[tuple[str, int]]


class PolicyCompiler:
    """Compiles the policies of a MeshState for one node. The rows depend on the state alone."""

    def __init__(self, ids: IdTable) -> None:
        self._ids = ids
        self._sets: dict[SetId, PolicySet] = {}
        self._judgements: dict[tuple[Selected, object], tuple[Judgement, Judgement]] = {}
        self._features: dict[WorkloadUid, tuple[object, Features, PeerClass]] = {}
        self._good: tuple[Policy, ...] | None = None
        self._rows = PolicyRows()

    def compile(self, state: MeshState, *, node: NodeConfig, judged: bool) -> PolicyRows:
        """Make the rows. ``judged``: every source of policies has delivered its first listing.

        Where the policies do not fit, those of before hold on, for new pods too, and ``problem``
        says why; without any before, no pod's policies are known, and the kernel lets nothing pass.
        """
        policies = tuple(sorted(state.policies.values(), key=attrgetter("key")))
        try:
            rows = self._compile(state, policies, node, judged=judged)
        except PolicyTooLargeError as error:
            good = self._good
            rows = self._compile(state, good or (), node, judged=judged and good is not None)
            rows = replace(rows, problem=str(error))
        else:
            self._good = policies if judged else None
        if rows != self._rows:
            self._rows = rows
        return self._rows

    def _compile(
        self, state: MeshState, policies: tuple[Policy, ...], node: NodeConfig, *, judged: bool
    ) -> PolicyRows:
        looks = _looks(policies)
        classes = self._classify(state, looks)
        subjects: dict[WorkloadId, SubjectRow] = {}
        live: dict[SetId, Judgement] = {}
        book = Book(policies, node.root_namespace)
        named = _named_ports(state, looks.ports)
        judgements: dict[tuple[Selected, object], tuple[Judgement, Judgement]] = {}
        for uid, (_, _, peer_class) in classes.items():
            workload = state.workloads[uid]
            number = self._ids.workload_id(uid)
            ingress = egress = NO_SET
            here = judged and self._is_subject(state, workload, node)
            if here:
                selected = book.select(workload)
                memo = (selected, (workload.ports, tuple(named.items())))
                both = judgements.get(memo) or self._judgements.get(memo)
                if both is None:
                    both = (selected.ingress(workload), selected.egress(named))
                judgements[memo] = both
                ingress, egress = (self._set(one, workload, live) for one in both)
            subjects[number] = SubjectRow(number, peer_class, here, ingress, egress)
        self._judgements = judgements
        self._features = classes
        self._sets = {number: self._sets[number] for number in live}
        return self._merge(subjects, live, classes.values(), policy_warnings(policies))

    @staticmethod
    def _is_subject(state: MeshState, workload: Workload, node: NodeConfig) -> bool:
        if workload.node != node.name:
            return False
        return is_enrolled(workload, state.namespaces.get(workload.namespace))

    def _set(self, judgement: Judgement, workload: Workload, live: dict[SetId, Judgement]) -> SetId:
        if judgement.is_empty:
            return NO_SET
        number = self._ids.policy_set_id(set_name(judgement))
        if number not in self._sets:
            subject = f"{workload.namespace}/{workload.name}"
            self._sets[number] = PolicySet(number, judgement, subject=subject)
        live.setdefault(number, judgement)
        return number

    def _classify(
        self, state: MeshState, looks: _Looks
    ) -> dict[WorkloadUid, tuple[object, Features, PeerClass]]:
        """The class of every workload that has an address of its own, by uid."""
        found: dict[WorkloadUid, tuple[object, Features, PeerClass]] = {}
        namespaces: dict[str, Labels] = {}
        numbers: dict[Features, PeerClass] = {}
        for uid in sorted(state.workloads.keys()):
            workload = state.workloads[uid]
            if workload.host_network:
                continue
            if workload.namespace not in namespaces:
                namespaces[workload.namespace] = _namespace_labels(state, workload, looks)
            namespace_labels = namespaces[workload.namespace]
            inputs = (workload, namespace_labels, looks)
            before = self._features.get(uid)
            if before is not None and _same(before[0], inputs):
                found[uid] = before
                numbers[before[1]] = before[2]
                continue
            features = _features(workload, namespace_labels, looks)
            if features not in numbers:
                numbers[features] = self._ids.peer_class_id(repr(features))
            found[uid] = (inputs, features, numbers[features])
        return found

    def _merge(
        self,
        subjects: Mapping[WorkloadId, SubjectRow],
        live: Mapping[SetId, Judgement],
        classified: Iterable[tuple[object, Features, PeerClass]],
        warnings: tuple[str, ...],
    ) -> PolicyRows:
        classes = {number: features for _, features, number in classified}
        sets = [self._sets[number] for number in sorted(live)]
        before = self._rows
        return PolicyRows(
            subjects=_keep(before.subjects, subjects),
            policy_sets=_keep(before.policy_sets, {one.set_id: one.head for one in sets}),
            class_masks=_keep(
                before.class_masks,
                {row.key: row for one in sets for row in one.class_rows(classes.items())},
            ),
            cidr_masks=_keep(
                before.cidr_masks, {key: row for one in sets for key, row in one.cidrs.items()}
            ),
            port_masks=_keep(
                before.port_masks, {key: row for one in sets for key, row in one.ports.items()}
            ),
            rules=_keep(
                before.rules,
                {row.key: row for one in sets for row in one.rules(live[one.set_id])},
            ),
            warnings=warnings,
        )


def _keep(before: Mapping, after: Mapping) -> Mapping:  # type: ignore[type-arg] # any table
    """The table as it was, where it is equal: sinks compare by ``is``."""
    return before if before == after else after


def _same(before: object, inputs: tuple[object, ...]) -> bool:
    return isinstance(before, tuple) and all(
        one is other or one == other for one, other in zip(before, inputs, strict=True)
    )


def _looks(policies: Iterable[Policy]) -> _Looks:
    labels: set[str] = set()
    namespace_labels: set[str] = set()
    ports: set[tuple[str, int]] = set()
    for policy in policies:
        if not isinstance(policy, NetworkPolicy):
            continue
        for peer in _pod_peers((*policy.ingress, *policy.egress)):
            labels |= peer.pods.keys
            if peer.namespaces is not None:
                namespace_labels |= peer.namespaces.keys
        for rule in policy.egress:
            ports |= {
                (one.port, int(one.protocol)) for one in rule.ports if isinstance(one.port, str)
            }
    return _Looks(frozenset(labels), frozenset(namespace_labels), frozenset(ports))


def _pod_peers(rules: Iterable[NetworkRule]) -> Iterator[PodPeer]:
    for rule in rules:
        for peer in rule.peers:
            if isinstance(peer, PodPeer):
                yield peer


def _features(workload: Workload, namespace_labels: Labels, looks: _Looks) -> Features:
    identity = workload.identity
    return Features(
        trust_domain=identity.trust_domain,
        namespace=identity.namespace,
        service_account=identity.service_account,
        namespace_labels=namespace_labels,
        labels=restrict(workload.labels, looks.labels) if looks.labels else NO_LABELS,
        ports=tuple(
            sorted(
                (name, protocol, number)
                for (name, protocol), number in _own_ports(workload).items()
                if (name, protocol) in looks.ports
            )
        ),
    )


def _own_ports(workload: Workload) -> dict[tuple[str, int], int]:
    """Named ports; of a name that containers share, the first, as ``Workload.port_named`` says."""
    found: dict[tuple[str, int], int] = {}
    for port in workload.ports:
        found.setdefault((port.name, int(port.protocol)), port.port)
    return found


def _namespace_labels(state: MeshState, workload: Workload, looks: _Looks) -> Labels:
    """As Kubernetes sees them: every namespace carries its own name as a label."""
    namespace = state.namespaces.get(workload.namespace)
    labels = dict(namespace.labels.items()) if namespace else {}
    labels["kubernetes.io/metadata.name"] = workload.namespace
    return restrict(Labels(labels), looks.namespace_labels)


def _named_ports(state: MeshState, wanted: frozenset[tuple[str, int]]) -> NamedPorts:
    numbers: dict[tuple[str, int], set[int]] = {}
    if wanted:
        for workload in state.workloads.values():
            for key, number in _own_ports(workload).items():
                if key in wanted:
                    numbers.setdefault(key, set()).add(number)
    return {key: tuple(sorted(numbers[key])) for key in sorted(numbers)}
