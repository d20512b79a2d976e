# SPDX-License-Identifier: Apache-2.0
"""What judges each pod, remembered for as long as its policies are the same objects."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mesh.compile.ids import IdTable
from mesh.compile.policy.network import NamedPorts
from mesh.compile.policy.select import Book, Judgement, Selected
from mesh.compile.policy.sets import PolicySet, set_name
from mesh.model.policies import Policy
from mesh.model.workload import Workload
from mesh.tables import NO_SET, SetId

__all__ = ["Judge", "Judged"]

Policies = tuple[Policy, ...]


class Judged(NamedTuple):
    """The sets of one pod, and the rules that they stand for."""

    selected: Selected
    """Holds the policies, so that no other object can get the identity of one of them."""
    ingress: SetId
    egress: SetId
    rules: Mapping[SetId, Judgement]


class Judge:
    """Finds the sets of pods; pods that are selected by the same policies share the work."""

    def __init__(self, ids: IdTable) -> None:
        self._ids = ids
        self._known: dict[tuple[object, ...], Judged] = {}
        self._named: NamedPorts = {}
        self._books: list[tuple[Policies, str, Book]] = []
        self.sets: dict[SetId, PolicySet] = {}

    def judge(
        self, workload: Workload, policies: Policies, root_namespace: str, named: NamedPorts
    ) -> Judged:
        """The sets of one pod. Raises PolicyTooLargeError."""
        if named != self._named:
            self._named = named
            self._known.clear()
        selected = self._book(policies, root_namespace).select(workload)
        key = _memo_key(selected, workload)
        found = self._known.get(key)
        if found is None:
            rules: dict[SetId, Judgement] = {}
            ingress = self._set(selected.ingress(workload), workload, rules)
            egress = self._set(selected.egress(named), workload, rules)
            found = self._known[key] = Judged(selected, ingress, egress, rules)
        return found

    def keep(self, judged: Iterable[Judged], sets: Iterable[SetId]) -> None:
        """Forget what is not among these."""
        live = set(map(id, judged))
        self._known = {key: one for key, one in self._known.items() if id(one) in live}
        self.sets = {number: self.sets[number] for number in sets}

    def _book(self, policies: Policies, root_namespace: str) -> Book:
        """Those in force, and those that do not fit."""
        for known, root, book in self._books:
            if known is policies and root == root_namespace:
                return book
        book = Book(policies, root_namespace)
        self._books = [*self._books[-1:], (policies, root_namespace, book)]
        return book

    def _set(
        self, judgement: Judgement, workload: Workload, rules: dict[SetId, Judgement]
    ) -> SetId:
        if judgement.is_empty:
            return NO_SET
        number = self._ids.policy_set_id(set_name(judgement))
        if number not in self.sets:
            subject = f"{workload.namespace}/{workload.name}"
            self.sets[number] = PolicySet(number, judgement, subject=subject)
        rules[number] = judgement
        return number


def _memo_key(selected: Selected, workload: Workload) -> tuple[object, ...]:
    """Which policies, by identity: to hash or compare them takes longer than to select them."""
    return (
        *map(id, selected.network),
        None,
        *map(id, selected.authorization),
        None,
        id(selected.mode),
        id(selected.port_modes),
        workload.ports,
    )
