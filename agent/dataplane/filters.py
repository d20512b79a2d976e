# SPDX-License-Identifier: Apache-2.0
"""Our tc filters: the guard on both sides of a pod's interfaces, the seal at the host's end.

Every function works on the network namespace of the calling thread, and can be repeated. Ours is
what carries our handle and a name of ours; nothing else is touched.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Any, Final

from agent.dataplane.netlink import netlink_here

__all__ = ["Filter", "Side", "ensure_filter", "has_room", "remove_filters"]

_HANDLE: Final = 0x6D65
_NAME: Final = re.compile(r"mesh_\w+#(\d+)(\+qdisc)?")
"""A filter's name says the kernel's number of its program (pyroute2 does not read TCA_BPF_ID), and
whether its qdisc is ours too; so a later agent knows without a file."""

_LINK_ETHERNET: Final = 0x8000
_SLOT_MASK: Final = 0x7FFF

_MADE_QDISC: Final = "+qdisc"

_INGRESS_QDISC: Final = 0xFFFF0000


@unique
class Side(IntEnum):
    """Where a filter hangs: the parents that clsact has."""

    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3


@dataclass(frozen=True, slots=True)
class Filter:
    """A packet program, and the number that tells it whose packets it sees."""

    name: str
    """Begins with ``mesh_``."""

    side: Side
    program_fd: int
    program_id: int
    """The kernel's number: a filter with another is of another version."""

    slot: int
    """15 bits, not 0."""

    has_ethernet: bool = False
    """Whether packets of the link begin with Ethernet headers."""

    @property
    def classid(self) -> int:
        """What the program reads of it (bpf/include/mesh_consts.h)."""
        return self.slot | (_LINK_ETHERNET if self.has_ethernet else 0)


@dataclass(frozen=True, slots=True)
class _Found:
    program_id: int
    made_qdisc: bool
    classid: int
    priority: int
    parent: int


def _parent(route: Any, index: int, side: Side) -> int | None:
    """Where a filter can hang: clsact, the older ingress qdisc, or (None) nowhere yet."""
    for qdisc in route.get_qdiscs(index=index):
        kind = qdisc.get_attr("TCA_KIND")
        if kind == "clsact":
            return side
        if kind == "ingress" and side is Side.INGRESS:
            return _INGRESS_QDISC
    return None


def _has_ingress_qdisc(route: Any, index: int) -> bool:
    """The older kind takes the place of clsact, and has no egress."""
    return any(q.get_attr("TCA_KIND") == "ingress" for q in route.get_qdiscs(index=index))


def _find(route: Any, index: int, side: Side) -> _Found | None:
    parent = _parent(route, index, side)
    if parent is None:
        return None
    for entry in route.get_filters(index=index, parent=parent):
        options = entry.get_attr("TCA_OPTIONS")
        if entry.get_attr("TCA_KIND") != "bpf" or options is None:
            continue
        name = _NAME.fullmatch(options.get_attr("TCA_BPF_NAME") or "")
        if name is not None:
            return _Found(
                int(name[1]),
                name[2] is not None,
                options.get_attr("TCA_BPF_CLASSID") or 0,
                entry["info"] >> 16,
                parent,
            )
    return None


def ensure_filter(index: int, want: Filter) -> bool:
    """The filter on the interface; True where there was none of ours before.

    Raises NetlinkError, also where an ``ingress`` qdisc of somebody else leaves egress no place.
    """
    with netlink_here() as route:
        have = _find(route, index, want.side)
        if have is not None and (have.program_id, have.classid) == (want.program_id, want.classid):
            return False
        made_qdisc = have is not None and have.made_qdisc
        parent = _parent(route, index, want.side)
        if parent is None:
            route.tc("add", "clsact", index)
            parent, made_qdisc = want.side, True
        name = f"{want.name}#{want.program_id}" + (_MADE_QDISC if made_qdisc else "")
        priority = _free_priority(route, index, parent) if have is None else have.priority
        route.tc(
            "replace-filter",
            "bpf",
            index,
            _HANDLE,
            fd=want.program_fd,
            name=name,
            parent=parent,
            prio=priority,
            classid=want.classid,
            direct_action=True,
        )
        return have is None


def has_room(index: int, side: Side) -> bool:
    """Whether a filter can hang there at all."""
    with netlink_here() as route:
        return side is Side.INGRESS or not _has_ingress_qdisc(route, index)


def _free_priority(route: Any, index: int, parent: int) -> int:
    """The first priority that nobody has: one is never shared, another kind could hold it."""
    taken = {entry["info"] >> 16 for entry in route.get_filters(index=index, parent=parent)}
    return next(number for number in range(1, 1 << 16) if number not in taken)


def remove_filters(slot: int | None = None, program_ids: Collection[int] | None = None) -> None:
    """Our filters off every interface, of one pod or of all; a qdisc of ours that is empty too.

    ``program_ids`` limits it to these programs, where agents of several nodes share a namespace.
    """
    with netlink_here() as route:
        for link in route.get_links():
            _remove_from(route, link["index"], slot, program_ids)


def _remove_from(
    route: Any, index: int, slot: int | None, program_ids: Collection[int] | None
) -> None:
    made_qdisc = False
    found = False
    for side in Side:
        have = _find(route, index, side)
        if have is None or (slot is not None and have.classid & _SLOT_MASK != slot):
            continue
        if program_ids is not None and have.program_id not in program_ids:
            continue
        route.tc("del-filter", "bpf", index, _HANDLE, parent=have.parent, prio=have.priority)
        found = True
        made_qdisc |= have.made_qdisc
    if not found or not made_qdisc:
        return
    others = [one for side in Side for one in route.get_filters(index=index, parent=side)]
    if not others:
        route.tc("del", "clsact", index)
