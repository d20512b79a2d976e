# SPDX-License-Identifier: Apache-2.0
"""The rows of a policy set, which depend on its rules alone, and its masks for classes of peers."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from mesh.compile.policy.classes import Matches
from mesh.compile.policy.peers import UNKNOWN_PEER, PeerTest
from mesh.compile.policy.ports import PORT_BITS, prefixes
from mesh.compile.policy.rules import Rule
from mesh.compile.policy.select import Judgement
from mesh.model.errors import MeshError
from mesh.model.network_policy import IpNetwork
from mesh.tables import (
    POLICY_SET_RULES,
    CidrMaskKey,
    CidrMaskRow,
    ClassMaskKey,
    ClassMaskRow,
    PeerClass,
    PolicySetRow,
    PortMaskKey,
    PortMaskRow,
    RuleKey,
    RuleKind,
    RuleRow,
    SetId,
)

__all__ = ["PolicySet", "PolicyTooLargeError", "set_name"]

_WORD: Final = 64
_WORDS: Final = POLICY_SET_RULES // _WORD
_EVERYWHERE: Final = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


class PolicyTooLargeError(MeshError):
    """The policies that select one pod make more rules than a set holds; the text names both."""


def set_name(judgement: Judgement) -> str:
    """A name for what a set stands for: equal judgements have equal names, on every node."""
    flags = (judgement.isolated, judgement.allow_needed, judgement.dry_allow_needed)
    text = repr((flags, [_content(rule) for rule in judgement.rules]))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _content(rule: Rule) -> tuple[object, ...]:
    policy = rule.policy
    return (rule.kind, str(policy), rule.rule, rule.peer, rule.blocks, rule.ports)


@dataclass(frozen=True, slots=True)
class _Placed:
    bit: int
    rule: Rule


class PolicySet:
    """One set: all of it is made once but the masks of classes, which come and go."""

    def __init__(self, set_id: SetId, judgement: Judgement, *, subject: str) -> None:
        self.set_id = set_id
        self._placed, kinds = _place(judgement.rules, subject)
        self.head = PolicySetRow(
            key=set_id,
            kinds=kinds,
            isolated=judgement.isolated,
            allow_needed=judgement.allow_needed,
            dry_allow_needed=judgement.dry_allow_needed,
        )
        self.cidrs: Mapping[CidrMaskKey, CidrMaskRow] = {
            row.key: row for row in _cidr_rows(set_id, self._placed)
        }
        self.ports: Mapping[PortMaskKey, PortMaskRow] = {
            row.key: row for row in _port_rows(set_id, self._placed)
        }
        self._default = self._unknown_mask()

    @property
    def tests(self) -> Iterator[PeerTest]:
        """Everything that its rules ask of peers."""
        return (test for one in self._placed for test in one.rule.peer)

    def rules(self, judgement: Judgement) -> Iterator[RuleRow]:
        """What the bits are to people, with the places where the rules stand now."""
        for placed, rule in zip(self._placed, judgement.rules, strict=True):
            yield RuleRow(
                key=RuleKey(self.set_id, placed.bit),
                kind=rule.kind,
                policy=rule.policy,
                rule=rule.rule,
                origin=rule.origin,
            )

    def default_row(self) -> ClassMaskRow:
        """The row of class 0, which speaks for who is unknown and for classes without a row."""
        return ClassMaskRow(ClassMaskKey(self.set_id, PeerClass(0)), *self._default)

    def class_rows(self, classes: set[PeerClass], matches: Matches) -> Iterator[ClassMaskRow]:
        """The row of each of these classes that differs from class 0."""
        everyone_claimed = everyone_attested = 0
        claimed: dict[PeerClass, int] = defaultdict(int)
        attested: dict[PeerClass, int] = defaultdict(int)
        for one in self._placed:
            mask = 1 << one.bit
            if one.rule.kind is RuleKind.STRICT:
                everyone_claimed |= mask
            elif not one.rule.peer:
                everyone_claimed |= mask
                everyone_attested |= mask
            else:
                found = [matches.of(test) for test in one.rule.peer]
                for number in classes.intersection(*(both[0] for both in found)):
                    claimed[number] |= mask
                for number in classes.intersection(*(both[1] for both in found)):
                    attested[number] |= mask
        for number in classes:
            masks = (
                everyone_claimed | claimed.get(number, 0),
                everyone_attested | attested.get(number, 0),
            )
            if masks != self._default:
                yield ClassMaskRow(ClassMaskKey(self.set_id, number), *masks)

    def _unknown_mask(self) -> tuple[int, int]:
        claimed = attested = 0
        for one in self._placed:
            if one.rule.kind is RuleKind.STRICT:
                claimed |= 1 << one.bit
                continue
            if all(test.holds(UNKNOWN_PEER, attested=False) for test in one.rule.peer):
                claimed |= 1 << one.bit
            if all(test.holds(UNKNOWN_PEER, attested=True) for test in one.rule.peer):
                attested |= 1 << one.bit
        return claimed, attested


def _place(
    rules: tuple[Rule, ...], subject: str
) -> tuple[tuple[_Placed, ...], tuple[RuleKind, ...]]:
    """Give each rule its bit: a kind begins with a word of its own."""
    placed: list[_Placed] = []
    kinds: list[RuleKind] = []
    bit = 0
    before: RuleKind | None = None
    for rule in rules:
        if rule.kind is not before:
            bit = len(kinds) * _WORD
            before = rule.kind
        if bit % _WORD == 0:
            kinds.append(rule.kind)
        placed.append(_Placed(bit, rule))
        bit += 1
    if len(kinds) > _WORDS:
        raise PolicyTooLargeError(_too_large(rules, subject))
    return tuple(placed), (*kinds, *[RuleKind.NONE] * (_WORDS - len(kinds)))


def _too_large(rules: tuple[Rule, ...], subject: str) -> str:
    counts: dict[str, int] = defaultdict(int)
    for rule in rules:
        counts[str(rule.policy)] += 1
    largest = max(counts, key=lambda name: counts[name])
    return (
        f"{subject} is selected by policies with {len(rules)} rules in one direction, more than "
        f"the {POLICY_SET_RULES} that fit ({_WORD} to a word, each kind in words of its own); "
        f"the largest is {largest} with {counts[largest]}. Merge peers or ports of its rules."
    )


def _cidr_rows(set_id: SetId, placed: tuple[_Placed, ...]) -> Iterator[CidrMaskRow]:
    networks: set[IpNetwork] = set(_EVERYWHERE)
    everywhere = 0
    narrow: list[_Placed] = []
    for one in placed:
        if one.rule.blocks:
            narrow.append(one)
            networks.update(*(test.within + test.outside for test in one.rule.blocks))
        else:
            everywhere |= 1 << one.bit
    for network in sorted(networks, key=_network_order):
        mask = everywhere
        for one in narrow:
            if all(test.holds(network) for test in one.rule.blocks):
                mask |= 1 << one.bit
        yield CidrMaskRow(CidrMaskKey(set_id, network), mask)


def _network_order(network: IpNetwork) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


_Prefix = tuple[int, int]


def _port_rows(set_id: SetId, placed: tuple[_Placed, ...]) -> Iterator[PortMaskRow]:
    anything = 0
    by_protocol: dict[int, dict[_Prefix, int]] = defaultdict(lambda: defaultdict(int))
    for one in placed:
        if one.rule.ports is None:
            anything |= 1 << one.bit
            continue
        for port_range in one.rule.ports:
            for prefix in prefixes(port_range.low, port_range.high):
                by_protocol[port_range.protocol][prefix] |= 1 << one.bit
    yield PortMaskRow(PortMaskKey(set_id, None, 0, 0), anything)
    for protocol, own in sorted(by_protocol.items()):
        own.setdefault((0, 0), 0)
        for port, length in sorted(own):
            mask = anything
            for wider in range(length + 1):
                mask |= own.get((_cut(port, wider), wider), 0)
            yield PortMaskRow(PortMaskKey(set_id, protocol, port, length), mask)


def _cut(port: int, length: int) -> int:
    return port >> (PORT_BITS - length) << (PORT_BITS - length)
