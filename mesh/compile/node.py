# SPDX-License-Identifier: Apache-2.0
"""For which node rows are compiled, and by which of its settings."""

from dataclasses import dataclass
from enum import StrEnum, unique

__all__ = ["DEFAULT_ROOT_NAMESPACE", "NodeConfig", "SameNode"]

DEFAULT_ROOT_NAMESPACE = "istio-system"


@unique
class SameNode(StrEnum):
    """How two enrolled workloads of one node reach each other."""

    DIRECT = "direct"
    """Through the kernel alone; a nonce in the SYN proves who opened the connection."""
    TUNNEL = "tunnel"
    """Through the tunnel, encrypted, as between nodes."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The node that the rows are for."""

    name: str
    same_node: SameNode = SameNode.DIRECT
    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    """Policies of this namespace hold in every namespace (Istio's root namespace)."""
