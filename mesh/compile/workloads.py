# SPDX-License-Identifier: Apache-2.0
"""The rows of one workload: its addresses, its peer row, and on its own node its enrollment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from mesh.compile.node import NodeConfig, SameNode
from mesh.model.address import IpAddress
from mesh.model.enrollment import fails_open, is_enrolled
from mesh.model.identity import Identity
from mesh.model.namespace import Namespace
from mesh.model.workload import Workload, WorkloadUid
from mesh.tables import EnrollmentRow, PeerRow, Route, SvidRow, WorkloadId, WorkloadRow

__all__ = ["WorkloadGroup", "WorkloadInputs", "compile_workload", "usable_addresses"]

NOTHING_LOST: Final[frozenset[IpAddress]] = frozenset()

_NO_ENROLLMENTS: Final[Mapping[WorkloadUid, EnrollmentRow]] = {}
_NO_SVIDS: Final[Mapping[Identity, SvidRow]] = {}
"""Of the thousands on other nodes: one for all."""

_NOT_CAPTURABLE: Final = "is enrolled on this node but has no netns; it cannot be captured"


class WorkloadInputs(NamedTuple):
    """Everything that the rows of a workload depend on, besides the node."""

    workload: Workload
    namespace: Namespace | None
    lost: frozenset[IpAddress]
    workload_id: WorkloadId


@dataclass(frozen=True, slots=True)
class WorkloadGroup:
    """The rows that one workload brings."""

    workloads: Mapping[IpAddress, WorkloadRow]
    peer: PeerRow
    enrollments: Mapping[WorkloadUid, EnrollmentRow]
    svids: Mapping[Identity, SvidRow]
    warnings: tuple[str, ...]


def compile_workload(inputs: WorkloadInputs, node: NodeConfig) -> WorkloadGroup:
    """Make the rows of one workload as ``node`` must see it."""
    workload, namespace, lost, workload_id = inputs
    enrolled = is_enrolled(workload, namespace)
    local = workload.node == node.name
    own = usable_addresses(workload, lost)
    reachable = () if workload.host_network else own  # a node's address is nobody's row
    route = _route(enrolled=enrolled, local=local, same_node=node.same_node)
    rows = {
        address: WorkloadRow(
            key=address, workload_id=workload_id, route=route, enrolled=enrolled, local=local
        )
        for address in reachable
    }
    enrollments: Mapping[WorkloadUid, EnrollmentRow] = _NO_ENROLLMENTS
    svids: Mapping[Identity, SvidRow] = _NO_SVIDS
    warnings: tuple[str, ...] = ()
    if enrolled and local:
        svids = {workload.identity: SvidRow(workload.identity)}
        if workload.netns is not None:
            row = EnrollmentRow(
                key=workload.uid,
                workload_id=workload_id,
                identity=workload.identity,
                netns=workload.netns,
                addresses=own,
                fail_open=fails_open(namespace),
            )
            enrollments = {row.key: row}
        else:
            warnings = (f"workload {workload.namespace}/{workload.name} {_NOT_CAPTURABLE}",)
    return WorkloadGroup(
        workloads=rows,
        peer=_peer(inputs, own, enrolled=enrolled),
        enrollments=enrollments,
        svids=svids,
        warnings=warnings,
    )


def usable_addresses(workload: Workload, lost: frozenset[IpAddress]) -> tuple[IpAddress, ...]:
    """The workload's addresses without those that went to another claimant."""
    if not lost:
        return workload.addresses
    return tuple(address for address in workload.addresses if address not in lost)


def _route(*, enrolled: bool, local: bool, same_node: SameNode) -> Route:
    if not enrolled:
        return Route.DIRECT
    if local and same_node is SameNode.DIRECT:
        return Route.DIRECT
    return Route.TUNNEL


def _peer(inputs: WorkloadInputs, own: tuple[IpAddress, ...], *, enrolled: bool) -> PeerRow:
    workload = inputs.workload
    return PeerRow(
        key=inputs.workload_id,
        uid=workload.uid,
        name=workload.name,
        namespace=workload.namespace,
        identity=workload.identity,
        node=workload.node,
        addresses=own,
        enrolled=enrolled,
        canonical_name=workload.canonical_name,
        canonical_revision=workload.canonical_revision,
        app=workload.labels.get("app") or workload.canonical_name,
        version=workload.labels.get("version") or workload.canonical_revision,
        cluster=workload.cluster,
    )
