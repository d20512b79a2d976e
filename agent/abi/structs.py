# SPDX-License-Identifier: Apache-2.0
"""ctypes mirrors of ``bpf/include/mesh_types.h``: same names in CamelCase, same members.

Members typed as :class:`BigEndianPort` hold network order; assign and read them through
``agent.abi.codec``. Everything else is host order. ``layout.MIRRORS`` holds them to the C side.
"""

# ctypes reads _fields_ once, when the class is made; typeshed calls it a mutable attribute.
# mypy: disable-error-code="mutable-override"

import ctypes
from enum import IntEnum, IntFlag, unique

__all__ = [
    "CAPTURE_PORTS",
    "ENROLLMENT_FAIL_OPEN",
    "GUARDED_FAIL_OPEN",
    "UDP_PEERS",
    "Address",
    "BigEndianPort",
    "CapturePorts",
    "Config",
    "DeviceCaptureKey",
    "Endpoint",
    "EndpointKey",
    "Enrollment",
    "Event",
    "EventKind",
    "FlowFlag",
    "FlowKey",
    "FlowRecord",
    "Frontend",
    "FrontendKey",
    "GuardedPod",
    "NonceQuota",
    "NonceRecord",
    "NonceSecret",
    "PodAddressKey",
    "SocketState",
    "Statistic",
    "Traffic",
    "TrafficKey",
    "UdpPeer",
    "UdpState",
    "Workload",
    "WorkloadFlag",
]

CAPTURE_PORTS = 4
"""MESH_CAPTURE_PORTS: how many capture ports a pod has; more ports, more connections per pod."""

UDP_PEERS = 8
"""UDP_PEERS: how many VIPs one unconnected UDP socket can talk to at a time."""

Address = ctypes.c_uint8 * 16
"""``struct address``: network order, IPv4 as ::ffff:a.b.c.d."""

BigEndianPort = ctypes.c_uint16

CapturePorts = BigEndianPort * CAPTURE_PORTS


ENROLLMENT_FAIL_OPEN = 1
"""ENROLLMENT_FAIL_OPEN, in ``Enrollment.flags``."""

GUARDED_FAIL_OPEN = 1 << 31
"""GUARDED_FAIL_OPEN, in ``GuardedPod.flags`` beside the agent's notes."""


class FlowFlag(IntFlag):
    """``FLOW_*``."""

    POISONED = 1


class WorkloadFlag(IntFlag):
    """``WORKLOAD_*``."""

    ENROLLED = 1
    LOCAL = 2


@unique
class EventKind(IntEnum):
    """``enum event_kind``."""

    CONNECTED = 1
    PASSTHROUGH = 2
    DENIED = 3
    ATTESTED = 4
    CLOSED = 5
    DROPPED = 6
    DRY_DENIED = 7


@unique
class Statistic(IntEnum):
    """``enum statistic``: the indexes of the map ``statistics``."""

    EVENTS_LOST = 0
    TRAFFIC_LOST = 1
    RECORDS_POISONED = 2
    RECORDS_LOST = 3
    NONCES_MADE = 4
    NONCES_CONSUMED = 5
    NONCES_SHORT = 6
    NONCES_REFUSED = 7
    NONCES_UNKNOWN = 8
    STATE_LOST = 9
    CAPTURE_PORT_DROPS = 10
    PEERINGS_REFUSED = 11
    SOCKETLESS = 12
    NODE_ATTESTED = 13
    SEALED = 14
    DRY_DENIED = 15


class FlowKey(ctypes.Structure):
    """``struct flow_key``."""

    _fields_ = (
        ("netns_cookie", ctypes.c_uint64),
        ("source", Address),
        ("source_port", BigEndianPort),
        ("capture_port", BigEndianPort),
        ("family", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
    )


class FlowRecord(ctypes.Structure):
    """``struct flow_record``."""

    _fields_ = (
        ("original", Address),
        ("upstream", Address),
        ("original_port", BigEndianPort),
        ("upstream_port", BigEndianPort),
        ("source_workload", ctypes.c_uint32),
        ("upstream_workload", ctypes.c_uint32),
        ("service_id", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("created_ns", ctypes.c_uint64),
    )


class FrontendKey(ctypes.Structure):
    """``struct frontend_key``."""

    _fields_ = (
        ("address", Address),
        ("port", BigEndianPort),
        ("protocol", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
    )


class Frontend(ctypes.Structure):
    """``struct frontend``."""

    _fields_ = (
        ("frontend_id", ctypes.c_uint32),
        ("service_id", ctypes.c_uint32),
        ("endpoint_count", ctypes.c_uint32),
    )


class EndpointKey(ctypes.Structure):
    """``struct endpoint_key``."""

    _fields_ = (("frontend_id", ctypes.c_uint32), ("index", ctypes.c_uint32))


class Endpoint(ctypes.Structure):
    """``struct endpoint``."""

    _fields_ = (
        ("address", Address),
        ("workload_id", ctypes.c_uint32),
        ("port", BigEndianPort),
        ("pad", ctypes.c_uint8 * 2),
    )


class Workload(ctypes.Structure):
    """``struct workload``."""

    _fields_ = (
        ("workload_id", ctypes.c_uint32),
        ("flags", ctypes.c_uint16),
        ("route", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
    )


class Enrollment(ctypes.Structure):
    """``struct enrollment``."""

    _fields_ = (
        ("workload_id", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("capture4", Address),
        ("capture6", Address),
        ("capture_ports", CapturePorts),
    )


class DeviceCaptureKey(ctypes.Structure):
    """``struct device_capture_key``."""

    _fields_ = (
        ("netns_cookie", ctypes.c_uint64),
        ("ifindex", ctypes.c_uint32),
        ("family", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
    )


class GuardedPod(ctypes.Structure):
    """``struct guarded_pod``."""

    _fields_ = (
        ("netns_cookie", ctypes.c_uint64),
        ("workload_id", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("capture_ports", CapturePorts),
    )


class PodAddressKey(ctypes.Structure):
    """``struct pod_address_key``."""

    _fields_ = (("address", Address), ("slot", ctypes.c_uint32), ("ifindex", ctypes.c_uint32))


class Config(ctypes.Structure):
    """``struct config``."""

    _fields_ = (
        ("agent_cgroup_id", ctypes.c_uint64),
        ("node_netns_cookie", ctypes.c_uint64),
        ("generation", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class SocketState(ctypes.Structure):
    """``struct socket_state``; SK_STORAGE, read here only by size."""

    _fields_ = (
        ("original", Address),
        ("upstream", Address),
        ("original_port", BigEndianPort),
        ("upstream_port", BigEndianPort),
        ("capture_port", BigEndianPort),
        ("route", ctypes.c_uint8),
        ("family", ctypes.c_uint8),
        ("flags", ctypes.c_uint32),
        ("source_workload", ctypes.c_uint32),
        ("destination_workload", ctypes.c_uint32),
        ("service_id", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("netns_cookie", ctypes.c_uint64),
        ("connected_ns", ctypes.c_uint64),
        ("fin_wait_received", ctypes.c_uint64),
    )


class UdpPeer(ctypes.Structure):
    """``struct udp_peer``."""

    _fields_ = (
        ("vip", Address),
        ("endpoint", Address),
        ("vip_port", BigEndianPort),
        ("endpoint_port", BigEndianPort),
        ("frontend_id", ctypes.c_uint32),
        ("index", ctypes.c_uint32),
        ("used", ctypes.c_uint32),
    )


class UdpState(ctypes.Structure):
    """``struct udp_state``; SK_STORAGE, read here only by size."""

    _fields_ = (
        ("peers", UdpPeer * UDP_PEERS),
        ("sequence", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class NonceSecret(ctypes.Structure):
    """``struct nonce_secret``."""

    _fields_ = (("key", ctypes.c_uint64 * 2),)


class NonceRecord(ctypes.Structure):
    """``struct nonce_record``."""

    _fields_ = (
        ("netns_cookie", ctypes.c_uint64),
        ("created_ns", ctypes.c_uint64),
        ("source_workload", ctypes.c_uint32),
        ("destination_workload", ctypes.c_uint32),
        ("service_id", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    )


class NonceQuota(ctypes.Structure):
    """``struct nonce_quota``."""

    _fields_ = (("made", ctypes.c_uint64), ("consumed", ctypes.c_uint64))


class TrafficKey(ctypes.Structure):
    """``struct traffic_key``."""

    _fields_ = (
        ("source_workload", ctypes.c_uint32),
        ("destination_workload", ctypes.c_uint32),
        ("service_id", ctypes.c_uint32),
        ("reason", ctypes.c_uint16),
        ("route", ctypes.c_uint8),
        ("protocol", ctypes.c_uint8),
    )


class Traffic(ctypes.Structure):
    """``struct traffic``; the map holds one per possible CPU."""

    _fields_ = (
        ("opened", ctypes.c_uint64),
        ("closed", ctypes.c_uint64),
        ("failed", ctypes.c_uint64),
        ("attested", ctypes.c_uint64),
        ("bytes_sent", ctypes.c_uint64),
        ("bytes_received", ctypes.c_uint64),
    )


class Event(ctypes.Structure):
    """``struct event``: one record of the ring buffer."""

    _fields_ = (
        ("time_ns", ctypes.c_uint64),
        ("duration_ns", ctypes.c_uint64),
        ("bytes_sent", ctypes.c_uint64),
        ("bytes_received", ctypes.c_uint64),
        ("source", Address),
        ("destination", Address),
        ("original", Address),
        ("source_port", BigEndianPort),
        ("destination_port", BigEndianPort),
        ("original_port", BigEndianPort),
        ("kind", ctypes.c_uint8),
        ("protocol", ctypes.c_uint8),
        ("reason", ctypes.c_uint16),
        ("direction", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
        ("source_workload", ctypes.c_uint32),
        ("destination_workload", ctypes.c_uint32),
        ("service_id", ctypes.c_uint32),
    )
