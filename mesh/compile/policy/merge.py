# SPDX-License-Identifier: Apache-2.0
"""The tables of all sets in force: a set that comes, goes or gets a class costs its own rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.compile.policy.classes import Matches
from mesh.compile.policy.peers import Features
from mesh.compile.policy.select import Judgement
from mesh.compile.policy.sets import PolicySet
from mesh.rows import Rows
from mesh.tables import (
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
)

__all__ = ["SetTables"]


@dataclass(slots=True)
class _Held:
    """A set as it is in the tables."""

    policy_set: PolicySet
    judgement: Judgement
    classes: set[PeerClass]
    """Those that have a row."""


@dataclass(slots=True)
class _Masks:
    """What changes in the rows of classes."""

    upserts: dict[ClassMaskKey, ClassMaskRow] = field(default_factory=dict)
    removes: list[ClassMaskKey] = field(default_factory=list)


class SetTables:
    """Heads, masks and rules of the sets that judge somebody."""

    def __init__(self) -> None:
        self._held: dict[SetId, _Held] = {}
        self._live: Mapping[SetId, Judgement] = {}
        self._matches = Matches()
        self.heads: Rows[SetId, PolicySetRow] = Rows()
        self.classes: Rows[ClassMaskKey, ClassMaskRow] = Rows()
        self.cidrs: Rows[CidrMaskKey, CidrMaskRow] = Rows()
        self.ports: Rows[PortMaskKey, PortMaskRow] = Rows()
        self.rules: Rows[RuleKey, RuleRow] = Rows()

    def merge(
        self,
        live: Mapping[SetId, Judgement],
        sets: Mapping[SetId, PolicySet],
        features: Mapping[PeerClass, Features],
    ) -> None:
        """Hold these sets and no others, with rows for these classes and no others.

        ``live`` that is the same object has not changed.
        """
        came, gone = self._matches.follow(features)
        if live is self._live and not came and not gone:
            return
        self._live = live
        masks = _Masks()
        if came or gone:
            for number in self._held.keys() & live.keys():
                self._regroup(number, came, gone, masks)
        old = [self._held.pop(number) for number in self._held.keys() - live.keys()]
        for held in old:
            number = held.policy_set.set_id
            masks.removes += [ClassMaskKey(number, one) for one in (PeerClass(0), *held.classes)]
        classes = set(features)
        new = [
            self._add(sets[number], judgement, classes, masks)
            for number, judgement in live.items()
            if number not in self._held
        ]
        moved = new + [
            self._held[number]
            for number, judgement in live.items()
            if judgement is not self._held[number].judgement
        ]
        self.classes = self.classes.change(masks.upserts, masks.removes)
        self._change([held.policy_set for held in new], [held.policy_set for held in old])
        self._change_rules(live, moved, old)
        if old:
            tests = {test for held in self._held.values() for test in held.policy_set.tests}
            self._matches.keep(tests)

    def _regroup(
        self,
        number: SetId,
        came: set[PeerClass],
        gone: set[PeerClass],
        masks: _Masks,
    ) -> None:
        held = self._held[number]
        masks.removes += [ClassMaskKey(number, one) for one in held.classes & gone]
        held.classes -= gone
        for row in held.policy_set.class_rows(came, self._matches):
            masks.upserts[row.key] = row
            held.classes.add(row.key.peer_class)

    def _add(
        self,
        policy_set: PolicySet,
        judgement: Judgement,
        classes: set[PeerClass],
        masks: _Masks,
    ) -> _Held:
        default = policy_set.default_row()
        rows = {row.key: row for row in policy_set.class_rows(classes, self._matches)}
        held = _Held(policy_set, judgement, {key.peer_class for key in rows})
        masks.upserts[default.key] = default
        masks.upserts.update(rows)
        self._held[policy_set.set_id] = held
        return held

    def _change(self, new: list[PolicySet], old: list[PolicySet]) -> None:
        self.heads = self.heads.change(
            {one.set_id: one.head for one in new}, [one.set_id for one in old]
        )
        self.cidrs = self.cidrs.change(
            {key: row for one in new for key, row in one.cidrs.items()},
            [key for one in old for key in one.cidrs],
        )
        self.ports = self.ports.change(
            {key: row for one in new for key, row in one.ports.items()},
            [key for one in old for key in one.ports],
        )

    def _change_rules(
        self, live: Mapping[SetId, Judgement], moved: list[_Held], old: list[_Held]
    ) -> None:
        """Of a set that stays, a rule may stand in another line than before."""
        rows: dict[RuleKey, RuleRow] = {}
        for held in moved:
            held.judgement = live[held.policy_set.set_id]
            rows.update((row.key, row) for row in held.policy_set.rules(held.judgement))
        gone = [row.key for held in old for row in held.policy_set.rules(held.judgement)]
        self.rules = self.rules.change(rows, gone)
