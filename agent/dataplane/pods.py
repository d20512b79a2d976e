# SPDX-License-Identifier: Apache-2.0
"""What the dataplane knows of a pod of this node: a record for the tunnel and for people."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique

from agent.abi.structs import CAPTURE_PORTS
from agent.dataplane.netlink import MARK
from agent.dataplane.plan import NO_CAPTURE, CapturePlan
from mesh.model.address import IpAddress
from mesh.model.identity import Identity
from mesh.model.workload import WorkloadUid
from mesh.tables import EnrollmentRow, WorkloadId

__all__ = ["EnrolledPod", "EnrollmentState"]


@unique
class EnrollmentState(StrEnum):
    """How far a pod's enrolment has come."""

    CAPTURED = "captured"
    """Its connections go through the mesh. With a detail: but it could not follow a change."""

    PORT_CONFLICT = "port-conflict"
    """An app of the pod holds port 15008: not enrolled; tried again from time to time."""

    NETNS_GONE = "netns-gone"
    """Its network namespace is not there (yet, or any more); tried again."""

    FAILED = "failed"
    """Something else was in the way, see the detail; tried again.

    A pod that an earlier agent had enrolled stays captured in the kernel: its connections are
    refused, not let through in the clear.
    """

    REMOVED = "removed"
    """No longer in the mesh; everything that was made for it is undone."""


@dataclass(frozen=True, slots=True)
class EnrolledPod:
    """One pod and its sockets. The dataplane owns every fd: others duplicate what they keep."""

    row: EnrollmentRow
    state: EnrollmentState
    detail: str = ""
    """Why it is not captured, or not as it should be, as a sentence."""

    netns_fd: int = -1
    netns_cookie: int = 0
    capture_listeners: tuple[int, ...] = ()
    capture_addresses: tuple[IpAddress, ...] = ()
    """Where the capture listeners are, in their order: all ports of one, then of the next."""

    inbound_listeners: tuple[int, ...] = ()
    capture_ports: tuple[int, ...] = ()
    plan: CapturePlan = NO_CAPTURE
    """Where captured connections are sent."""

    slot: int = 0
    """The pod's number in the guard's filters."""

    mark: int = MARK

    @property
    def uid(self) -> WorkloadUid:
        """The workload's stable key."""
        return self.row.key

    @property
    def workload_id(self) -> WorkloadId:
        """The workload's number on this node."""
        return self.row.workload_id

    @property
    def identity(self) -> Identity:
        """What the pod proves itself to be."""
        return self.row.identity

    @property
    def addresses(self) -> tuple[IpAddress, ...]:
        """The pod's own addresses."""
        return self.row.addresses

    @property
    def is_captured(self) -> bool:
        """Its sockets are usable."""
        return self.state is EnrollmentState.CAPTURED

    def capture_at(self) -> Mapping[IpAddress, tuple[int, ...]]:
        """The capture listeners by address."""
        fds, count = self.capture_listeners, CAPTURE_PORTS
        return {
            address: fds[index * count : (index + 1) * count]
            for index, address in enumerate(self.capture_addresses)
        }

    def inbound_at(self) -> Mapping[IpAddress, int]:
        """The inbound listeners by address."""
        return dict(zip(self.addresses, self.inbound_listeners, strict=True))
