# SPDX-License-Identifier: Apache-2.0
"""What enrolment does inside a pod: everything here runs in a thread that has entered its netns."""

from collections.abc import Iterable
from dataclasses import dataclass

from agent.dataplane import listeners, netlink, sysctls
from agent.dataplane.listeners import PortConflictError
from agent.dataplane.netlink import Interface
from agent.dataplane.sysctls import SysctlFlag
from agent.errors import NetlinkError
from mesh.model.address import Family, IpAddress, family_of

__all__ = [
    "CapturePlan",
    "Sockets",
    "apply_network",
    "guard_interfaces",
    "open_more_sockets",
    "open_sockets",
    "plan_capture",
    "undo",
]


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """Which addresses of the pod take captured connections."""

    capture4: IpAddress | None
    capture6: IpAddress | None
    devices: dict[tuple[int, int], IpAddress]
    """(ifindex, family) -> address, for sockets that are bound to a device."""

    @property
    def addresses(self) -> list[IpAddress]:
        """Each once."""
        chosen = [self.capture4, self.capture6, *self.devices.values()]
        return list(dict.fromkeys(one for one in chosen if one is not None))


@dataclass(frozen=True, slots=True)
class Sockets:
    """What open_sockets() made and found."""

    plan: CapturePlan
    ports: tuple[int, ...]
    capture: tuple[int, ...]
    inbound: tuple[int, ...]
    unset: SysctlFlag


def _first(addresses: Iterable[IpAddress], family: Family) -> IpAddress | None:
    return next((one for one in addresses if family_of(one) is family), None)


def plan_capture(own: tuple[IpAddress, ...], interfaces: tuple[Interface, ...]) -> CapturePlan:
    """The pod's address of each family, and one of each other interface.

    Raises NetlinkError where an address of the pod is on none of its interfaces.
    """
    present = {address for interface in interfaces for address in interface.addresses}
    missing = [str(address) for address in own if address not in present]
    if missing:
        raise NetlinkError(f"No interface of the pod has its address {', '.join(missing)} (yet).")
    devices: dict[tuple[int, int], IpAddress] = {}
    for interface in interfaces:
        usable = [one for one in interface.addresses if not one.is_link_local]
        usable.sort(key=lambda one: one not in own)
        for family in Family:
            address = _first(usable, family)
            if address is not None:
                devices[interface.index, family.value] = address
    return CapturePlan(_first(own, Family.V4), _first(own, Family.V6), devices)


def open_sockets(own: tuple[IpAddress, ...], kept: tuple[int, ...] | None) -> Sockets:
    """Listens on the capture ports (``kept`` from an earlier agent, else free ones) and 15008.

    Raises PortConflictError for 15008, NetlinkError for anything else; nothing stays open then.
    """
    plan = plan_capture(own, netlink.list_interfaces())
    inbound = listeners.listen(own, [listeners.HBONE_PORT])
    try:
        ports = listeners.choose_capture_ports() if kept is None else kept
        try:
            capture = listeners.listen(plan.addresses, ports)
        except PortConflictError:
            if kept is None:
                raise
            # While no agent was there to hold them, a process of an unhooked cgroup took one.
            ports = listeners.choose_capture_ports()
            capture = listeners.listen(plan.addresses, ports)
    except BaseException:
        listeners.close_all(inbound)
        raise
    return Sockets(plan, ports, tuple(capture), tuple(inbound), sysctls.unset_sysctls())


def open_more_sockets(
    own: tuple[IpAddress, ...], ports: tuple[int, ...], known: tuple[IpAddress, ...]
) -> tuple[CapturePlan, tuple[int, ...]]:
    """The plan as it is now, and listeners on its addresses that are not ``known``."""
    plan = plan_capture(own, netlink.list_interfaces())
    new = [address for address in plan.addresses if address not in known]
    return plan, tuple(listeners.listen(new, ports))


def apply_network(program_fd: int, program_id: int, slot: int) -> None:
    """Sysctls, rule and route for the mark, and the guard on every interface."""
    sysctls.set_sysctls()
    netlink.ensure_mark_route()
    guard_interfaces(program_fd, program_id, slot)


def guard_interfaces(program_fd: int, program_id: int, slot: int) -> tuple[Interface, ...]:
    """The guard on every interface; returns them as they are now."""
    interfaces = netlink.list_interfaces()
    for interface in interfaces:
        netlink.ensure_guard(interface.index, program_fd, program_id, slot)
    return interfaces


def undo(changed: SysctlFlag) -> None:
    """Undoes apply_network()."""
    netlink.remove_guards()
    netlink.remove_mark_route()
    sysctls.restore_sysctls(changed)
