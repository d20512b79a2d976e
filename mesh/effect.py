# SPDX-License-Identifier: Apache-2.0
"""What other policies would make of connections that have been seen.

Both sets of policies are asked by their specifications (``decide``), at the sender's node whether
it may send and at the receiver's whether it may enter. Pods whose policies stay the same are not
asked about: nothing of theirs can change.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from mesh.compile.policy.select import Book, Selected
from mesh.decide import Answer, Connection, DecidingRule, Oracle
from mesh.model.address import IpAddress, family_of
from mesh.model.authorization_policy import Action, AuthorizationPolicy
from mesh.model.enrollment import is_enrolled
from mesh.model.network_policy import NetworkPolicy, PolicyTypes
from mesh.model.policies import Policy
from mesh.model.policy import Origin, PolicyName
from mesh.model.service import Protocol
from mesh.model.workload import Workload
from mesh.reasons import Reason
from mesh.state import MeshState

__all__ = ["Cause", "Change", "Effect", "Policies", "Talk"]

_PLACE: Final = re.compile(r"(ingress|egress|rules)\[([0-9]+)\]")


class Talk(NamedTuple):
    """A connection that was seen: its ends, as far as they are known workloads."""

    source: Workload | None
    source_address: IpAddress | None
    destination: Workload | None
    destination_address: IpAddress
    port: int
    protocol: int
    attested: bool


class Cause(NamedTuple):
    """A policy, where in it, and the line that this is written at."""

    policy: PolicyName
    place: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Change:
    """What a connection would come to, in the direction that decides."""

    egress: bool
    before: Reason
    after: Reason
    causes: tuple[Cause, ...]
    """Of the refusal, now or then: the rule, or the policies that no rule of which permits it."""


class Policies:
    """One set of policies for a state's workloads."""

    def __init__(
        self, state: MeshState, policies: Iterable[Policy], *, root_namespace: str
    ) -> None:
        self._state = state
        self._root = root_namespace
        self._by_name = {policy.key: policy for policy in policies}
        self._book = Book(self._by_name.values(), root_namespace)
        self._selected: dict[str, Selected] = {}
        self._oracles: dict[tuple[str, str], Oracle] = {}

    def select(self, workload: Workload) -> Selected:
        """The policies that judge a pod."""
        found = self._selected.get(workload.uid)
        if found is None:
            found = self._selected[workload.uid] = self._book.select(workload)
        return found

    def judge(self, connection: Connection) -> Answer:
        """Ask the specifications."""
        subject = connection.subject
        place = (subject.node, subject.namespace)
        oracle = self._oracles.get(place)
        if oracle is None:
            near = (subject.namespace, self._root)
            oracle = self._oracles[place] = Oracle(
                self._state,
                root_namespace=self._root,
                node=subject.node,
                policies=[one for one in self._by_name.values() if one.namespace in near],
            )
        return oracle.judge(connection)

    def causes(self, connection: Connection, answer: Answer) -> tuple[Cause, ...]:
        """Why it is refused."""
        if answer.rule is not None:
            return (self._cause(answer.rule),)
        selected = self.select(connection.subject)
        lacking: Iterable[Policy] = ()
        if answer.reason is Reason.NETWORK_POLICY:
            way = PolicyTypes.EGRESS if connection.egress else PolicyTypes.INGRESS
            lacking = (one for one in selected.network if way in one.types)
        elif answer.reason is Reason.NO_ALLOW_RULE:
            allows = (one for one in selected.authorization if one.action is Action.ALLOW)
            lacking = (one for one in allows if not one.dry_run)
        return tuple(Cause(one.key, "", one.origin) for one in lacking)

    def _cause(self, rule: DecidingRule) -> Cause:
        name, place = rule
        policy = self._by_name[name]
        return Cause(name, place, _origin(policy, place))


class Effect:
    """Compares two sets of policies over one state."""

    def __init__(self, state: MeshState, before: Policies, after: Policies) -> None:
        self._state = state
        self._before = before
        self._after = after

    def of(self, talk: Talk) -> Change | None:
        """What would become of it; None where that is what has become of it now."""
        halves = [
            (one, self._before.judge(one), self._after.judge(one))
            for one in self._connections(talk)
        ]
        was = next((found for _, found, _ in halves if found.reason is not Reason.NONE), None)
        will = next((found for _, _, found in halves if found.reason is not Reason.NONE), None)
        if (was is None) == (will is None):
            return None
        for connection, before, after in halves:
            if will is not None and after.reason is not Reason.NONE:
                causes = self._after.causes(connection, after)
                return Change(connection.egress, before.reason, after.reason, causes)
            if was is not None and before.reason is not Reason.NONE:
                causes = self._before.causes(connection, before)
                return Change(connection.egress, before.reason, after.reason, causes)
        return None

    def _connections(self, talk: Talk) -> Iterator[Connection]:
        """Both halves, of which each is judged by the pod's policies that it is about."""
        source, destination = talk.source, talk.destination
        enrolled = [self._is_judged(one) for one in (source, destination)]
        if not any(enrolled) or not self._concerns(source, destination):
            return
        # What is refused at the sender never came to prove anything.
        proven = talk.attested or (talk.protocol == Protocol.TCP and all(enrolled))
        if source is not None and enrolled[0]:
            yield Connection(
                subject=source,
                peer=destination,
                address=talk.destination_address,
                port=talk.port,
                protocol=talk.protocol,
                egress=True,
                attested=False,
            )
        address = talk.source_address or _address_like(source, talk.destination_address)
        if destination is not None and enrolled[1] and address is not None:
            yield Connection(
                subject=destination,
                peer=source,
                address=address,
                port=talk.port,
                protocol=talk.protocol,
                egress=False,
                attested=proven,
            )

    def _concerns(self, *ends: Workload | None) -> bool:
        known = (one for one in ends if one is not None)
        return any(self._before.select(one) != self._after.select(one) for one in known)

    def _is_judged(self, workload: Workload | None) -> bool:
        if workload is None:
            return False
        return is_enrolled(workload, self._state.namespaces.get(workload.namespace))


def _address_like(workload: Workload | None, other: IpAddress) -> IpAddress | None:
    addresses = () if workload is None else workload.addresses
    return next((one for one in addresses if family_of(one) is family_of(other)), None)


def _origin(policy: Policy, place: str) -> Origin:
    found = _PLACE.match(place)
    if found is None:
        return policy.origin
    section, index = found[1], int(found[2])
    if isinstance(policy, NetworkPolicy):
        rules = policy.ingress if section == "ingress" else policy.egress
        return rules[index].origin
    return policy.rules[index].origin if isinstance(policy, AuthorizationPolicy) else policy.origin
