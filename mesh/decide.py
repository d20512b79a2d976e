# SPDX-License-Identifier: Apache-2.0
"""What policies say of a connection, straight from their specifications: the oracle.

No bits, no classes, no memory: slow and plain, so that it can be read beside the specifications and
the compiled tables (and the kernel) can be held to it. Kubernetes: NetworkPolicySpec. Istio:
AuthorizationPolicy and PeerAuthentication, as far as layer 4 goes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from mesh.model.address import IpAddress
from mesh.model.authorization_policy import (
    Action,
    AuthorizationPolicy,
    AuthorizationRule,
    Operation,
    Source,
)
from mesh.model.labels import Labels
from mesh.model.network_policy import (
    IpBlock,
    IpNetwork,
    NetworkPeer,
    NetworkPolicy,
    NetworkPort,
    PodPeer,
    PolicyTypes,
)
from mesh.model.peer_authentication import MtlsMode, PeerAuthentication
from mesh.model.service import Protocol
from mesh.model.workload import Workload
from mesh.reasons import Reason
from mesh.state import MeshState

__all__ = ["Connection", "Oracle"]


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


class Oracle:
    """Judges connections by the policies of a state."""

    def __init__(self, state: MeshState, *, root_namespace: str) -> None:
        self._state = state
        self._root = root_namespace
        self._policies = sorted(state.policies.values(), key=lambda policy: policy.key)

    def judge(self, connection: Connection) -> Reason:
        """NONE: it may pass."""
        if connection.node:
            return Reason.NONE
        if connection.egress:
            return self._network(connection, PolicyTypes.EGRESS)
        if connection.protocol != Protocol.TCP:
            return self._network(connection, PolicyTypes.INGRESS)
        if not connection.attested and self._is_strict(connection):
            return Reason.NOT_ATTESTED
        if any(self._matches(one, connection) for one in self._selecting(Action.DENY, connection)):
            return Reason.POLICY_DENY
        found = self._network(connection, PolicyTypes.INGRESS)
        return self._allow(connection) if found is Reason.NONE else found

    def _allow(self, connection: Connection) -> Reason:
        allowing = list(self._selecting(Action.ALLOW, connection))
        if allowing and not any(self._matches(one, connection) for one in allowing):
            return Reason.NO_ALLOW_RULE
        return Reason.NONE

    # NetworkPolicy

    def _network(self, connection: Connection, direction: PolicyTypes) -> Reason:
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
            return Reason.NONE
        for policy in isolating:
            rules = policy.egress if direction is PolicyTypes.EGRESS else policy.ingress
            for rule in rules:
                peers = not rule.peers or any(
                    self._is_peer(policy, peer, connection) for peer in rule.peers
                )
                ports = not rule.ports or any(_is_port(one, connection) for one in rule.ports)
                if peers and ports:
                    return Reason.NONE
        return Reason.NETWORK_POLICY

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

    def _is_strict(self, connection: Connection) -> bool:
        subject = connection.subject
        own = self._authentication(subject.namespace, subject)
        wide = (self._authentication(place, None) for place in (subject.namespace, self._root))
        if own is not None:
            modes = dict(own.port_modes)
            mode = modes.get(connection.port, MtlsMode.UNSET)
            if mode is not MtlsMode.UNSET:
                return mode is MtlsMode.STRICT
        for policy in (own, *wide):
            if policy is not None and policy.mode is not MtlsMode.UNSET:
                return policy.mode is MtlsMode.STRICT
        return False

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

    def _selecting(self, action: Action, connection: Connection) -> Iterator[AuthorizationPolicy]:
        subject = connection.subject
        for policy in self._policies:
            if (
                isinstance(policy, AuthorizationPolicy)
                and policy.action is action
                and not policy.dry_run
                and not policy.targets_waypoint
                and policy.namespace in (subject.namespace, self._root)
                and subject.labels.match(policy.selector)
            ):
                yield policy

    def _matches(self, policy: AuthorizationPolicy, connection: Connection) -> bool:
        allow = policy.action is Action.ALLOW
        return any(_rule_matches(rule, connection, allow=allow) for rule in policy.rules)


def _rule_matches(rule: AuthorizationRule, connection: Connection, *, allow: bool) -> bool:
    """What only HTTP can see fails safe: ALLOW does not match, DENY takes it for matched."""
    if allow and rule.layer7:
        return False
    sources = [one for one in rule.sources if not (allow and one.layer7)]
    operations = [one for one in rule.operations if not (allow and one.layer7)]
    return (
        (not rule.sources or any(_source_matches(one, connection) for one in sources))
        and (not rule.operations or any(_operation_matches(one, connection) for one in operations))
        and all(
            _source_matches(one, connection)
            if isinstance(one, Source)
            else _operation_matches(one, connection)
            for one in rule.conditions
        )
    )


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
    own = ip_network(address)
    return any(
        network.version == own.version and own.subnet_of(network)  # type: ignore[arg-type]
        for network in networks
    )
