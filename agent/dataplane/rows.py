# SPDX-License-Identifier: Apache-2.0
"""Rows of Tables as the bytes of the kernel's maps."""

from collections.abc import Iterable, Mapping

from agent.abi import structs
from agent.abi.codec import encode_address, encode_port
from mesh.tables import EndpointRow, FrontendKey, FrontendRow, Tables, WorkloadRow

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


def _workload(row: WorkloadRow) -> bytes:
    flags = structs.WorkloadFlag.ENROLLED if row.enrolled else 0
    flags |= structs.WorkloadFlag.LOCAL if row.local else 0
    return bytes(structs.Workload(row.workload_id, flags, row.route))


def workloads_content(tables: Tables) -> MapContent:
    """The map ``workloads``."""
    rows: Iterable[WorkloadRow] = tables.workloads.values()
    return {bytes(encode_address(row.key)): _workload(row) for row in rows}
