# SPDX-License-Identifier: Apache-2.0
"""What the dataplane knows of a pod of this node: a record for the tunnel and for people."""

from dataclasses import dataclass
from enum import StrEnum, unique

from agent.dataplane.netlink import MARK
from mesh.model.address import IpAddress
from mesh.model.identity import Identity
from mesh.model.workload import WorkloadUid
from mesh.tables import EnrollmentRow, WorkloadId

__all__ = ["EnrolledPod", "EnrollmentState"]


@unique
class EnrollmentState(StrEnum):
    """How far a pod's enrolment has come."""

    CAPTURED = "captured"
    """Its connections go through the mesh."""

    PORT_CONFLICT = "port-conflict"
    """An app of the pod holds port 15008: not enrolled; tried again from time to time."""

    NETNS_GONE = "netns-gone"
    """Its network namespace is not there (yet, or any more); tried again."""

    FAILED = "failed"
    """Something else was in the way, see the detail; tried again."""

    REMOVED = "removed"
    """No longer in the mesh; everything that was made for it is undone."""


@dataclass(frozen=True, slots=True)
class EnrolledPod:
    """One pod and its sockets. The dataplane owns every fd: others duplicate what they keep."""

    row: EnrollmentRow
    state: EnrollmentState
    detail: str = ""
    """Why it is not captured, as a sentence."""

    netns_fd: int = -1
    netns_cookie: int = 0
    capture_listeners: tuple[int, ...] = ()
    capture_addresses: tuple[IpAddress, ...] = ()
    """Where the capture listeners are: the pod's addresses, and one of each other interface."""

    inbound_listeners: tuple[int, ...] = ()
    capture_ports: tuple[int, ...] = ()
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
