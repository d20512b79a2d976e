# SPDX-License-Identifier: Apache-2.0
"""Which addresses of a pod take captured connections."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from agent.dataplane.netlink import Interface
from agent.errors import NetlinkError
from mesh.model.address import Family, IpAddress, family_of

__all__ = ["MAX_CAPTURE_DEVICES", "NO_CAPTURE", "CapturePlan", "plan_capture"]

MAX_CAPTURE_DEVICES: Final = 8
"""Interfaces of a pod that sockets may be bound to; on any other, captured connects fail.

Each costs the agent eight listeners, and a pod with NET_ADMIN can make interfaces by the thousand.
"""


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """The capture address of each family, and those of sockets that are bound to a device."""

    capture4: IpAddress | None
    capture6: IpAddress | None
    devices: dict[tuple[int, int], IpAddress] = field(default_factory=dict)
    """(ifindex, family) -> address."""

    @property
    def addresses(self) -> tuple[IpAddress, ...]:
        """Each once."""
        chosen = [self.capture4, self.capture6, *self.devices.values()]
        return tuple(dict.fromkeys(one for one in chosen if one is not None))


NO_CAPTURE: Final = CapturePlan(None, None)
"""Every connection that would be captured fails with EADDRNOTAVAIL."""


def _first(addresses: Iterable[IpAddress], family: Family) -> IpAddress | None:
    return next((one for one in addresses if family_of(one) is family), None)


def plan_capture(
    own: tuple[IpAddress, ...], interfaces: tuple[Interface, ...], *, strict: bool
) -> CapturePlan:
    """The pod's address of each family, and one of each other interface.

    An address that is on no interface takes nothing: a socket pointed at it would leave the pod in
    the clear. ``strict`` raises NetlinkError instead, which names it.
    """
    present = {address for interface in interfaces for address in interface.addresses}
    missing = [str(address) for address in own if address not in present]
    if missing and strict:
        raise NetlinkError(f"No interface of the pod has its address {', '.join(missing)} (yet).")
    devices: dict[tuple[int, int], IpAddress] = {}
    ranked = sorted(interfaces, key=lambda one: not set(own) & set(one.addresses))
    for interface in ranked[:MAX_CAPTURE_DEVICES]:
        usable = [one for one in interface.addresses if not one.is_link_local]
        usable.sort(key=lambda one: one not in own)
        for family in Family:
            address = _first(usable, family)
            if address is not None:
                devices[interface.index, family.value] = address
    there = [address for address in own if address in present]
    return CapturePlan(_first(there, Family.V4), _first(there, Family.V6), devices)
