# SPDX-License-Identifier: Apache-2.0
"""Numbered reasons: why a connection was refused, closed or not captured.

One number, one meaning, for ever: a retired number is never reused. The same numbers stand in
``bpf/include/mesh_reasons.h`` and ``hbone/proto/src/reason.rs``; ``docs/reasons.md`` is generated
from here, and a contract test holds all four together.
"""

from enum import IntEnum, unique

__all__ = ["EXPLANATIONS", "Reason"]


@unique
class Reason(IntEnum):
    """Why a connection ended or was refused. The name in lower-kebab-case is its text form."""

    NONE = 0
    POLICY_DENY = 1
    POLICY_UNKNOWN = 2
    NETWORK_POLICY = 3
    NO_ALLOW_RULE = 4
    NOT_ATTESTED = 5
    HANDSHAKE_UNKNOWN = 6
    PACKET_MALFORMED = 7
    NOT_STAMPED = 8
    SOURCE_FORGED = 9
    NO_FLOW_RECORD = 10
    FLOW_RECORD_POISONED = 11
    UPSTREAM_UNKNOWN = 12
    NO_SVID = 13
    UPSTREAM_CONNECT_FAILED = 14
    UPSTREAM_CONNECT_TIMEOUT = 15
    TLS_HANDSHAKE_FAILED = 16
    PEER_IDENTITY_MISMATCH = 17
    H2_PROTOCOL_ERROR = 18
    CONNECT_DENIED = 19
    CONNECT_UNAVAILABLE = 20
    CONNECT_BAD_REQUEST = 21
    STREAM_RESET = 22
    TUNNEL_LOST = 23
    DRAINING = 24
    IDLE_TIMEOUT = 25
    APP_CONNECT_FAILED = 26
    BAD_AUTHORITY = 27
    UNKNOWN_WORKLOAD = 28
    NOT_CONNECT = 29
    NO_ENDPOINT = 30
    NO_SERVICE_PORT = 31
    CAPTURE_PORT_RESERVED = 32
    CAPTURE_PORT_FROM_OUTSIDE = 33
    APP_RESET = 34
    RESOURCE_LIMIT = 35
    WORKLOAD_REMOVED = 36
    NO_CAPTURE_ADDRESS = 37
    TLS_PROTOCOL_ERROR = 38
    TUNNEL_BYPASSED = 39

    @property
    def text(self) -> str:
        """The stable text form used in logs, metrics and headers, such as ``no-flow-record``."""
        return self.name.lower().replace("_", "-")


EXPLANATIONS: dict[Reason, str] = {
    Reason.NONE: "The connection ended in order.",
    Reason.POLICY_DENY: "A DENY AuthorizationPolicy matches. `nodemesh explain` names its rule.",
    Reason.POLICY_UNKNOWN: "The policies of this workload have not arrived yet, so nothing may "
    "pass (unless its namespace chose to fail open).",
    Reason.NETWORK_POLICY: "NetworkPolicies isolate the pod in this direction, and none of their "
    "rules permits this.",
    Reason.NO_ALLOW_RULE: "ALLOW AuthorizationPolicies select the workload, and none of their "
    "rules matches.",
    Reason.NOT_ATTESTED: "PeerAuthentication STRICT: the peer has proven no identity, neither by a "
    "certificate nor by the kernel of this node.",
    Reason.HANDSHAKE_UNKNOWN: "A packet of a connection, or an ICMP error, whose beginning the "
    "guard has not seen.",
    Reason.PACKET_MALFORMED: "The packet's headers contradict themselves or cannot be followed "
    "(more than 8 IPv6 extension headers, for instance).",
    Reason.NOT_STAMPED: "A packet left the pod without passing its guard: by AF_XDP, by "
    "PACKET_QDISC_BYPASS, or because something in the pod removed the guard.",
    Reason.SOURCE_FORGED: "A packet left the pod with a source address that is not the pod's.",
    Reason.NO_FLOW_RECORD: "A connection reached a capture port but the kernel left no flow "
    "record for it: nothing says where it wanted to go, so it is closed. Likely a process that "
    "dialled the capture port itself.",
    Reason.FLOW_RECORD_POISONED: "Two unread flow records met under one key, so neither can be "
    "trusted to belong to this connection. The client may try again at once.",
    Reason.UPSTREAM_UNKNOWN: "The flow record names a workload that the agent does not know (any "
    "more): it was removed between connect() and accept().",
    Reason.NO_SVID: "The workload's own certificate has not been issued yet, or has expired and "
    "could not be renewed. See `nodemesh certificates`.",
    Reason.UPSTREAM_CONNECT_FAILED: "The peer's HBONE port 15008 refused or could not be reached. "
    "Its agent may be down, or a NetworkPolicy may be blocking port 15008.",
    Reason.UPSTREAM_CONNECT_TIMEOUT: "The peer's HBONE port 15008 did not answer in time. A "
    "NetworkPolicy or firewall may be dropping port 15008.",
    Reason.TLS_HANDSHAKE_FAILED: "The mutual TLS handshake failed: no, expired or foreign "
    "certificate, or no common version (TLS 1.3 is required).",
    Reason.PEER_IDENTITY_MISMATCH: "The peer proved an identity, but not one that the workload at "
    "this address may have.",
    Reason.H2_PROTOCOL_ERROR: "The peer broke HTTP/2 or exceeded a limit; its tunnel was closed.",
    Reason.CONNECT_DENIED: "The far agent answered CONNECT with 401: its policy refuses the "
    "client.",
    Reason.CONNECT_UNAVAILABLE: "The far agent answered CONNECT with 503: the application refused "
    "the connection, or the workload is not (or no longer) there.",
    Reason.CONNECT_BAD_REQUEST: "The far agent answered CONNECT with another status: it did not "
    "accept the request.",
    Reason.STREAM_RESET: "The peer reset the stream.",
    Reason.TUNNEL_LOST: "The tunnel that carried this stream broke.",
    Reason.DRAINING: "The agent is draining and takes no new connections.",
    Reason.IDLE_TIMEOUT: "One side had closed and the other stayed idle beyond the limit.",
    Reason.APP_CONNECT_FAILED: "The application in the pod refused or did not answer the dial.",
    Reason.BAD_AUTHORITY: "The CONNECT authority is malformed or names another address than the "
    "one that was dialled.",
    Reason.UNKNOWN_WORKLOAD: "The CONNECT authority names no workload of this node.",
    Reason.NOT_CONNECT: "A request on the HBONE port used another method than CONNECT.",
    Reason.NO_ENDPOINT: "The service has no healthy endpoint.",
    Reason.NO_SERVICE_PORT: "The service address has no such port.",
    Reason.CAPTURE_PORT_RESERVED: "An application tried to bind a port that the mesh needs in "
    "this pod: a capture port, or 15008 elsewhere than on loopback.",
    Reason.CAPTURE_PORT_FROM_OUTSIDE: "A packet from outside the pod was addressed to a capture "
    "port and was dropped.",
    Reason.APP_RESET: "The application reset its connection.",
    Reason.RESOURCE_LIMIT: "A limit of the agent (file descriptors, memory, streams) was reached.",
    Reason.WORKLOAD_REMOVED: "The workload left the mesh or the node.",
    Reason.NO_CAPTURE_ADDRESS: "The pod has no address of the family that this connection needs, "
    "so it cannot be captured.",
    Reason.TLS_PROTOCOL_ERROR: "The peer broke TLS after the handshake (a record that does not "
    "decrypt, a message that may not come, too many control messages); its tunnel was closed.",
    Reason.TUNNEL_BYPASSED: "A TCP packet for a workload that is reached through the tunnel only, "
    "from something that is no captured socket: a raw socket, a process that the connect hook does "
    "not see, or a socket that was dialled before its destination came into the mesh. It is reset.",
}
