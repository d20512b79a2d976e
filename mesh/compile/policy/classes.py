# SPDX-License-Identifier: Apache-2.0
"""Classes of peers: what policies look at, the class of every workload, and whom a test means."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from mesh.compile.ids import IdTable
from mesh.compile.policy.network import NamedPorts
from mesh.compile.policy.peers import Features, PeerTest, restrict
from mesh.model.labels import NO_LABELS, Labels
from mesh.model.network_policy import NetworkPolicy, NetworkRule, PodPeer
from mesh.model.policies import Policy
from mesh.model.workload import Workload, WorkloadUid
from mesh.state import MeshState
from mesh.tables import PeerClass, WorkloadId

__all__ = ["Classes", "Looker", "Looks", "Matches", "PortNames"]


@dataclass(frozen=True, slots=True)
class Looks:
    """What policies look at in a peer: two workloads alike in this are one class."""

    labels: frozenset[str] = frozenset()
    namespace_labels: frozenset[str] = frozenset()
    ports: frozenset[tuple[str, int]] = frozenset()


class Looker:
    """What policies look at, remembered for each: of a thousand, one is edited at a time."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Policy, Looks]] = {}

    def look(self, policies: Iterable[Policy]) -> Looks:
        """What these look at; what others did is forgotten."""
        known, self._known = self._known, {}
        for policy in policies:
            # By identity, which is nobody else's for as long as the policy is held here.
            self._known[id(policy)] = known.get(id(policy)) or (policy, _looks_of(policy))
        each = {looks for _, looks in self._known.values()}
        return Looks(
            frozenset().union(*(looks.labels for looks in each)),
            frozenset().union(*(looks.namespace_labels for looks in each)),
            frozenset().union(*(looks.ports for looks in each)),
        )


def _looks_of(policy: Policy) -> Looks:
    if not isinstance(policy, NetworkPolicy):
        return Looks()
    labels: set[str] = set()
    namespace_labels: set[str] = set()
    for peer in _pod_peers((*policy.ingress, *policy.egress)):
        labels |= peer.pods.keys
        if peer.namespaces is not None:
            namespace_labels |= peer.namespaces.keys
    ports = frozenset(
        (one.port, int(one.protocol))
        for rule in policy.egress
        for one in rule.ports
        if isinstance(one.port, str)
    )
    return Looks(frozenset(labels), frozenset(namespace_labels), ports)


class PortNames:
    """Every number that a named port has on some workload."""

    def __init__(self) -> None:
        self._workloads: dict[WorkloadUid, Workload] = {}
        self._numbers: dict[tuple[str, int], Counter[int]] = defaultdict(Counter)

    def note(self, state: MeshState, uids: Iterable[WorkloadUid]) -> None:
        """Look at these workloads again."""
        for uid in uids:
            before = self._workloads.pop(uid, None)
            if before is not None:
                for key, number in _own_ports(before).items():
                    self._numbers[key][number] -= 1
            after = state.workloads.get(uid)
            if after is not None and after.ports:
                self._workloads[uid] = after
                for key, number in _own_ports(after).items():
                    self._numbers[key][number] += 1

    def of(self, wanted: frozenset[tuple[str, int]]) -> NamedPorts:
        """The numbers of these names, in order; names that nobody has are left out."""
        found = {}
        for key in sorted(wanted):
            numbers = tuple(sorted(n for n, users in self._numbers[key].items() if users))
            if numbers:
                found[key] = numbers
        return found


class Classes:
    """The class of every workload that has an address of its own."""

    def __init__(self, ids: IdTable) -> None:
        self._ids = ids
        self._looks = Looks()
        self._members: dict[WorkloadUid, tuple[WorkloadId, Features, PeerClass]] = {}
        self._users: Counter[PeerClass] = Counter()
        self._numbers: dict[Features, PeerClass] = {}
        self.features: dict[PeerClass, Features] = {}
        """What each class that somebody is in stands for."""

    def note(self, state: MeshState, uids: Iterable[WorkloadUid], looks: Looks) -> set[WorkloadUid]:
        """Look at these workloads again, at all if ``looks`` is new; returns which it looked at."""
        if looks != self._looks:
            uids = self._members.keys() | state.workloads.keys()
            self._looks = looks
        looked = set(uids)
        namespaces: dict[str, Labels] = {}
        known: dict[object, Features] = {}  # of a deployment, all have the same
        for uid in sorted(looked):
            workload = state.workloads.get(uid)
            if workload is None or workload.host_network:
                self._leave(uid)
                continue
            name = workload.namespace
            if name not in namespaces:
                namespaces[name] = _namespace_labels(state, name, looks)
            same = (workload.identity, workload.labels, workload.ports)
            features = known.get(same)
            if features is None:
                features = known[same] = _features(workload, namespaces[name], looks)
            self._join(uid, features)
        return looked

    def member(self, uid: WorkloadUid) -> tuple[WorkloadId, PeerClass] | None:
        """The number and the class of a workload; None where it has no class."""
        found = self._members.get(uid)
        return None if found is None else (found[0], found[2])

    def _join(self, uid: WorkloadUid, features: Features) -> None:
        before = self._members.get(uid)
        number = self._ids.workload_id(uid)
        if before is not None and (before[1] is features or before[1] == features):
            self._members[uid] = (number, before[1], before[2])
            return
        self._leave(uid)
        peer_class = self._numbers.get(features)
        if peer_class is None:
            peer_class = self._ids.peer_class_id(repr(features))
            self._numbers[features] = peer_class
            self.features[peer_class] = features
        self._users[peer_class] += 1
        self._members[uid] = (number, self.features[peer_class], peer_class)

    def _leave(self, uid: WorkloadUid) -> None:
        before = self._members.pop(uid, None)
        if before is None:
            return
        _, features, peer_class = before
        self._users[peer_class] -= 1
        if not self._users[peer_class]:
            del self._users[peer_class], self._numbers[features], self.features[peer_class]


class Matches:
    """Which classes a test of peers means, when claimed and when attested; for all sets once."""

    def __init__(self) -> None:
        self._features: dict[PeerClass, Features] = {}
        self._found: dict[PeerTest, tuple[set[PeerClass], set[PeerClass]]] = {}

    def follow(
        self, features: Mapping[PeerClass, Features]
    ) -> tuple[set[PeerClass], set[PeerClass]]:
        """Know these classes and no others; returns those that came and those that went."""
        gone = self._features.keys() - features.keys()
        came = features.keys() - self._features.keys()
        if not came and not gone:
            return came, gone
        for number in gone:
            del self._features[number]
        self._features.update((number, features[number]) for number in came)
        for test, (claimed, attested) in self._found.items():
            claimed.difference_update(gone)
            attested.difference_update(gone)
            for number in came:
                self._judge(test, number, claimed, attested)
        return came, gone

    def of(self, test: PeerTest) -> tuple[AbstractSet[PeerClass], AbstractSet[PeerClass]]:
        """The classes that a test means when they are only claimed, and when they are attested."""
        found = self._found.get(test)
        if found is None:
            found = self._found[test] = (set(), set())
            for number in self._features:
                self._judge(test, number, *found)
        return found

    def keep(self, tests: AbstractSet[PeerTest]) -> None:
        """Forget every other test."""
        for test in self._found.keys() - tests:
            del self._found[test]

    def _judge(
        self, test: PeerTest, number: PeerClass, claimed: set[PeerClass], attested: set[PeerClass]
    ) -> None:
        peer = self._features[number]
        if test.holds(peer, attested=False):
            claimed.add(number)
        if test.holds(peer, attested=True):
            attested.add(number)


def _pod_peers(rules: Iterable[NetworkRule]) -> Iterator[PodPeer]:
    for rule in rules:
        for peer in rule.peers:
            if isinstance(peer, PodPeer):
                yield peer


def _features(workload: Workload, namespace_labels: Labels, looks: Looks) -> Features:
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
        )
        if looks.ports
        else (),
    )


def _own_ports(workload: Workload) -> dict[tuple[str, int], int]:
    """Named ports; of a name that containers share, the first, as ``Workload.port_named`` says."""
    found: dict[tuple[str, int], int] = {}
    for port in workload.ports:
        found.setdefault((port.name, int(port.protocol)), port.port)
    return found


def _namespace_labels(state: MeshState, name: str, looks: Looks) -> Labels:
    """As Kubernetes sees them: every namespace carries its own name as a label."""
    namespace = state.namespaces.get(name)
    labels = dict(namespace.labels.items()) if namespace else {}
    labels["kubernetes.io/metadata.name"] = name
    return restrict(Labels(labels), looks.namespace_labels)
