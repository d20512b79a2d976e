# SPDX-License-Identifier: Apache-2.0
"""ctypes mirrors of ``bpf/include/mesh_policy.h``; see ``structs`` for the rules of mirrors."""

# ctypes reads _fields_ once, when the class is made; typeshed calls it a mutable attribute.
# mypy: disable-error-code="mutable-override"

import ctypes
from enum import IntEnum, IntFlag, unique

from agent.abi.structs import Address, BigEndianPort

__all__ = [
    "POLICY_NO_RULE",
    "POLICY_WORDS",
    "CidrMaskKey",
    "ClassMask",
    "ClassMaskKey",
    "Direction",
    "Judged",
    "JudgedFlag",
    "Kinds",
    "OpenConnection",
    "Peering",
    "PeeringKey",
    "PolicySet",
    "PolicySetFlag",
    "PortMaskKey",
    "QueryFlag",
    "RuleMask",
    "Subject",
    "SubjectFlag",
    "SubjectKey",
    "Verdict",
    "VerdictFlag",
    "VerdictQuery",
    "Words",
]

POLICY_WORDS = 8
"""POLICY_WORDS: words of 64 rules in a mask."""

POLICY_NO_RULE = 0xFFFFFFFF
"""POLICY_NO_RULE: no rule decided."""

Words = ctypes.c_uint64 * POLICY_WORDS

Kinds = ctypes.c_uint8 * POLICY_WORDS


class SubjectFlag(IntFlag):
    """``SUBJECT_*``."""

    JUDGED = 1


class PolicySetFlag(IntFlag):
    """``SET_*``."""

    ISOLATED = 1
    ALLOW_NEEDED = 2
    DRY_ALLOW_NEEDED = 4


class QueryFlag(IntFlag):
    """``QUERY_*``."""

    ATTESTED = 1
    NODE = 2
    FAIL_OPEN = 4


class JudgedFlag(IntFlag):
    """``JUDGED_*``."""

    ATTESTED = 1
    NODE = 2
    EXEMPT = 4


class VerdictFlag(IntFlag):
    """``VERDICT_*``."""

    DRY_DENY = 1


@unique
class Direction(IntEnum):
    """``enum direction``."""

    INGRESS = 1
    EGRESS = 2


class SubjectKey(ctypes.Structure):
    """``struct subject_key``."""

    _fields_ = (("workload_id", ctypes.c_uint32), ("buffer", ctypes.c_uint32))


class Subject(ctypes.Structure):
    """``struct subject``."""

    _fields_ = (
        ("peer_class", ctypes.c_uint32),
        ("ingress_set", ctypes.c_uint32),
        ("egress_set", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    )


class PolicySet(ctypes.Structure):
    """``struct policy_set``."""

    _fields_ = (
        ("kinds", Kinds),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class RuleMask(ctypes.Structure):
    """``struct rule_mask``: bit n of word w is rule 64 * w + n."""

    _fields_ = (("words", Words),)


class ClassMaskKey(ctypes.Structure):
    """``struct class_mask_key``."""

    _fields_ = (("set_id", ctypes.c_uint32), ("peer_class", ctypes.c_uint32))


class ClassMask(ctypes.Structure):
    """``struct class_mask``."""

    _fields_ = (("claimed", RuleMask), ("attested", RuleMask))


class CidrMaskKey(ctypes.Structure):
    """``struct cidr_mask_key``."""

    _fields_ = (
        ("prefix_bits", ctypes.c_uint32),
        ("set_id", ctypes.c_uint32),
        ("address", Address),
    )


class PortMaskKey(ctypes.Structure):
    """``struct port_mask_key``."""

    _fields_ = (
        ("prefix_bits", ctypes.c_uint32),
        ("set_id", ctypes.c_uint32),
        ("protocol", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
        ("port", BigEndianPort),
    )


class VerdictQuery(ctypes.Structure):
    """``struct verdict_query``."""

    _fields_ = (
        ("subject", ctypes.c_uint32),
        ("peer", ctypes.c_uint32),
        ("port", BigEndianPort),
        ("protocol", ctypes.c_uint8),
        ("direction", ctypes.c_uint8),
        ("pad", ctypes.c_uint16),
        ("flags", ctypes.c_uint16),
        ("address", Address),
    )


class Verdict(ctypes.Structure):
    """``struct verdict``."""

    _fields_ = (
        ("reason", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("set_id", ctypes.c_uint32),
        ("rule", ctypes.c_uint32),
        ("dry_rule", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("peer_class", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class OpenConnection(ctypes.Structure):
    """``struct open_connection``."""

    _fields_ = (
        ("local", Address),
        ("local_port", BigEndianPort),
        ("remote_port", BigEndianPort),
        ("pad", ctypes.c_uint32),
    )


class Judged(ctypes.Structure):
    """``struct judged``."""

    _fields_ = (
        ("peer", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("direction", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
        ("flags", ctypes.c_uint16),
    )


class PeeringKey(ctypes.Structure):
    """``struct peering_key``."""

    _fields_ = (
        ("netns_cookie", ctypes.c_uint64),
        ("remote", Address),
        ("local", Address),
        ("remote_port", BigEndianPort),
        ("local_port", BigEndianPort),
        ("protocol", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
    )


class Peering(ctypes.Structure):
    """``struct peering``."""

    _fields_ = (("judged", Judged), ("pad", ctypes.c_uint32), ("seen_ns", ctypes.c_uint64))
