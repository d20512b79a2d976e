# SPDX-License-Identifier: Apache-2.0
"""What enrolment does inside a pod: everything here runs in a thread that has entered its netns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.dataplane import listeners, netlink, sysctls
from agent.dataplane.listeners import PortConflictError
from agent.dataplane.plan import CapturePlan, plan_capture
from agent.dataplane.sysctls import SysctlFlag
from mesh.model.address import IpAddress, family_of

__all__ = ["Guard", "Sockets", "apply_network", "open_sockets", "reopen_sockets", "undo"]

MAX_GUARDED: Final = 64
"""Interfaces of a pod that get a guard; only a pod with NET_ADMIN can have more, for itself."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The packet program, and the number that tells it whose packets it sees."""

    program_fd: int
    program_id: int
    slot: int


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


def apply_network(guard: Guard, own: tuple[IpAddress, ...]) -> None:
    """Sysctls, rule and route for the mark, and the guard on every interface."""
    sysctls.set_sysctls()
    netlink.ensure_mark_route({family_of(address) for address in own})
    for interface in netlink.list_interfaces()[:MAX_GUARDED]:
        netlink.ensure_guard(interface.index, guard.program_fd, guard.program_id, guard.slot)


def undo(changed: SysctlFlag) -> None:
    """Undoes apply_network()."""
    netlink.remove_guards()
    netlink.remove_mark_route()
    sysctls.restore_sysctls(changed)
