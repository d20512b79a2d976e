# SPDX-License-Identifier: Apache-2.0
"""Interfaces, rules, routes and tc filters of a pod. The only module that imports pyroute2.

Every function works on the network namespace of the calling thread. ``ensure_`` and ``remove_`` can
be repeated. Ours is what carries our numbers or our name; nothing else is touched.
"""

import errno
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, module_from_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from agent.errors import NetlinkError
from mesh.model.address import Family, IpAddress

__all__ = [
    "MARK",
    "Interface",
    "ensure_guard",
    "ensure_mark_route",
    "list_interfaces",
    "remove_guards",
    "remove_mark_route",
]

MARK: Final = 0x6D65
"""fwmark of the sockets that dial an app with the client's address: "me"."""

TABLE: Final = 0x6D65
PRIORITY: Final = 28005
_FILTER_HANDLE: Final = 0x6D65
_FILTER_NAME: Final = "mesh_guard"
_MADE_QDISC: Final = "+qdisc"
"""Ends the filter's name where its qdisc is ours too; so a later agent knows without a file."""

_IMPORTING: Final = threading.Lock()
_IFF_LOOPBACK: Final = 0x8
_CLSACT_INGRESS: Final = 0xFFFFFFF2
_INGRESS: Final = 0xFFFF0000
_RTN_LOCAL: Final = 2
_LOOPBACK_INDEX: Final = 1
_ABSENT: Final = (errno.ENOENT, errno.ESRCH)
"""What the kernel says of a rule or route that is not there; IPv4 and IPv6 differ."""


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of a pod other than lo, with its addresses."""

    index: int
    name: str
    addresses: tuple[IpAddress, ...]


@cache
def _pyroute2() -> tuple[Any, type[Any]]:
    """IPRoute and its error, imported when the first pod is visited.

    Importing the package imports all of it, a database and SQLite with it: 13 MB. Of that the
    sockets need half; so they are imported below a package whose own code has not run.
    """
    with _IMPORTING:
        known = sys.modules.get("pyroute2")
        spec = find_spec("pyroute2")
        if known is None and spec is not None:
            sys.modules["pyroute2"] = module_from_spec(spec)
        try:
            from pyroute2.iproute import IPRoute  # noqa: PLC0415
            from pyroute2.netlink.exceptions import NetlinkError as VendorError  # noqa: PLC0415
        finally:
            if known is None:
                sys.modules.pop("pyroute2", None)  # whoever imports it gets it whole
    return IPRoute, VendorError


@contextmanager
def _netlink() -> Iterator[Any]:
    iproute, vendor_error = _pyroute2()
    try:
        with iproute() as route:
            yield route
    except vendor_error as error:
        raise NetlinkError(f"A pod's network cannot be set up: {error}.") from error
    except OSError as error:
        raise NetlinkError(f"Netlink failed in a pod's network: {error}.") from error


def list_interfaces() -> tuple[Interface, ...]:
    """Every interface but lo, in the order of their numbers."""
    with _netlink() as route:
        links = [link for link in route.get_links() if not link["flags"] & _IFF_LOOPBACK]
        addresses: dict[int, list[IpAddress]] = {}
        for entry in route.get_addr():
            if entry["family"] not in (socket.AF_INET, socket.AF_INET6):
                continue  # MCTP and the like
            text = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
            if text:
                addresses.setdefault(entry["index"], []).append(ip_address(text))
    return tuple(
        Interface(
            link["index"], link.get_attr("IFLA_IFNAME"), tuple(addresses.get(link["index"], ()))
        )
        for link in sorted(links, key=lambda link: int(link["index"]))
    )


def _tolerate(codes: tuple[int, ...], function: Any, *arguments: Any, **settings: Any) -> None:
    vendor_error = _pyroute2()[1]
    try:
        function(*arguments, **settings)
    except vendor_error as error:
        if error.code not in codes:
            raise


_EVERYTHING: Final = {
    Family.V4: (socket.AF_INET, "0.0.0.0/0"),
    Family.V6: (socket.AF_INET6, "::/0"),
}


def _has_family(family: Family) -> bool:
    return family is Family.V4 or Path("/proc/sys/net/ipv6").is_dir()


def _mark_rules(route: Any, family: int) -> list[Any]:
    """The rules of our mark; other rules may share the priority."""
    rules = route.get_rules(family=family, priority=PRIORITY)
    return [rule for rule in rules if rule.get_attr("FRA_FWMARK") == MARK]


def _route_to_self(family: Family) -> dict[str, Any]:
    number, everything = _EVERYTHING[family]
    return {
        "family": number,
        "dst": everything,
        "oif": _LOOPBACK_INDEX,
        "table": TABLE,
        "type": _RTN_LOCAL,
        "scope": 254,
    }


def ensure_mark_route(families: Iterable[Family]) -> None:
    """Packets that carry the mark are for this pod itself, whatever their destination address.

    So answers to a socket that is bound to a client's address come back to it. Only the families
    of the pod's addresses: an IPv6 that is switched off takes no route. Raises NetlinkError where
    somebody else uses the table.
    """
    with _netlink() as route:
        for family in families:
            number = _EVERYTHING[family][0]
            if not _mark_rules(route, number):
                rule = {"family": number, "priority": PRIORITY, "fwmark": MARK, "table": TABLE}
                _tolerate((errno.EEXIST,), route.rule, "add", **rule)
            _tolerate((errno.EEXIST,), route.route, "add", **_route_to_self(family))
            routes = list(route.get_routes(family=number, table=TABLE))
            if any(one["type"] != _RTN_LOCAL or one["dst_len"] for one in routes):
                raise NetlinkError(
                    f"Routing table {TABLE} of the pod holds routes of somebody else; the mesh"
                    " needs it for itself."
                )


def remove_mark_route() -> None:
    """Undoes ensure_mark_route()."""
    with _netlink() as route:
        for family in filter(_has_family, Family):
            number = _EVERYTHING[family][0]
            rule = {"family": number, "priority": PRIORITY, "fwmark": MARK, "table": TABLE}
            for _ in _mark_rules(route, number):
                _tolerate(_ABSENT, route.rule, "del", **rule)
            _tolerate(_ABSENT, route.route, "del", **_route_to_self(family))


def _ingress_parent(route: Any, index: int) -> int | None:
    """Where a filter can hang: clsact, the older ingress qdisc, or (None) nowhere yet."""
    for qdisc in route.get_qdiscs(index=index):
        kind = qdisc.get_attr("TCA_KIND")
        if kind == "clsact":
            return _CLSACT_INGRESS
        if kind == "ingress":
            return _INGRESS
    return None


@dataclass(frozen=True, slots=True)
class _Guard:
    name: str
    program_id: int
    classid: int
    priority: int
    parent: int


def _find_guard(route: Any, index: int) -> _Guard | None:
    parent = _ingress_parent(route, index)
    if parent is None:
        return None
    for entry in route.get_filters(index=index, parent=parent):
        options = entry.get_attr("TCA_OPTIONS")
        if entry.get_attr("TCA_KIND") != "bpf" or options is None:
            continue
        name = options.get_attr("TCA_BPF_NAME") or ""
        if name.startswith(_FILTER_NAME):
            return _Guard(
                name,
                options.get_attr("TCA_BPF_ID") or 0,
                options.get_attr("TCA_BPF_CLASSID") or 0,
                entry["info"] >> 16,
                parent,
            )
    return None


def ensure_guard(index: int, program_fd: int, program_id: int, slot: int) -> None:
    """The guard on the interface's ingress, telling pods apart by ``slot`` (16 bits, not 0)."""
    with _netlink() as route:
        have = _find_guard(route, index)
        if have is not None and (have.program_id, have.classid) == (program_id, slot):
            return
        name = _FILTER_NAME if have is None else have.name
        parent = _ingress_parent(route, index)
        if parent is None:
            route.tc("add", "clsact", index)
            parent, name = _CLSACT_INGRESS, _FILTER_NAME + _MADE_QDISC
        priority = _free_priority(route, index, parent) if have is None else have.priority
        route.tc(
            "replace-filter",
            "bpf",
            index,
            _FILTER_HANDLE,
            fd=program_fd,
            name=name,
            parent=parent,
            prio=priority,
            classid=slot,
            direct_action=True,
        )


def _free_priority(route: Any, index: int, parent: int) -> int:
    """The first priority that nobody has: one is never shared, another kind could hold it."""
    taken = {entry["info"] >> 16 for entry in route.get_filters(index=index, parent=parent)}
    return next(number for number in range(1, 1 << 16) if number not in taken)


def remove_guards() -> None:
    """Our filter off every interface; the qdisc too where it is ours and nobody else uses it."""
    with _netlink() as route:
        for link in route.get_links():
            index = link["index"]
            have = _find_guard(route, index)
            if have is None:
                continue
            route.tc(
                "del-filter",
                "bpf",
                index,
                _FILTER_HANDLE,
                parent=have.parent,
                prio=have.priority,
            )
            others = [
                *route.get_filters(index=index, parent=_CLSACT_INGRESS),
                *route.get_filters(index=index, parent=_CLSACT_INGRESS + 1),
            ]
            if have.name.endswith(_MADE_QDISC) and not others:
                route.tc("del", "clsact", index)
