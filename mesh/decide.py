# SPDX-License-Identifier: Apache-2.0
"""What policies say of a connection, straight from their specifications: the oracle.

No bits, no classes, no memory: slow and plain, so that it can be read beside the specifications and
the compiled tables (and the kernel) can be held to it. Kubernetes: NetworkPolicySpec. Istio:
AuthorizationPolicy and PeerAuthentication, as far as layer 4 goes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from mesh.model.address import IpAddress, normalise_address
from mesh.model.authorization_policy import (
    Action,
    AuthorizationPolicy,
    AuthorizationRule,
    Operation,
    Source,
)
from mesh.model.enrollment import is_enrolled
from mesh.model.labels import Labels
from mesh.model.network_policy import (
    IpBlock,
    IpNetwork,
    NetworkPeer,
    NetworkPolicy,
    NetworkPort,
    NetworkRule,
    PodPeer,
    PolicyTypes,
)
from mesh.model.peer_authentication import MtlsMode, PeerAuthentication
from mesh.model.policies import Policy
from mesh.model.policy import PolicyName
from mesh.model.service import Protocol
from mesh.model.workload import Workload
from mesh.reasons import Reason
from mesh.state import MeshState

__all__ = ["Answer", "Connection", "DecidingRule", "Oracle"]

DecidingRule = tuple[PolicyName, str]
"""A policy, and where in it, as ``RuleRow.rule`` spells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Who is judged (``subject``), the other side, and what is known of it."""

    subject: Workload
    peer: Workload | None
    """None, or host-network: nobody that a policy can select."""
    address: IpAddress
    """Of the other side."""
    port: int
    """The destination's."""
    protocol: int
    egress: bool
    attested: bool
    node: bool = False
    """The other side is this node, proven."""
    fail_open: bool = False
    """Where the subject's policies are not known, everything may pass."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said of a connection, and by what."""

    reason: Reason
    """NONE: it may pass."""
    rule: DecidingRule | None = None
    """The first, in the order of policies' names, of those that decide; None where a lack does."""
    dry_deny: bool = False
    """The policies in dry run would refuse it."""
    dry_rule: DecidingRule | None = None
    """The rule of those that matches to refuse it."""


class Oracle:
    """Judges connections by the policies of a state, at one node."""

    def __init__(
        self,
        state: MeshState,
        *,
        root_namespace: str,
        node: str,
        policies: Iterable[Policy] | None = None,
    ) -> None:
        """``policies``: these instead of the state's."""
        self._state = state
        self._root = root_namespace
        self._node = node
        known = state.policies.values() if policies is None else policies
        self._policies = sorted(known, key=lambda policy: policy.key)

    def judge(self, connection: Connection) -> Answer:
        """Judge one connection."""
        if connection.node:
            return Answer(Reason.NONE)
        if not self._is_subject(connection.subject):
            open_ = connection.fail_open
            return Answer(Reason.NONE if open_ else Reason.POLICY_UNKNOWN)
        if connection.egress:
            return Answer(*self._network(connection, PolicyTypes.EGRESS))
        if connection.protocol != Protocol.TCP:
            return Answer(*self._network(connection, PolicyTypes.INGRESS))
        return Answer(*self._judge_tcp(connection), *self._dry_run(connection))

    def _is_subject(self, workload: Workload) -> bool:
        """Only what is enrolled here is judged here; of others this node knows no policies."""
        if workload.node != self._node:
            return False
        return is_enrolled(workload, self._state.namespaces.get(workload.namespace))

    def _judge_tcp(self, connection: Connection) -> tuple[Reason, DecidingRule | None]:
        strict = None if connection.attested else self._strict(connection)
        if strict is not None:
            return Reason.NOT_ATTESTED, strict
        _, denied = self._authorized(Action.DENY, connection)
        if denied is not None:
            return Reason.POLICY_DENY, denied
        found, network = self._network(connection, PolicyTypes.INGRESS)
        if found is not Reason.NONE:
            return found, None
        needed, allowed = self._authorized(Action.ALLOW, connection)
        if needed and allowed is None:
            return Reason.NO_ALLOW_RULE, None
        return Reason.NONE, allowed or network

    def _dry_run(self, connection: Connection) -> tuple[bool, DecidingRule | None]:
        _, denied = self._authorized(Action.DENY, connection, dry_run=True)
        needed, allowed = self._authorized(Action.ALLOW, connection, dry_run=True)
        return denied is not None or (needed and allowed is None), denied

    # NetworkPolicy

    def _network(
        self, connection: Connection, direction: PolicyTypes
    ) -> tuple[Reason, DecidingRule | None]:
        subject = connection.subject
        isolating = [
            policy
            for policy in self._policies
            if isinstance(policy, NetworkPolicy)
            and policy.namespace == subject.namespace
            and direction in policy.types
            and policy.pods.match(subject.labels)
        ]
        if not isolating:
            return Reason.NONE, None
        for policy in isolating:
            rules = policy.egress if direction is PolicyTypes.EGRESS else policy.ingress
            for index, rule in enumerate(rules):
                peer = self._peer_place(policy, rule, connection)
                port = _port_place(rule, connection)
                if peer is not None and port is not None:
                    name = "egress" if connection.egress else "ingress"
                    return Reason.NONE, (policy.key, f"{name}[{index}]{port}{peer}")
        return Reason.NETWORK_POLICY, None

    def _peer_place(
        self, policy: NetworkPolicy, rule: NetworkRule, connection: Connection
    ) -> str | None:
        """Where in the rule the other side is meant; None: nowhere."""
        if not rule.peers:
            return ""
        name = "to" if connection.egress else "from"
        for index, peer in enumerate(rule.peers):
            if self._is_peer(policy, peer, connection):
                return f".{name}[{index}]"
        return None

    def _is_peer(self, policy: NetworkPolicy, peer: NetworkPeer, connection: Connection) -> bool:
        if isinstance(peer, IpBlock):
            inside = _within(connection.address, (peer.network,))
            return inside and not _within(connection.address, peer.excepts)
        other = _pod(connection)
        if other is None or not peer.pods.match(other.labels):
            return False
        return self._is_namespace(policy, peer, other)

    def _is_namespace(self, policy: NetworkPolicy, peer: PodPeer, other: Workload) -> bool:
        if peer.namespaces is None:
            return other.namespace == policy.namespace
        namespace = self._state.namespaces.get(other.namespace)
        labels = dict(namespace.labels.items()) if namespace is not None else {}
        labels["kubernetes.io/metadata.name"] = other.namespace
        return peer.namespaces.match(Labels(labels))

    # PeerAuthentication

    def _strict(self, connection: Connection) -> DecidingRule | None:
        """What asks for an identity here. A port's own mode goes before the workload's."""
        subject = connection.subject
        own = self._authentication(subject.namespace, subject)
        port = dict(own.port_modes).get(connection.port, MtlsMode.UNSET) if own else MtlsMode.UNSET
        if port not in (MtlsMode.UNSET, MtlsMode.STRICT):
            return None
        wide = (self._authentication(place, None) for place in (subject.namespace, self._root))
        modes = (one for one in (own, *wide) if one and one.mode is not MtlsMode.UNSET)
        mode = next(modes, None)
        if mode is not None and mode.mode is MtlsMode.STRICT:
            return mode.key, "mtls"
        if own is not None and port is MtlsMode.STRICT:
            return own.key, "portLevelMtls"
        return None

    def _authentication(
        self, namespace: str, subject: Workload | None
    ) -> PeerAuthentication | None:
        """The first by name: with a selector that matches ``subject``, or (None) without one."""
        for policy in self._policies:
            if not isinstance(policy, PeerAuthentication) or policy.namespace != namespace:
                continue
            if subject is None and not len(policy.selector):
                return policy
            if subject is None or not len(policy.selector):
                continue
            if subject.labels.match(policy.selector):
                return policy
        return None

    # AuthorizationPolicy

    def _authorized(
        self, action: Action, connection: Connection, *, dry_run: bool = False
    ) -> tuple[bool, DecidingRule | None]:
        """Whether any policy of the action selects the subject, and the first rule that matches."""
        policies = list(self._selecting(action, connection, dry_run=dry_run))
        for policy in policies:
            for index, rule in enumerate(policy.rules):
                place = _rule_place(rule, connection, allow=action is Action.ALLOW)
                if place is not None:
                    return True, (policy.key, f"rules[{index}]{place}")
        return bool(policies), None

    def _selecting(
        self, action: Action, connection: Connection, *, dry_run: bool
    ) -> Iterator[AuthorizationPolicy]:
        subject = connection.subject
        for policy in self._policies:
            if (
                isinstance(policy, AuthorizationPolicy)
                and policy.action is action
                and policy.dry_run == dry_run
                and not policy.targets_waypoint
                and policy.namespace in (subject.namespace, self._root)
                and subject.labels.match(policy.selector)
            ):
                yield policy


def _rule_place(rule: AuthorizationRule, connection: Connection, *, allow: bool) -> str | None:
    """Where in the rule the source is meant; None: it does not match.

    What only HTTP can see fails safe: ALLOW does not match, DENY takes it for matched.
    """
    if allow and rule.layer7:
        return None
    operations = [one for one in rule.operations if not (allow and one.layer7)]
    if rule.operations and not any(_operation_matches(one, connection) for one in operations):
        return None
    for one in rule.conditions:
        if isinstance(one, Source):
            matches = _source_matches(one, connection)
        else:
            matches = _operation_matches(one, connection)
        if not matches:
            return None
    if not rule.sources:
        return ""
    for index, source in enumerate(rule.sources):
        if not (allow and source.layer7) and _source_matches(source, connection):
            return f".from[{index}]"
    return None


def _source_matches(source: Source, connection: Connection) -> bool:
    proven = _pod(connection) if connection.attested else None
    principal = str(proven.identity).removeprefix("spiffe://") if proven else ""
    namespace = proven.identity.namespace if proven else ""
    account = f"{namespace}/{proven.identity.service_account}" if proven else ""
    address = connection.address
    checks = (
        not source.principals or any(one.match(principal) for one in source.principals),
        not any(one.match(principal) for one in source.not_principals),
        not source.namespaces or any(one.match(namespace) for one in source.namespaces),
        not any(one.match(namespace) for one in source.not_namespaces),
        not source.service_accounts or account in source.service_accounts,
        account not in source.not_service_accounts,
        not source.ip_blocks or _within(address, source.ip_blocks),
        not _within(address, source.not_ip_blocks),
        not source.remote_ip_blocks or _within(address, source.remote_ip_blocks),
        not _within(address, source.not_remote_ip_blocks),
    )
    return all(checks)


def _operation_matches(operation: Operation, connection: Connection) -> bool:
    named = not operation.ports or connection.port in operation.ports
    return named and connection.port not in operation.not_ports


def _port_place(rule: NetworkRule, connection: Connection) -> str | None:
    """Where in the rule the port is meant; None: nowhere.

    Numbers of an egress rule are looked at together and before its names, each of which is a port
    of another peer.
    """
    if not rule.ports:
        return ""
    named = []
    for index, port in enumerate(rule.ports):
        if not _is_port(port, connection):
            continue
        if not (connection.egress and isinstance(port.port, str)):
            return ""
        named.append(f".ports[{index}]")
    return named[0] if named else None


def _is_port(port: NetworkPort, connection: Connection) -> bool:
    if port.protocol != connection.protocol:
        return False
    number = port.port
    if isinstance(number, str):
        # A name is that of a port of the pod that receives.
        receiver = _pod(connection) if connection.egress else connection.subject
        number = receiver.port_named(number, port.protocol) if receiver is not None else None
        return number == connection.port if number is not None else False
    if number is None:
        return True
    return number <= connection.port <= (port.end_port or number)


def _pod(connection: Connection) -> Workload | None:
    peer = connection.peer
    return None if peer is None or peer.host_network else peer


def _within(address: IpAddress, networks: Iterable[IpNetwork]) -> bool:
    own = ip_network(normalise_address(address))
    return any(
        network.version == own.version and own.subnet_of(network)  # type: ignore[arg-type]
        for network in networks
    )
