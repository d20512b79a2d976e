# SPDX-License-Identifier: Apache-2.0
"""Rows: what the sinks must make true on this node. Whole and desired, never deltas.

Every row is frozen and hashable, and names the key it is stored under, so that a sink can read
back what it has, diff against what it should have, and apply the difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, unique
from typing import Final, NewType

from mesh.model.address import IpAddress
from mesh.model.identity import Identity
from mesh.model.network_policy import IpNetwork
from mesh.model.policy import Origin, PolicyName
from mesh.model.service import Protocol
from mesh.model.workload import WorkloadUid

__all__ = [
    "NO_SET",
    "POLICY_SET_RULES",
    "CidrMaskKey",
    "CidrMaskRow",
    "ClassMaskKey",
    "ClassMaskRow",
    "EndpointKey",
    "EndpointRow",
    "EnrollmentRow",
    "FrontendKey",
    "FrontendRow",
    "PeerClass",
    "PeerRow",
    "PolicySetRow",
    "PortMaskKey",
    "PortMaskRow",
    "Route",
    "RuleKey",
    "RuleKind",
    "RuleRow",
    "ServiceId",
    "ServiceRow",
    "SetId",
    "SubjectRow",
    "SvidRow",
    "Tables",
    "WorkloadId",
    "WorkloadRow",
]

WorkloadId = NewType("WorkloadId", int)
"""A number for a workload, unique on this node for as long as its pins live; 0 is never given."""

ServiceId = NewType("ServiceId", int)
"""A number for a service, like WorkloadId; 0 means no service."""

PeerClass = NewType("PeerClass", int)
"""A number for what policies can tell of a peer: trust domain, namespace, service account, the
labels that any policy selects on, the named ports that any rule names. 0: nothing is known."""

SetId = NewType("SetId", int)
"""A number for the rules that judge one direction of some pods; it never means anything else."""

NO_SET: Final = SetId(0)
"""No policy selects the pod in this direction: everything may pass."""

POLICY_SET_RULES: Final = 512
"""Rules of one set at most; a mask has one bit for each. Mirrors POLICY_WORDS in mesh_types.h."""


@unique
class RuleKind(IntEnum):
    """What a rule does when it matches. Mirrors ``enum rule_kind`` in mesh_types.h.

    Rules of one kind fill whole words of 64 bits, kinds in this order, so that the lowest bit set
    is the rule that decides.
    """

    NONE = 0
    STRICT = 1
    """Refuses who has not proven an identity (PeerAuthentication)."""
    DENY = 2
    """Refuses (AuthorizationPolicy)."""
    NETWORK = 3
    """Permits; needed where a NetworkPolicy isolates."""
    ALLOW = 4
    """Permits TCP; needed where an ALLOW AuthorizationPolicy selects."""
    DRY_DENY = 5
    """Would refuse."""
    DRY_ALLOW = 6
    """Would permit."""


@unique
class Route(IntEnum):
    """How the connect hook sends a connection on. Mirrors ``enum route`` in mesh_types.h."""

    DIRECT = 1
    """By the kernel, untouched or load balanced: same node, or a destination outside the mesh."""
    TUNNEL = 2
    """Captured and carried over HBONE: an enrolled workload of another node."""
    DENY = 3
    """connect() fails at once."""


@dataclass(frozen=True, slots=True, order=True)
class FrontendKey:
    """What an application dials to reach a service: VIP, port, protocol."""

    address: IpAddress
    port: int
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class FrontendRow:
    """A service port and the number of endpoints behind it. ``endpoint_count`` 0 refuses.

    ``frontend_id`` numbers (service, port, address family); endpoints 0..endpoint_count-1 are
    stored under it. A key with port 0 says that the address is a VIP: dialling a port of it that
    has no row of its own is refused (NO_SERVICE_PORT), never sent to the wire.
    """

    key: FrontendKey
    frontend_id: int
    service_id: ServiceId
    endpoint_count: int


@dataclass(frozen=True, slots=True, order=True)
class EndpointKey:
    """The place of an endpoint in its frontend, counted from 0 without holes."""

    frontend_id: int
    index: int


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """One address and port behind a frontend; ``workload_id`` 0 where no workload is known."""

    key: EndpointKey
    address: IpAddress
    port: int
    workload_id: WorkloadId


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    """An address of the mesh and how to reach it from an enrolled pod of this node.

    ``enrolled`` says that the workload is in the mesh; ``local`` that it is on this node. A local
    enrolled workload with route DIRECT is reached with a SYN nonce.
    """

    key: IpAddress
    workload_id: WorkloadId
    route: Route
    enrolled: bool
    local: bool


@dataclass(frozen=True, slots=True)
class EnrollmentRow:
    """A pod of this node that is captured. The dataplane chooses its capture ports."""

    key: WorkloadUid
    workload_id: WorkloadId
    identity: Identity
    netns: str
    """Path of the pod's network namespace, such as /var/run/netns/x or /proc/123/ns/net."""
    addresses: tuple[IpAddress, ...]
    fail_open: bool = False
    """While the pod's policies are not known, everything may pass instead of nothing."""


@dataclass(frozen=True, slots=True)
class PeerRow:
    """A workload as the tunnel and telemetry see it: whom to expect at its addresses."""

    key: WorkloadId
    uid: WorkloadUid
    name: str
    namespace: str
    identity: Identity
    node: str
    addresses: tuple[IpAddress, ...]
    enrolled: bool
    canonical_name: str
    canonical_revision: str
    app: str
    version: str
    cluster: str


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A service as telemetry sees it."""

    key: ServiceId
    namespace: str
    name: str
    hostname: str


@dataclass(frozen=True, slots=True)
class SvidRow:
    """An identity for which this node needs a certificate."""

    key: Identity


@dataclass(frozen=True, slots=True)
class SubjectRow:
    """A workload to the policy: its class as a peer, and on its own node the sets that judge it.

    ``judged`` is false where the sets mean nothing: a workload of another node, or one whose
    policies are not known yet. The rows of one generation come into force together.
    """

    key: WorkloadId
    peer_class: PeerClass
    judged: bool = False
    ingress: SetId = NO_SET
    egress: SetId = NO_SET


@dataclass(frozen=True, slots=True)
class PolicySetRow:
    """The head of a set. ``kinds`` has one entry for each word of 64 rules."""

    key: SetId
    kinds: tuple[RuleKind, ...]
    isolated: bool
    """A NetworkPolicy selects: nothing passes without a NETWORK rule."""
    allow_needed: bool
    """An ALLOW AuthorizationPolicy selects: no TCP passes without an ALLOW rule."""
    dry_allow_needed: bool


@dataclass(frozen=True, slots=True, order=True)
class ClassMaskKey:
    """A set and a class of peers; class 0 speaks for every class that has no row of its own."""

    set_id: SetId
    peer_class: PeerClass


@dataclass(frozen=True, slots=True)
class ClassMaskRow:
    """Which rules' peers include a class: when it is only claimed, and when it is attested."""

    key: ClassMaskKey
    claimed: int
    """Bit n: rule n."""
    attested: int


@dataclass(frozen=True, slots=True)
class CidrMaskKey:
    """A set and a prefix; the longest that holds an address speaks for it."""

    set_id: SetId
    network: IpNetwork


@dataclass(frozen=True, slots=True)
class CidrMaskRow:
    """Which rules' address blocks include the addresses of a prefix; each set has both /0."""

    key: CidrMaskKey
    mask: int


@dataclass(frozen=True, slots=True)
class PortMaskKey:
    """A set, a protocol and a prefix of ports; the longest speaks. ``protocol`` None: any other."""

    set_id: SetId
    protocol: int | None
    port: int
    prefix: int
    """Leading bits of the port that count, 0 to 16."""


@dataclass(frozen=True, slots=True)
class PortMaskRow:
    """Which rules include the ports of a prefix. Each set has the row of protocol None."""

    key: PortMaskKey
    mask: int


@dataclass(frozen=True, slots=True, order=True)
class RuleKey:
    """A rule as a verdict names it."""

    set_id: SetId
    bit: int


@dataclass(frozen=True, slots=True)
class RuleRow:
    """What a rule is to people. Read by explain, events and metrics; not in the kernel."""

    key: RuleKey
    kind: RuleKind
    policy: PolicyName
    rule: str
    """Where in the policy: ``ingress[0].from[1]``, ``rules[2].from[0]``, ``mtls``."""
    origin: Origin


@dataclass(frozen=True, slots=True)
class Tables:
    """All rows of one node, by key."""

    frontends: Mapping[FrontendKey, FrontendRow] = field(default_factory=dict)
    endpoints: Mapping[EndpointKey, EndpointRow] = field(default_factory=dict)
    workloads: Mapping[IpAddress, WorkloadRow] = field(default_factory=dict)
    enrollments: Mapping[WorkloadUid, EnrollmentRow] = field(default_factory=dict)
    peers: Mapping[WorkloadId, PeerRow] = field(default_factory=dict)
    services: Mapping[ServiceId, ServiceRow] = field(default_factory=dict)
    svids: Mapping[Identity, SvidRow] = field(default_factory=dict)
    subjects: Mapping[WorkloadId, SubjectRow] = field(default_factory=dict)
    policy_sets: Mapping[SetId, PolicySetRow] = field(default_factory=dict)
    class_masks: Mapping[ClassMaskKey, ClassMaskRow] = field(default_factory=dict)
    cidr_masks: Mapping[CidrMaskKey, CidrMaskRow] = field(default_factory=dict)
    port_masks: Mapping[PortMaskKey, PortMaskRow] = field(default_factory=dict)
    rules: Mapping[RuleKey, RuleRow] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    """Sentences for people: what was claimed twice and who got it, what cannot be captured."""
    policy_problem: str = ""
    """Why the policies that are known are not those in force: they do not fit. Empty: they are."""
