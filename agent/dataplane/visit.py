# SPDX-License-Identifier: Apache-2.0
"""What enrolment does inside a pod: everything here runs in a thread that has entered its netns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.dataplane import filters, listeners, netlink, sysctls
from agent.dataplane.filters import Filter, Side
from agent.dataplane.listeners import PortConflictError
from agent.dataplane.netlink import Interface
from agent.dataplane.plan import CapturePlan, plan_capture
from agent.dataplane.sysctls import SysctlFlag
from mesh.model.address import IpAddress, family_of

__all__ = [
    "Guard",
    "Sockets",
    "apply_network",
    "host_ends",
    "open_sockets",
    "reopen_sockets",
    "seal",
    "undo",
    "unseal",
]

MAX_GUARDED: Final = 64
"""Interfaces of a pod that get a guard; only a pod with NET_ADMIN can have more, for itself."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The packet programs of a pod: (fd, the kernel's number) of each, and the pod's slot."""

    ingress: tuple[int, int]
    egress: tuple[int, int]
    seal: tuple[int, int]
    slot: int

    def filter(
        self, name: str, side: Side, program: tuple[int, int], interface: Interface
    ) -> Filter:
        """One of them as it hangs on an interface."""
        return Filter(name, side, *program, self.slot, interface.has_ethernet)


@dataclass(frozen=True, slots=True)
class Sockets:
    """A pod's listeners by address, and where captured connections are sent."""

    plan: CapturePlan
    ports: tuple[int, ...]
    capture: Mapping[IpAddress, tuple[int, ...]]
    inbound: Mapping[IpAddress, int]
    unset: SysctlFlag
    """Sysctls that apply_network() will have to set."""

    @property
    def capture_fds(self) -> tuple[int, ...]:
        """In the order of the addresses, all ports of one after the other."""
        return tuple(fd for fds in self.capture.values() for fd in fds)

    @property
    def inbound_fds(self) -> tuple[int, ...]:
        """In the order of the addresses."""
        return tuple(self.inbound.values())


def _listen_capture(
    addresses: tuple[IpAddress, ...], ports: tuple[int, ...]
) -> dict[IpAddress, tuple[int, ...]]:
    made: dict[IpAddress, tuple[int, ...]] = {}
    try:
        for address in addresses:
            made[address] = tuple(listeners.listen([address], ports))
    except BaseException:
        listeners.close_all(fd for fds in made.values() for fd in fds)
        raise
    return made


def open_sockets(own: tuple[IpAddress, ...], kept: tuple[int, ...] | None) -> Sockets:
    """Listens on the capture ports (``kept`` from an earlier agent, else free ones) and 15008.

    Raises PortConflictError for 15008, NetlinkError for anything else; nothing stays open then.
    """
    plan = plan_capture(own, netlink.list_interfaces(), strict=True)
    inbound = listeners.listen(own, [listeners.HBONE_PORT])
    try:
        ports = listeners.choose_capture_ports() if kept is None else kept
        try:
            capture = _listen_capture(plan.addresses, ports)
        except PortConflictError:
            if kept is None:
                raise
            # While no agent was there to hold them, a process of an unhooked cgroup took one.
            ports = listeners.choose_capture_ports()
            capture = _listen_capture(plan.addresses, ports)
    except BaseException:
        listeners.close_all(inbound)
        raise
    by_address = dict(zip(own, inbound, strict=True))
    return Sockets(plan, ports, capture, by_address, sysctls.unset_sysctls())


def reopen_sockets(have: Sockets, own: tuple[IpAddress, ...], *, strict: bool) -> Sockets:
    """The sockets for the pod as it is now: those of ``have`` that still fit, and new ones.

    Closes nothing of ``have``. Raises as open_sockets() does; nothing new stays open then.
    """
    plan = plan_capture(own, netlink.list_interfaces(), strict=strict)
    new = tuple(address for address in plan.addresses if address not in have.capture)
    capture = _listen_capture(new, have.ports)
    missing = [address for address in own if address not in have.inbound]
    try:
        inbound = dict(zip(missing, listeners.listen(missing, [listeners.HBONE_PORT]), strict=True))
    except BaseException:
        listeners.close_all(fd for fds in capture.values() for fd in fds)
        raise
    return Sockets(
        plan,
        have.ports,
        {address: have.capture.get(address) or capture[address] for address in plan.addresses},
        {address: have.inbound.get(address) or inbound[address] for address in own},
        sysctls.unset_sysctls(),
    )


def apply_network(guard: Guard, own: tuple[IpAddress, ...]) -> tuple[bool, list[Interface]]:
    """Sysctls, rule and route for the mark, and the guard on both sides of every interface.

    Returns whether a filter was missing, and the interfaces whose packets are stamped.
    """
    sysctls.set_sysctls()
    netlink.ensure_mark_route({family_of(address) for address in own})
    missing, stamped = False, []
    for interface in netlink.list_interfaces()[:MAX_GUARDED]:
        entering = guard.filter("mesh_guard_in", Side.INGRESS, guard.ingress, interface)
        leaving = guard.filter("mesh_guard_out", Side.EGRESS, guard.egress, interface)
        missing |= filters.ensure_filter(interface.index, entering)
        if filters.has_room(interface.index, Side.EGRESS):
            missing |= filters.ensure_filter(interface.index, leaving)
            stamped.append(interface)
    return missing, stamped


def host_ends(stamped: list[Interface]) -> list[tuple[int, Interface]]:
    """The numbers of the other ends that are here, the node's network namespace.

    One that has no end here (ipvlan, SR-IOV) is left out: what goes round its guard is not caught.
    """
    ends = ((netlink.host_end_of(interface), interface) for interface in stamped)
    return [(index, interface) for index, interface in ends if index is not None]


def seal(guard: Guard, ends: list[tuple[int, Interface]]) -> None:
    """The seal at these ends; runs in the node's network namespace."""
    for index, interface in ends:
        sealing = guard.filter("mesh_seal", Side.INGRESS, guard.seal, interface)
        filters.ensure_filter(index, sealing)


def unseal(guard: Guard) -> None:
    """Undoes seal(); runs in the node's network namespace."""
    filters.remove_filters(guard.slot, {guard.seal[1]})


def undo(changed: SysctlFlag) -> None:
    """Undoes apply_network()."""
    filters.remove_filters()
    netlink.remove_mark_route()
    sysctls.restore_sysctls(changed)
