# SPDX-License-Identifier: Apache-2.0
"""The policy in the kernel: sets first, then the subjects of the next generation, then the flip.

::

    ports, CIDRs, classes, heads of new sets ─▶ subjects, idle buffer ─▶ config.generation ─▶
    sets that neither buffer names are removed

What a set's number stands for never changes, so its rows can be added at any time. The subjects
exist twice; a program reads the generation once a run, and its lowest bit says which buffer holds.
So everything of one change comes into force in one write. The buffer that was in force goes idle
as it was: its sets stay until the next flip, for a run that has begun before this one.
"""

import sys
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from typing import Final

from agent.abi import policy
from agent.abi.codec import encode_address, encode_port
from agent.dataplane import bpf
from agent.dataplane.rows import MapContent
from agent.dataplane.sync import TableMap
from mesh.model.network_policy import IpNetwork
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
        self._sets = {name: TableMap(maps[name]) for name in _SET_TABLES}
        self._subjects = _Subjects(maps["subjects"])
        self._before: dict[str, MapContent] = {name: {} for name in _SET_TABLES}
        self._held: Tables | None = None

    @property
    def entries(self) -> dict[str, int]:
        """Map -> rows in it."""
        sets = {name: len(table.have) for name, table in self._sets.items()}
        return {**sets, "subjects": self._subjects.count}

    def apply(self, tables: Tables, flip: Callable[[int], None], *, in_sync: bool) -> None:
        """Make the kernel hold the policy of ``tables``; ``flip`` writes the generation.

        Without ``in_sync`` subjects of before that are not known (yet, or any more) stay. Raises
        MapError where a map is full: then the policy of before stays in force, whole.
        """
        if self._held is not None and _same_policy(self._held, tables):
            return
        self._held = None  # until all of it is there
        want = _set_content(tables)
        for name in _SET_TABLES:
            self._sets[name].add(want[name])
        if self._subjects.prepare(tables.subjects, self.generation, keep=not in_sync):
            self.generation = (self.generation + 1) & 0xFFFFFFFF
            flip(self.generation)
        if not in_sync:
            return
        for name in reversed(_SET_TABLES):
            self._sets[name].keep(want[name].keys() | self._before[name].keys())
        self._before, self._held = want, tables


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

    def prepare(self, want: Subjects, generation: int, *, keep: bool) -> bool:
        """Make the idle buffer hold ``want``; False where the one in force holds it already."""
        now, idle = generation & 1, (generation + 1) & 1
        held, have = self._rows[now], self._rows[idle]
        if held is None or have is None:
            return self._prepare_unknown(want, now, idle, keep=keep)
        if keep and not held.keys() <= want.keys():
            want = {**held, **want}
        if held is want or held == want:
            return False
        self._rows[idle] = None  # until all of it is there
        for number, row in want.items():
            before = have.get(number)
            if before is not row and before != row:
                bpf.map_update(self._fd, _key(number, idle), _subject(row))
        for number in have.keys() - want.keys():
            bpf.map_delete(self._fd, _key(number, idle))
        self._rows[idle] = want
        return True

    def _prepare_unknown(self, want: Subjects, now: int, idle: int, *, keep: bool) -> bool:
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
        mark = idle.to_bytes(4, _ORDER)
        for number, value in content.items():
            if held[idle].get(number) != value:
                bpf.map_update(self._fd, number + mark, value)
        for number in held[idle].keys() - content.keys():
            bpf.map_delete(self._fd, number + mark)
        if not keep:
            self._rows[idle] = want
        return True


def _same_policy(have: Tables, want: Tables) -> bool:
    """A table that did not change is the same object."""
    names = ("subjects", *_SET_TABLES)
    return all(getattr(have, name) is getattr(want, name) for name in names)


def _key(number: int, buffer: int) -> bytes:
    return bytes(policy.SubjectKey(number, buffer))


def _subject(row: SubjectRow) -> bytes:
    flags = policy.SubjectFlag.JUDGED if row.judged else 0
    return bytes(policy.Subject(row.peer_class, row.ingress, row.egress, flags))


def _set_content(tables: Tables) -> dict[str, MapContent]:
    return {
        "port_masks": {_port_key(row.key): _mask(row.mask) for row in tables.port_masks.values()},
        "cidr_masks": {_cidr_key(row.key): _mask(row.mask) for row in tables.cidr_masks.values()},
        "class_masks": dict(map(_class_row, tables.class_masks.values())),
        "policy_sets": dict(map(_head, tables.policy_sets.values())),
    }


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
