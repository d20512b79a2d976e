# SPDX-License-Identifier: Apache-2.0
"""Numbers for names: the kernel's tables and the core speak numbers, people speak names.

A name keeps its number for as long as the table lives, also over a restart (the agent stores
``to_json()`` beside its pins) and also while the thing is gone: live flow records and sockets hold
numbers, and a number given to someone else would give them someone else's traffic. So an id is
leaked rather than reused, until collect() says that nothing refers to it any more; even then
numbers go round the whole 32-bit space before one comes back.
"""

import json
from collections.abc import Collection, Mapping
from typing import Final, NewType

from mesh.model.address import Family
from mesh.model.errors import MeshError
from mesh.model.service import Protocol, ServiceName
from mesh.model.workload import WorkloadUid
from mesh.tables import PeerClass, ServiceId, SetId, WorkloadId

__all__ = ["FrontendName", "IdTable", "IdTableError", "frontend_name"]

FrontendName = NewType("FrontendName", str)
"""``namespace/name:port/protocol/family``: what one frontend id stands for."""

_FORMAT: Final = 1
_ID_MAX: Final = 0xFFFFFFFF


class IdTableError(MeshError):
    """A stored id table cannot be read, or every number is taken."""


def frontend_name(
    service: ServiceName, port: int, protocol: Protocol, family: Family
) -> FrontendName:
    """The name of a frontend: all VIPs of one family share the endpoints of a service port."""
    return FrontendName(f"{service}:{port}/{protocol.name}/{family.value}")


class _Numbers:
    """Numbers 1 to 2**32-1 for the names of one kind; 0 means nothing and is never given."""

    __slots__ = ("_last", "_maximum", "_number_of", "_taken", "changes", "given")

    def __init__(
        self, number_of: Mapping[str, int] | None = None, *, last: int = 0, maximum: int = _ID_MAX
    ) -> None:
        self._number_of = dict(number_of or {})
        self._taken = set(self._number_of.values())
        self._last = last
        self._maximum = maximum
        self.changes = 0
        self.given: list[tuple[str, int]] = []
        """Since somebody emptied it."""

    def number(self, name: str) -> int:
        found = self._number_of.get(name)
        return found if found is not None else self._allocate(name)

    def _allocate(self, name: str) -> int:
        if len(self._taken) >= self._maximum:
            raise IdTableError(f"all {self._maximum} numbers are taken; none is left for {name!r}")
        number = self._last
        while True:
            number = number % self._maximum + 1
            if number not in self._taken:
                break
        self._last = number
        self._taken.add(number)
        self._number_of[name] = number
        self.changes += 1
        self.given.append((name, number))
        return number

    def restore(self, name: str, number: int) -> None:
        if self._number_of.get(name, number) != number or not _is_id(number, minimum=1):
            raise IdTableError(f"{name!r} has another number than {number!r}")
        if name not in self._number_of and number in self._taken:
            raise IdTableError(f"the number {number} of {name!r} is somebody else's")
        self._number_of[name] = number
        self._taken.add(number)
        self._last = number

    def name_of(self, number: int) -> str | None:
        if number not in self._taken:
            return None
        return next(name for name, held in self._number_of.items() if held == number)

    def collect(self, live: Collection[str]) -> int:
        gone = [name for name in self._number_of if name not in live]
        for name in gone:
            self._taken.discard(self._number_of.pop(name))
        self.changes += len(gone)
        return len(gone)

    def dump(self) -> dict[str, object]:
        return {"last": self._last, "numbers": dict(sorted(self._number_of.items()))}

    @classmethod
    def parse(cls, stored: object, kind: str) -> "_Numbers":
        if not isinstance(stored, dict):
            raise IdTableError(f"the id table has no {kind}")
        last, numbers = stored.get("last"), stored.get("numbers")
        if not isinstance(last, int) or not isinstance(numbers, dict):
            raise IdTableError(f"the {kind} of the id table are malformed")
        if not _is_id(last, minimum=0):
            raise IdTableError(f"the last number of {kind} is not one")
        for name, number in numbers.items():
            if not _is_id(number, minimum=1):
                raise IdTableError(f"the id of {name!r} in {kind} is not a number from 1 up")
        if len(set(numbers.values())) != len(numbers):
            raise IdTableError(f"two {kind} of the id table have one number")
        return cls(numbers, last=last)


def _is_id(value: object, *, minimum: int) -> bool:
    return type(value) is int and minimum <= value <= _ID_MAX


class IdTable:
    """The numbers of everything that has one. An input of the compiler, which adds."""

    __slots__ = (
        "_frontends",
        "_peer_classes",
        "_policy_sets",
        "_services",
        "_workloads",
        "collected",
    )

    def __init__(self) -> None:
        self._workloads = _Numbers()
        self._services = _Numbers()
        self._frontends = _Numbers()
        self._peer_classes = _Numbers()
        self._policy_sets = _Numbers()
        self.collected = 0
        """How many times numbers were freed: ``take_given`` does not tell of that."""

    def workload_id(self, uid: WorkloadUid) -> WorkloadId:
        """The number of a workload, given now if it has none."""
        return WorkloadId(self._workloads.number(uid))

    def service_id(self, name: ServiceName) -> ServiceId:
        """The number of a service, given now if it has none."""
        return ServiceId(self._services.number(str(name)))

    def frontend_id(self, name: FrontendName) -> int:
        """The number of a frontend, given now if it has none."""
        return self._frontends.number(name)

    def peer_class_id(self, name: str) -> PeerClass:
        """The number of a class of peers, by what it stands for; given now if it has none."""
        return PeerClass(self._peer_classes.number(name))

    def policy_set_id(self, name: str) -> SetId:
        """The number of a policy set, by what it stands for; given now if it has none."""
        return SetId(self._policy_sets.number(name))

    def take_given(self) -> list[tuple[str, str, int]]:
        """What got a number since the last call: kind, name, number, in their order by kind."""
        found: list[tuple[str, str, int]] = []
        for kind, numbers in self._kinds().items():
            found += [(kind, name, number) for name, number in numbers.given]
            numbers.given.clear()
        return found

    def restore(self, kind: str, name: str, number: int) -> None:
        """Give this number, as a table that was lost has. Raises IdTableError if it cannot be."""
        numbers = self._kinds().get(kind)
        if numbers is None:
            raise IdTableError(f"there are no numbers for {kind!r}")
        numbers.restore(name, number)

    @property
    def revision(self) -> int:
        """Grows with every change; store the table anew before numbers given since are used."""
        return sum(numbers.changes for numbers in self._kinds().values())

    def _kinds(self) -> dict[str, _Numbers]:
        return {
            "workloads": self._workloads,
            "services": self._services,
            "frontends": self._frontends,
            "peerClasses": self._peer_classes,
            "policySets": self._policy_sets,
        }

    def workload_uid(self, number: WorkloadId) -> WorkloadUid | None:
        """Whose number this is, also when the workload is gone; None if nobody's. Slow."""
        name = self._workloads.name_of(number)
        return None if name is None else WorkloadUid(name)

    def collect(
        self,
        *,
        workloads: Collection[WorkloadUid],
        services: Collection[ServiceName],
        frontends: Collection[FrontendName],
    ) -> int:
        """Forget every name that is not among these; returns how many numbers that freed.

        Only for the one who knows that no map, record or socket holds the others any more.
        """
        self.collected += 1
        return (
            self._workloads.collect(workloads)
            + self._services.collect({str(name) for name in services})
            + self._frontends.collect(frontends)
        )

    def to_json(self) -> str:
        """The whole table as JSON text, names in order."""
        stored: dict[str, object] = {"format": _FORMAT}
        return json.dumps(stored | {kind: one.dump() for kind, one in self._kinds().items()})

    @classmethod
    def from_json(cls, text: str) -> "IdTable":
        """The table that ``to_json`` wrote. Raises IdTableError; then the pins mean nothing."""
        try:
            stored = json.loads(text)
        except ValueError as error:
            raise IdTableError(f"the id table is not JSON: {error}") from error
        if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
            raise IdTableError(f"the id table has not the format {_FORMAT}")
        table = cls()
        table._workloads = _Numbers.parse(stored.get("workloads"), "workloads")
        table._services = _Numbers.parse(stored.get("services"), "services")
        table._frontends = _Numbers.parse(stored.get("frontends"), "frontends")
        # A table that an agent without policies wrote has none of these.
        nothing = _Numbers().dump()
        table._peer_classes = _Numbers.parse(stored.get("peerClasses", nothing), "peerClasses")
        table._policy_sets = _Numbers.parse(stored.get("policySets", nothing), "policySets")
        return table
