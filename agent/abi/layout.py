# SPDX-License-Identifier: Apache-2.0
"""Which mirror belongs to which C struct, and the probe that holds them equal.

The probe is a C program for the host's compiler: it prints size and offsets of every struct as the
compiler of the C side lays them out. A mirrored struct without a check drifts.
"""

import ctypes
from collections.abc import Mapping

from agent.abi import policy, structs
from mesh.tables import RuleKind

__all__ = ["MIRRORS", "layout_of", "parse_probe", "probe_source"]

MIRRORS: Mapping[str, type[ctypes.Structure]] = {
    "flow_key": structs.FlowKey,
    "flow_record": structs.FlowRecord,
    "frontend_key": structs.FrontendKey,
    "frontend": structs.Frontend,
    "endpoint_key": structs.EndpointKey,
    "endpoint": structs.Endpoint,
    "workload": structs.Workload,
    "enrollment": structs.Enrollment,
    "device_capture_key": structs.DeviceCaptureKey,
    "guarded_pod": structs.GuardedPod,
    "pod_address_key": structs.PodAddressKey,
    "config": structs.Config,
    "nonce_secret": structs.NonceSecret,
    "socket_state": structs.SocketState,
    "udp_peer": structs.UdpPeer,
    "udp_state": structs.UdpState,
    "nonce_record": structs.NonceRecord,
    "nonce_quota": structs.NonceQuota,
    "traffic_key": structs.TrafficKey,
    "traffic": structs.Traffic,
    "event": structs.Event,
    "subject_key": policy.SubjectKey,
    "subject": policy.Subject,
    "policy_set": policy.PolicySet,
    "rule_mask": policy.RuleMask,
    "class_mask_key": policy.ClassMaskKey,
    "class_mask": policy.ClassMask,
    "cidr_mask_key": policy.CidrMaskKey,
    "port_mask_key": policy.PortMaskKey,
    "verdict_query": policy.VerdictQuery,
    "verdict": policy.Verdict,
    "open_connection": policy.OpenConnection,
    "judged": policy.Judged,
    "peering_key": policy.PeeringKey,
    "peering": policy.Peering,
}
"""C struct -> mirror: the one table."""

_CONSTANTS: Mapping[str, int] = {
    "MESH_CAPTURE_PORTS": structs.CAPTURE_PORTS,
    "UDP_PEERS": structs.UDP_PEERS,
    "FLOW_POISONED": structs.FlowFlag.POISONED,
    "ENROLLMENT_FAIL_OPEN": structs.ENROLLMENT_FAIL_OPEN,
    "GUARDED_FAIL_OPEN": structs.GUARDED_FAIL_OPEN,
    "WORKLOAD_ENROLLED": structs.WorkloadFlag.ENROLLED,
    "WORKLOAD_LOCAL": structs.WorkloadFlag.LOCAL,
    **{f"EVENT_{kind.name}": kind.value for kind in structs.EventKind},
    **{f"STATISTIC_{one.name}": one.value for one in structs.Statistic},
    "STATISTIC_COUNT": len(structs.Statistic),
    "POLICY_WORDS": policy.POLICY_WORDS,
    "POLICY_NO_RULE": policy.POLICY_NO_RULE,
    "SUBJECT_JUDGED": policy.SubjectFlag.JUDGED,
    **{f"SET_{one.name}": one.value for one in policy.PolicySetFlag},
    **{f"QUERY_{one.name}": one.value for one in policy.QueryFlag},
    **{f"VERDICT_{one.name}": one.value for one in policy.VerdictFlag},
    **{f"JUDGED_{one.name}": one.value for one in policy.JudgedFlag},
    **{f"DIRECTION_{one.name}": one.value for one in policy.Direction},
    **{f"RULE_{kind.name}": kind.value for kind in RuleKind},
}


def layout_of() -> dict[str, int]:
    """Sizes, offsets and constants as Python has them: "struct", "struct.member", "CONSTANT"."""
    layout: dict[str, int] = {"address": ctypes.sizeof(structs.Address), **_CONSTANTS}
    for name, mirror in MIRRORS.items():
        layout[name] = ctypes.sizeof(mirror)
        for field in mirror._fields_:
            layout[f"{name}.{field[0]}"] = getattr(mirror, field[0]).offset
    return layout


def probe_source() -> str:
    """A C program that prints ``name value`` for every entry of layout_of()."""
    lines = [
        "#include <stddef.h>",
        "#include <stdio.h>",
        '#include "mesh_policy.h"',
        "int main(void)",
        "{",
    ]
    for name in layout_of():
        if name in _CONSTANTS:
            value = name
        elif "." in name:
            value = "offsetof(struct {}, {})".format(*name.split("."))
        else:
            value = f"sizeof(struct {name})"
        lines.append(f'\tprintf("{name} %ld\\n", (long){value});')
    return "\n".join([*lines, "\treturn 0;", "}", ""])


def parse_probe(output: str) -> dict[str, int]:
    """What the compiled probe printed, in the form of layout_of()."""
    pairs = (line.split() for line in output.splitlines())
    return {name: int(value) for name, value in pairs}
