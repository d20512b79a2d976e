# SPDX-License-Identifier: Apache-2.0
"""Which maps and programs there are, and where they are pinned.

::

    <bpffs>/nodemesh/NODE/v2/maps/<name>             survive every program version
                            /programs-<hash>/<name>  one directory per version, made whole
                            /links/<name>            what is attached to the node's cgroup
"""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.abi import policy, structs

__all__ = [
    "BPFFS",
    "LAYOUT_VERSION",
    "MAPS",
    "PROGRAMS",
    "TAIL_CALLS",
    "MapSpec",
    "Pins",
    "ProgramSpec",
]

BPFFS = Path("/sys/fs/bpf")
"""Where bpffs is, or will be mounted."""

LAYOUT_VERSION = "v2"
"""Changes with the layout of any pinned struct; programs may change under one version."""

_HASH, _ARRAY, _PERCPU_HASH, _PERCPU_ARRAY = 1, 2, 5, 6
_LPM_TRIE, _SK_STORAGE, _RINGBUF = 11, 24, 27
_U32, _U64 = ctypes.sizeof(ctypes.c_uint32), ctypes.sizeof(ctypes.c_uint64)
_SOCK_OPS, _SCHED_CLS, _SOCK_ADDR = 13, 3, 18


@dataclass(frozen=True, slots=True)
class MapSpec:
    """What a pinned map must be, in bytes; numbers are those of ``enum bpf_map_type``."""

    type: int
    key_size: int
    value_size: int


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """One program: its pin, its C function, and where it belongs."""

    pin: str
    function: str
    type: int
    attach_type: int
    """``enum bpf_attach_type``; for packet programs -1: they are not attached to a cgroup."""

    everywhere: bool = False
    """Attached to the root of the cgroup tree and not to the pods'."""


def _spec(
    kind: int, key: type[ctypes.Structure] | int, value: type[ctypes.Structure] | int
) -> MapSpec:
    key_size = key if isinstance(key, int) else ctypes.sizeof(key)
    value_size = value if isinstance(value, int) else ctypes.sizeof(value)
    return MapSpec(kind, key_size, value_size)


_ADDRESS = ctypes.sizeof(structs.Address)

MAPS: Mapping[str, MapSpec] = {
    "config": _spec(_ARRAY, _U32, structs.Config),
    "nonce_secrets": _spec(_ARRAY, _U32, structs.NonceSecret),
    "enrollments": _spec(_HASH, _U64, structs.Enrollment),
    "device_captures": _spec(_HASH, structs.DeviceCaptureKey, _ADDRESS),
    "guarded_pods": _spec(_HASH, _U32, structs.GuardedPod),
    "pod_addresses": _spec(_HASH, structs.PodAddressKey, _U32),
    "frontends": _spec(_HASH, structs.FrontendKey, structs.Frontend),
    "endpoints": _spec(_HASH, structs.EndpointKey, structs.Endpoint),
    "workloads": _spec(_HASH, _ADDRESS, structs.Workload),
    "subjects": _spec(_HASH, policy.SubjectKey, policy.Subject),
    "policy_sets": _spec(_HASH, _U32, policy.PolicySet),
    "class_masks": _spec(_HASH, policy.ClassMaskKey, policy.ClassMask),
    "cidr_masks": _spec(_LPM_TRIE, policy.CidrMaskKey, policy.RuleMask),
    "port_masks": _spec(_LPM_TRIE, policy.PortMaskKey, policy.RuleMask),
    "nonces_aged": _spec(_HASH, _U64, _U64),
    "peerings_aged": _spec(_HASH, _U64, _U64),
    "flow_records": _spec(_HASH, structs.FlowKey, structs.FlowRecord),
    "nonces": _spec(_HASH, _U64, structs.NonceRecord),
    "nonce_quotas": _spec(_HASH, _U64, structs.NonceQuota),
    "sockets": _spec(_SK_STORAGE, _U32, structs.SocketState),
    "udp_sockets": _spec(_SK_STORAGE, _U32, structs.UdpState),
    "judged_sockets": _spec(_SK_STORAGE, _U32, policy.Judged),
    "peerings": _spec(_HASH, policy.PeeringKey, policy.Peering),
    "peering_quotas": _spec(_HASH, _U64, structs.NonceQuota),
    "traffic": _spec(_PERCPU_HASH, structs.TrafficKey, structs.Traffic),
    "statistics": _spec(_PERCPU_ARRAY, _U32, _U64),
    "events": _spec(_RINGBUF, 0, 0),
}
"""Name -> what ``bpf/include/mesh_maps.h`` declares."""

PROGRAMS: tuple[ProgramSpec, ...] = (
    ProgramSpec("sockops", "mesh_sockops", _SOCK_OPS, 3),
    ProgramSpec("getpeername4", "mesh_getpeername4", _SOCK_ADDR, 29),
    ProgramSpec("getpeername6", "mesh_getpeername6", _SOCK_ADDR, 30),
    ProgramSpec("recvmsg4", "mesh_recvmsg4", _SOCK_ADDR, 19),
    ProgramSpec("recvmsg6", "mesh_recvmsg6", _SOCK_ADDR, 20),
    ProgramSpec("sendmsg4", "mesh_sendmsg4", _SOCK_ADDR, 14),
    ProgramSpec("sendmsg6", "mesh_sendmsg6", _SOCK_ADDR, 15),
    ProgramSpec("bind4", "mesh_bind4", _SOCK_ADDR, 8),
    ProgramSpec("bind6", "mesh_bind6", _SOCK_ADDR, 9),
    ProgramSpec("connect4", "mesh_connect4", _SOCK_ADDR, 10),
    ProgramSpec("connect6", "mesh_connect6", _SOCK_ADDR, 11),
    ProgramSpec("node_sockops", "mesh_node_sockops", _SOCK_OPS, 3, everywhere=True),
    ProgramSpec("guard_judge", "mesh_guard_judge", _SCHED_CLS, -1),
    ProgramSpec("guard_ingress", "mesh_guard_ingress", _SCHED_CLS, -1),
    ProgramSpec("guard_egress", "mesh_guard_egress", _SCHED_CLS, -1),
    ProgramSpec("seal", "mesh_seal", _SCHED_CLS, -1),
    ProgramSpec("query", "mesh_query", _SCHED_CLS, -1),
    ProgramSpec("recheck", "mesh_recheck", _SCHED_CLS, -1),
)
"""In the order of attachment: what answers for a redirected socket before what redirects it."""


TAIL_CALLS: Mapping[str, int] = {"guard_judge": 0}
"""Pin of a program -> its place in the map ``guard_programs`` (GUARD_JUDGE)."""

VERSION_MAPS = ("guard_programs", "guard_scratches", "error_budgets")
"""Maps that belong to one version of the programs and are pinned beside them."""

HELD_PROGRAMS = ("guard_ingress", "guard_egress", "seal", "query", "recheck")
"""Programs that the agent needs at hand: they hang on interfaces, or are asked."""


@dataclass(frozen=True, slots=True)
class Pins:
    """The pin directory of one node."""

    node: str
    bpffs: Path = BPFFS

    @property
    def node_root(self) -> Path:
        """Everything of this node, in every layout version.

        bpffs reserves dots in names; a node's name (RFC 1123) has no underscore that could clash.
        """
        return self.bpffs / "nodemesh" / self.node.replace(".", "_")

    @property
    def root(self) -> Path:
        """Everything of this node in this layout version."""
        return self.node_root / LAYOUT_VERSION

    @property
    def maps(self) -> Path:
        """The maps, by name."""
        return self.root / "maps"

    @property
    def links(self) -> Path:
        """The attachments, by the name of the program."""
        return self.root / "links"

    def programs(self, fingerprint: str) -> Path:
        """The programs of one version, by name."""
        return self.root / f"programs-{fingerprint}"
