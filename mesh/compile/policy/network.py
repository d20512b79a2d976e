# SPDX-License-Identifier: Apache-2.0
"""Rules of NetworkPolicies (Kubernetes API reference, NetworkPolicySpec)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from mesh.compile.policy.peers import HasNamedPort, IsPod, PeerTest
from mesh.compile.policy.ports import PortRange
from mesh.compile.policy.rules import ANYWHERE, BlockTest, Rule
from mesh.model.network_policy import (
    IpBlock,
    NetworkPeer,
    NetworkPolicy,
    NetworkPort,
    NetworkRule,
)
from mesh.model.policy import EVERYTHING
from mesh.model.workload import Workload
from mesh.tables import RuleKind

__all__ = ["NamedPorts", "egress_rules", "ingress_rules"]

NamedPorts = Mapping[tuple[str, int], tuple[int, ...]]
"""(name, protocol) -> every number that it has on some workload, in order."""

_EVERY_PEER: Final[tuple[tuple[tuple[PeerTest, ...], tuple[BlockTest, ...], str], ...]] = (
    ((), ANYWHERE, ""),
)


def ingress_rules(policy: NetworkPolicy, subject: Workload) -> Iterator[Rule]:
    """The rules for what a pod receives. A named port that the pod has not matches nothing."""
    for index, rule in enumerate(policy.ingress):
        ports = tuple(_own_ports(rule, subject)) if rule.ports else None
        if ports == ():
            continue
        yield from _rules(policy, rule, f"ingress[{index}]", "from", ports)


def egress_rules(policy: NetworkPolicy, named: NamedPorts) -> Iterator[Rule]:
    """The rules for what a pod sends. A named port is a port of the peer: one rule a number."""
    for index, rule in enumerate(policy.egress):
        place = f"egress[{index}]"
        if not rule.ports:
            yield from _rules(policy, rule, place, "to", None)
            continue
        numbered = [port for port in rule.ports if not isinstance(port.port, str)]
        if numbered:
            yield from _rules(policy, rule, place, "to", tuple(map(_range, numbered)))
        for position, port in enumerate(rule.ports):
            if isinstance(port.port, str):
                yield from _named(policy, rule, f"{place}.ports[{position}]", port, named)


def _named(
    policy: NetworkPolicy, rule: NetworkRule, place: str, port: NetworkPort, named: NamedPorts
) -> Iterator[Rule]:
    name = str(port.port)
    for number in named.get((name, port.protocol), ()):
        test = HasNamedPort(name, port.protocol, number)
        ports = (PortRange(port.protocol, number, number),)
        yield from _rules(policy, rule, place, "to", ports, also=(test,))


def _rules(
    policy: NetworkPolicy,
    rule: NetworkRule,
    place: str,
    peers: str,
    ports: tuple[PortRange, ...] | None,
    *,
    also: tuple[PeerTest, ...] = (),
) -> Iterator[Rule]:
    for tests, blocks, suffix in _peers(policy.namespace, rule.peers, peers):
        yield Rule(
            kind=RuleKind.NETWORK,
            policy=policy.key,
            rule=place + suffix,
            peer=tests + also,
            blocks=blocks,
            ports=ports,
            origin=rule.origin,
        )


def _peers(
    namespace: str, peers: Iterable[NetworkPeer], name: str
) -> Iterable[tuple[tuple[PeerTest, ...], tuple[BlockTest, ...], str]]:
    found: list[tuple[tuple[PeerTest, ...], tuple[BlockTest, ...], str]] = []
    for index, peer in enumerate(peers):
        place = f".{name}[{index}]"
        if isinstance(peer, IpBlock):
            found.append(((), (BlockTest((peer.network,), peer.excepts),), place))
        elif peer.namespaces is None:
            found.append(((IsPod(namespace, EVERYTHING, peer.pods),), ANYWHERE, place))
        else:
            found.append(((IsPod(None, peer.namespaces, peer.pods),), ANYWHERE, place))
    return found or _EVERY_PEER


def _own_ports(rule: NetworkRule, subject: Workload) -> Iterator[PortRange]:
    for port in rule.ports:
        if isinstance(port.port, str):
            number = subject.port_named(port.port, port.protocol)
            if number is not None:
                yield PortRange(port.protocol, number, number)
        else:
            yield _range(port)


def _range(port: NetworkPort) -> PortRange:
    if port.port is None:
        return PortRange(port.protocol)
    low = int(port.port)
    return PortRange(port.protocol, low, port.end_port or low)
