# SPDX-License-Identifier: Apache-2.0
"""Rows of Tables as the bytes of the kernel's maps."""

from collections.abc import Mapping

from agent.abi import structs
from agent.abi.codec import address_bytes, encode_address, encode_port
from mesh.tables import EndpointRow, FrontendKey, FrontendRow, Route, Tables, WorkloadId

__all__ = ["MapContent", "endpoints_content", "frontends_content", "workloads_content"]

MapContent = Mapping[bytes, bytes]
"""Key bytes -> value bytes."""


def _frontend_key(key: FrontendKey) -> bytes:
    port = encode_port(key.port)
    return bytes(structs.FrontendKey(encode_address(key.address), port, key.protocol))


def _frontend(row: FrontendRow) -> bytes:
    return bytes(structs.Frontend(row.frontend_id, row.service_id, row.endpoint_count))


def frontends_content(tables: Tables) -> MapContent:
    """The map ``frontends``. The row of a VIP (port 0) stands for every protocol."""
    return {_frontend_key(row.key): _frontend(row) for row in tables.frontends.values()}


def _endpoint(row: EndpointRow) -> bytes:
    return bytes(
        structs.Endpoint(encode_address(row.address), row.workload_id, encode_port(row.port))
    )


def endpoints_content(tables: Tables) -> MapContent:
    """The map ``endpoints``."""
    return {
        bytes(structs.EndpointKey(row.key.frontend_id, row.key.index)): _endpoint(row)
        for row in tables.endpoints.values()
    }


def _workload(workload_id: WorkloadId, route: Route, *, enrolled: bool, local: bool) -> bytes:
    flags = structs.WorkloadFlag.ENROLLED if enrolled else 0
    flags |= structs.WorkloadFlag.LOCAL if local else 0
    return bytes(structs.Workload(workload_id, flags, route))


def workloads_content(tables: Tables) -> MapContent:
    """The map ``workloads``. The addresses of a workload share one value."""
    content: dict[bytes, bytes] = {}
    values: dict[tuple[WorkloadId, Route, bool, bool], bytes] = {}
    for row in tables.workloads.values():
        says = (row.workload_id, row.route, row.enrolled, row.local)
        value = values.get(says)
        if value is None:
            value = values[says] = _workload(*says[:2], enrolled=row.enrolled, local=row.local)
        content[address_bytes(row.key)] = value
    return content
