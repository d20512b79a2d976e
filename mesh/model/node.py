# SPDX-License-Identifier: Apache-2.0
"""A node: a machine that runs one agent."""

from dataclasses import dataclass

from mesh.model.address import IpAddress
from mesh.model.names import check_dns_subdomain

__all__ = ["Node"]


@dataclass(frozen=True, slots=True)
class Node:
    """One node. ``cgroup`` holds its pods: absolute, or relative to the cgroup2 mount."""

    name: str
    addresses: tuple[IpAddress, ...] = ()
    cgroup: str | None = None

    def __post_init__(self) -> None:
        check_dns_subdomain(self.name, "node name")
