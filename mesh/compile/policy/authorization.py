# SPDX-License-Identifier: Apache-2.0
"""Rules of AuthorizationPolicies at layer 4, and of PeerAuthentications. They speak of TCP only.

What only HTTP can answer is never dropped (Istio, "Layer 4 security policy": what cannot be
evaluated fails safe): a rule of an ALLOW policy that asks for it permits nothing here, a rule of a
DENY policy refuses whatever its other parts match.
"""

from collections.abc import Iterator, Sequence

from mesh.compile.policy.peers import PeerTest, Proves
from mesh.compile.policy.ports import EVERY_PORT, PortRange, complement, intersect
from mesh.compile.policy.rules import BlockTest, Rule
from mesh.model.authorization_policy import (
    Action,
    AuthorizationPolicy,
    AuthorizationRule,
    Operation,
    Source,
)
from mesh.model.peer_authentication import MtlsMode, PeerAuthentication
from mesh.model.service import Protocol
from mesh.tables import RuleKind

__all__ = ["authorization_rules", "strict_rules"]

_KINDS = {
    (Action.ALLOW, False): RuleKind.ALLOW,
    (Action.DENY, False): RuleKind.DENY,
    (Action.ALLOW, True): RuleKind.DRY_ALLOW,
    (Action.DENY, True): RuleKind.DRY_DENY,
}
_NOBODY = Source()


def authorization_rules(policy: AuthorizationPolicy) -> Iterator[Rule]:
    """The rules of an ALLOW or DENY policy; of others none."""
    kind = _KINDS.get((policy.action, policy.dry_run))
    if kind is None:
        return
    for index, rule in enumerate(policy.rules):
        for source, place in _sources(rule):
            if policy.action is Action.ALLOW and (rule.layer7 or source.layer7):
                continue
            ports = _ports(rule, allow=policy.action is Action.ALLOW)
            if not ports:
                continue
            facts = [source, *(one for one in rule.conditions if isinstance(one, Source))]
            yield Rule(
                kind=kind,
                policy=policy.key,
                rule=f"rules[{index}]{place}",
                peer=tuple(_peer_tests(facts)),
                blocks=tuple(_block_tests(facts)),
                ports=tuple(PortRange(Protocol.TCP, low, high) for low, high in ports),
                origin=rule.origin,
            )


def strict_rules(wide: PeerAuthentication | None, own: PeerAuthentication | None) -> Iterator[Rule]:
    """What refuses TCP without an identity.

    ``wide`` gives the mode of the workload (its own policy's, the namespace's or the mesh's),
    ``own`` the modes of single ports, where a policy with a selector sets them.
    """
    modes = dict(own.port_modes) if own is not None else {}
    base = MtlsMode.PERMISSIVE if wide is None else wide.mode
    if base is MtlsMode.STRICT and wide is not None:
        relaxed = [port for port, mode in modes.items() if mode in _RELAXED]
        yield _strict(wide, "mtls", complement(relaxed))
        return
    strict = sorted(port for port, mode in modes.items() if mode is MtlsMode.STRICT)
    if strict and own is not None:
        yield _strict(own, "portLevelMtls", tuple((port, port) for port in strict))


_RELAXED = (MtlsMode.PERMISSIVE, MtlsMode.DISABLE)


def _strict(policy: PeerAuthentication, place: str, ports: Sequence[tuple[int, int]]) -> Rule:
    return Rule(
        kind=RuleKind.STRICT,
        policy=policy.key,
        rule=place,
        ports=tuple(PortRange(Protocol.TCP, low, high) for low, high in ports),
        origin=policy.origin,
    )


def _sources(rule: AuthorizationRule) -> Iterator[tuple[Source, str]]:
    if not rule.sources:
        yield _NOBODY, ""
    for index, source in enumerate(rule.sources):
        yield source, f".from[{index}]"


def _ports(rule: AuthorizationRule, *, allow: bool) -> tuple[tuple[int, int], ...]:
    """Ports in any operation, and in every condition that speaks of ports."""
    usable = [one for one in rule.operations if not (allow and one.layer7)]
    if rule.operations and not usable:
        return ()
    found = tuple(sorted({one for operation in usable for one in _of(operation)})) or (
        (EVERY_PORT,) if not rule.operations else ()
    )
    for condition in rule.conditions:
        if isinstance(condition, Operation):
            found = intersect(found, _of(condition))
    return found


def _of(operation: Operation) -> tuple[tuple[int, int], ...]:
    ports = tuple((port, port) for port in operation.ports) or (EVERY_PORT,)
    return intersect(ports, complement(operation.not_ports))


def _peer_tests(facts: Sequence[Source]) -> Iterator[PeerTest]:
    for source in facts:
        if any(
            (
                source.principals,
                source.not_principals,
                source.namespaces,
                source.not_namespaces,
                source.service_accounts,
                source.not_service_accounts,
            )
        ):
            yield Proves(source)


def _block_tests(facts: Sequence[Source]) -> Iterator[BlockTest]:
    for source in facts:
        pairs = (
            (source.ip_blocks, source.not_ip_blocks),
            (source.remote_ip_blocks, source.not_remote_ip_blocks),
        )
        for within, outside in pairs:
            if within or outside:
                yield BlockTest(within, outside)
