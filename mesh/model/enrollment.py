# SPDX-License-Identifier: Apache-2.0
"""Enrollment: the decision that a workload is in the mesh."""

from mesh.model.namespace import Namespace
from mesh.model.workload import DATAPLANE_MODE_LABEL, DataplaneMode, TunnelProtocol, Workload

__all__ = ["FAIL_OPEN_LABEL", "fails_open", "is_enrolled"]

FAIL_OPEN_LABEL = "nodemesh.io/policy-fail-open"


def is_enrolled(workload: Workload, namespace: Namespace | None) -> bool:
    """Whether the workload is in the mesh.

    In order: a host-network workload never is (it has no netns of its own to capture); what the
    source knows as a fact; the workload's label istio.io/dataplane-mode, ``none`` or ``ambient``;
    the same label of its namespace, where only ``ambient`` enrolls. Another value of the label on
    the workload decides nothing, as in Istio.
    """
    if workload.host_network:
        return False
    if workload.tunnel_protocol is not None:
        return workload.tunnel_protocol is TunnelProtocol.HBONE
    mode = workload.labels.get(DATAPLANE_MODE_LABEL)
    if mode in (DataplaneMode.AMBIENT, DataplaneMode.NONE):
        return mode == DataplaneMode.AMBIENT
    if namespace is None:
        return False
    return namespace.labels.get(DATAPLANE_MODE_LABEL) == DataplaneMode.AMBIENT


def fails_open(namespace: Namespace | None) -> bool:
    """Whether the pods of a namespace may send and get everything while their policies are unknown.

    By the label ``nodemesh.io/policy-fail-open: "true"`` of the namespace; else they get nothing.
    """
    return namespace is not None and namespace.labels.get(FAIL_OPEN_LABEL) == "true"
