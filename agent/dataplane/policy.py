# SPDX-License-Identifier: Apache-2.0
"""The policy in the kernel: sets first, then the subjects of the next generation, then the flip.

::

    ports, CIDRs, classes, heads of new sets ─▶ subjects, idle buffer ─▶ config.generation ─▶
    sets that neither buffer names are removed

What a set's number stands for never changes, so its rows can be added at any time. The subjects
exist twice; a program reads the generation once a run, and its lowest bit says which buffer holds.
So everything of one change comes into force in one write. The buffer that was in force goes idle
as it was, and its sets stay, for runs that began before. Only when those have ended (grace.py) is
it written to, so no run ever sees a part of one generation and a part of another.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import IPv4Address
from typing import Any, Final

from agent.abi import policy
from agent.abi.codec import encode_address, encode_port
from agent.dataplane import bpf
from agent.dataplane.grace import Grace
from agent.dataplane.rows import MapContent
from agent.dataplane.sync import TableMap
from mesh.model.network_policy import IpNetwork
from mesh.rows import Rows, changed_keys
from mesh.tables import (
    CidrMaskKey,
    ClassMaskRow,
    PolicySetRow,
    PortMaskKey,
    SubjectRow,
    Tables,
    WorkloadId,
)

__all__ = ["PolicyMaps"]

Subjects = Mapping[WorkloadId, SubjectRow]

_ORDER: Final = sys.byteorder
_WORD: Final = (1 << 64) - 1
_SET_BITS: Final = 32
_PROTOCOL_BITS: Final = 16
"""Protocol and padding."""

_V4_PREFIX: Final = 96
"""An IPv4 address stands in the last 32 of 128 bits."""

_SET_TABLES: Final = ("port_masks", "cidr_masks", "class_masks", "policy_sets")
"""In the order of writing: a head comes when everything behind it is there."""


class PolicyMaps:
    """The tables of the policy, and the generation that is in force."""

    def __init__(self, maps: Mapping[str, int], generation: int) -> None:
        self.generation = generation
        self._sets = {name: _SetMap(name, maps[name]) for name in _SET_TABLES}
        self._subjects = _Subjects(maps["subjects"])
        self._grace = Grace()
        self._settled = False
        """No run goes on that began before the last flip, whoever wrote that."""
        self._held: Tables | None = None

    @property
    def entries(self) -> dict[str, int]:
        """Map -> rows in it."""
        sets = {name: one.count for name, one in self._sets.items()}
        return {**sets, "subjects": self._subjects.count}

    def apply(self, tables: Tables, flip: Callable[[int], None], *, in_sync: bool) -> None:
        """Make the kernel hold the policy of ``tables``; ``flip`` writes the generation.

        Without ``in_sync`` subjects of before that are not known (yet, or any more) stay. Raises
        MapError where a map is full: then the policy of before stays in force, whole.
        """
        if self._held is not None and _same_policy(self._held, tables):
            return
        self._held = None  # until all of it is there
        for name in _SET_TABLES:
            self._sets[name].add(getattr(tables, name))
        subjects = self._subjects
        if subjects.prepare(tables.subjects, self.generation, self._settle, keep=not in_sync):
            self.generation = (self.generation + 1) & 0xFFFFFFFF
            self._settled = False
            flip(self.generation)
        if not in_sync:
            return
        if any(one.has_stale for one in self._sets.values()):
            self._settle()
        for name in reversed(_SET_TABLES):
            self._sets[name].clean()
        self._held = tables

    def _settle(self) -> None:
        """Before a row goes or changes that a run of an earlier generation may look at."""
        if not self._settled:
            self._grace.wait()
            self._settled = True

    def close(self) -> None:
        """Let go of what is not pinned."""
        self._grace.close()


class _SetMap:
    """One table of the sets: what is wanted, and what was until now and is not deleted yet."""

    def __init__(self, name: str, fd: int) -> None:
        self._encode = _ENCODERS[name]
        self._map = TableMap(fd)
        self._rows: Mapping[Any, Any] | None = None
        """All of these are in the kernel; None where that is not known."""
        self._cleaned: Mapping[Any, Any] = {}
        self._fresh: set[bytes] = set()
        """Not wanted any more, but named by the buffer that was in force until now."""
        self._stale: set[bytes] = set()
        """Named by neither buffer."""

    @property
    def count(self) -> int:
        return len(self._map.have)

    @property
    def has_stale(self) -> bool:
        """Whether there is something to clean."""
        return bool(self._stale)

    def add(self, rows: Mapping[Any, Any]) -> None:
        """Write what is new; what is not wanted any more stays."""
        if rows is self._rows:
            return
        before, self._rows = self._rows, None  # until all of it is there
        keys = None if before is None else changed_keys(before, rows)
        if before is None or keys is None:
            content = self._encode(rows.values())
            self._map.add(content)
            surplus = self._map.have.keys() - content.keys()
            self._fresh = surplus & self._encode(self._cleaned.values()).keys()
            self._stale = surplus - self._fresh
        else:
            content = self._encode(rows[key] for key in keys if key in rows)
            gone = self._encode(before[key] for key in keys if key in before and key not in rows)
            self._map.add(content)
            self._fresh |= gone.keys()
            self._fresh -= content.keys()
            self._stale -= content.keys()
        self._rows = rows

    def clean(self) -> None:
        """Delete what nobody refers to; what the flip has put out of force goes at the next."""
        self._map.remove(self._stale)
        self._stale, self._fresh = self._fresh, set()
        self._cleaned = self._rows or {}


class _Subjects:
    """Both buffers of the map, as rows; what an agent of before has left, as bytes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rows: list[Subjects | None] = [None, None]

    @property
    def count(self) -> int:
        """Entries in the kernel."""
        if None in self._rows:
            return sum(1 for _ in bpf.batch_items(self._fd, bpf.map_info(self._fd)))
        return sum(len(rows) for rows in self._rows if rows is not None)

    def prepare(
        self, want: Subjects, generation: int, settle: Callable[[], None], *, keep: bool
    ) -> bool:
        """Make the idle buffer hold ``want``; False where the one in force holds it already.

        ``settle`` is called before it is written to.
        """
        now, idle = generation & 1, (generation + 1) & 1
        held, have = self._rows[now], self._rows[idle]
        if held is None or have is None:
            return self._prepare_unknown(want, now, idle, settle, keep=keep)
        if keep:
            want = _with_missing(want, held)
        if not any(held.get(key) != want.get(key) for key in _either(held, want)):
            return False
        settle()
        self._rows[idle] = None  # until all of it is there
        for number in _either(have, want):
            row, before = want.get(number), have.get(number)
            if row is None:
                bpf.map_delete(self._fd, _key(number, idle))
            elif before is not row and before != row:
                bpf.map_update(self._fd, _key(number, idle), _subject(row))
        self._rows[idle] = want
        return True

    def _prepare_unknown(
        self, want: Subjects, now: int, idle: int, settle: Callable[[], None], *, keep: bool
    ) -> bool:
        """The same from what the kernel holds. With ``keep`` what is not wanted stays."""
        self._rows[idle] = None
        held: tuple[dict[bytes, bytes], dict[bytes, bytes]] = ({}, {})
        for key, value in bpf.batch_items(self._fd, bpf.map_info(self._fd)):
            held[int.from_bytes(key[4:], _ORDER)][key[:4]] = value
        content = {number.to_bytes(4, _ORDER): _subject(row) for number, row in want.items()}
        if keep:
            content = {**held[now], **content}
        elif held[now] == content:
            self._rows[now] = want
            return False
        if held[now] == content:
            return False
        settle()
        mark = idle.to_bytes(4, _ORDER)
        for number, value in content.items():
            if held[idle].get(number) != value:
                bpf.map_update(self._fd, number + mark, value)
        for number in held[idle].keys() - content.keys():
            bpf.map_delete(self._fd, number + mark)
        if not keep:
            self._rows[idle] = want
        return True


def _either(have: Subjects, want: Subjects) -> Collection[WorkloadId]:
    """The keys by which the two can differ."""
    keys = changed_keys(have, want)
    return have.keys() | want.keys() if keys is None else keys


def _with_missing(want: Subjects, held: Subjects) -> Subjects:
    """``want``, and what only ``held`` has."""
    keys = changed_keys(held, want)
    missing = {key: held[key] for key in (held if keys is None else keys) if key in held}
    missing = {key: row for key, row in missing.items() if key not in want}
    if not missing:
        return want
    return want.change(missing) if isinstance(want, Rows) else {**want, **missing}


def _same_policy(have: Tables, want: Tables) -> bool:
    """A table that did not change is the same object."""
    names = ("subjects", *_SET_TABLES)
    return all(getattr(have, name) is getattr(want, name) for name in names)


def _key(number: int, buffer: int) -> bytes:
    return bytes(policy.SubjectKey(number, buffer))


def _subject(row: SubjectRow) -> bytes:
    flags = policy.SubjectFlag.JUDGED if row.judged else 0
    return bytes(policy.Subject(row.peer_class, row.ingress, row.egress, flags))


def _mask(mask: int) -> bytes:
    words = (mask >> 64 * word & _WORD for word in range(policy.POLICY_WORDS))
    return bytes(policy.RuleMask(policy.Words(*words)))


def _head(row: PolicySetRow) -> tuple[bytes, bytes]:
    flags = (
        (policy.PolicySetFlag.ISOLATED if row.isolated else 0)
        | (policy.PolicySetFlag.ALLOW_NEEDED if row.allow_needed else 0)
        | (policy.PolicySetFlag.DRY_ALLOW_NEEDED if row.dry_allow_needed else 0)
    )
    kinds = policy.Kinds(*row.kinds)
    return row.key.to_bytes(4, _ORDER), bytes(policy.PolicySet(kinds, flags, 0))


def _class_row(row: ClassMaskRow) -> tuple[bytes, bytes]:
    key = policy.ClassMaskKey(row.key.set_id, row.key.peer_class)
    return bytes(key), _mask(row.claimed) + _mask(row.attested)


def _cidr_key(key: CidrMaskKey) -> bytes:
    length = key.network.prefixlen + (_V4_PREFIX if _is_v4(key.network) else 0)
    address = encode_address(key.network.network_address)
    return bytes(policy.CidrMaskKey(_SET_BITS + length, key.set_id, address))


def _is_v4(network: IpNetwork) -> bool:
    return isinstance(network.network_address, IPv4Address)


def _port_key(key: PortMaskKey) -> bytes:
    if key.protocol is None:
        return bytes(policy.PortMaskKey(_SET_BITS, key.set_id, 0, 0, 0))
    length = _SET_BITS + _PROTOCOL_BITS + key.prefix
    return bytes(policy.PortMaskKey(length, key.set_id, key.protocol, 0, encode_port(key.port)))


_ENCODERS: Final[Mapping[str, Callable[[Iterable[Any]], MapContent]]] = {
    "port_masks": lambda rows: {_port_key(row.key): _mask(row.mask) for row in rows},
    "cidr_masks": lambda rows: {_cidr_key(row.key): _mask(row.mask) for row in rows},
    "class_masks": lambda rows: dict(map(_class_row, rows)),
    "policy_sets": lambda rows: dict(map(_head, rows)),
}
