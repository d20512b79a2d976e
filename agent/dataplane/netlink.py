# SPDX-License-Identifier: Apache-2.0
"""Interfaces, rules and routes of a pod. The only module that imports pyroute2.

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
    "ensure_mark_route",
    "host_end_of",
    "list_interfaces",
    "netlink_here",
    "remove_mark_route",
]

MARK: Final = 0x6D65
"""fwmark of the sockets that dial an app with the client's address: "me"."""

TABLE: Final = 0x6D65
PRIORITY: Final = 28005
_IMPORTING: Final = threading.Lock()
_IFF_LOOPBACK: Final = 0x8
_ARPHRD_ETHER: Final = 1
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
    peer: int | None = None
    """The number of the other end in its own namespace, where this is one end of a veth pair."""
    has_ethernet: bool = False
    """Whether its packets begin with Ethernet headers (not those of tun, ipip, WireGuard)."""


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
def netlink_here() -> Iterator[Any]:
    """A netlink socket in the calling thread's network namespace; its errors as NetlinkError."""
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
    with netlink_here() as route:
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
            link["index"],
            link.get_attr("IFLA_IFNAME"),
            tuple(addresses.get(link["index"], ())),
            link.get_attr("IFLA_LINK") if _kind(link) == "veth" else None,
            link["ifi_type"] == _ARPHRD_ETHER,
        )
        for link in sorted(links, key=lambda link: int(link["index"]))
    )


def _kind(link: Any) -> str | None:
    info = link.get_attr("IFLA_LINKINFO")
    return None if info is None else info.get_attr("IFLA_INFO_KIND")


def host_end_of(interface: Interface) -> int | None:
    """The other end of a pod's veth, if it is in the calling thread's network namespace."""
    if interface.peer is None:
        return None
    with netlink_here() as route:
        for link in route.get_links():
            if link["index"] != interface.peer or _kind(link) != "veth":
                continue
            # Numbers are per namespace: the pair is one only if each names the other.
            if link.get_attr("IFLA_LINK") == interface.index:
                return int(link["index"])
    return None


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
    with netlink_here() as route:
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
    with netlink_here() as route:
        for family in filter(_has_family, Family):
            number = _EVERYTHING[family][0]
            rule = {"family": number, "priority": PRIORITY, "fwmark": MARK, "table": TABLE}
            for _ in _mark_rules(route, number):
                _tolerate(_ABSENT, route.rule, "del", **rule)
            _tolerate(_ABSENT, route.route, "del", **_route_to_self(family))
