# SPDX-License-Identifier: Apache-2.0
"""What the core reports, in the words of telemetry.

The core counts and reports as one pod of this node sees it: ``workload_id`` is that pod, sent is
what left towards the tunnel (outbound) or towards the application (inbound).
"""

from typing import TYPE_CHECKING, Any

from agent.telemetry.connections import ConnectionRecord, Path
from agent.telemetry.directory import Directory
from agent.telemetry.labels import reason_text
from agent.telemetry.traffic import TrafficTotals

if TYPE_CHECKING:
    from agent.tunnel._hbone import Connection, Counter, Event

__all__ = ["closed_record", "open_record", "traffic_totals"]


def closed_record(event: "Event", directory: Directory, *, now: float) -> ConnectionRecord:
    """A ``connection_closed`` event as a record."""
    return ConnectionRecord(
        **_sides(dict(event), directory),
        hbone_address=event.get("hbone_address", ""),
        duration_us=event.get("duration_us", 0),
        ended_at=now,
        reason=reason_text(event.get("reason", 0)),
        detail=event.get("detail", ""),
        trace_id=event.get("trace_id", ""),
    )


def open_record(connection: "Connection", directory: Directory) -> ConnectionRecord:
    """An open stream as a record."""
    return ConnectionRecord(
        **_sides(dict(connection), directory), duration_us=connection["age_us"], open=True
    )


def _sides(values: dict[str, Any], directory: Directory) -> dict[str, Any]:
    outbound = values.get("direction", "outbound") == "outbound"
    own = directory.workload(values.get("workload_id", 0))
    peer = directory.workload(values.get("peer_workload_id", 0))
    source, destination = (own, peer) if outbound else (peer, own)
    source_identity = values.get("source_identity", "")
    return {
        "path": Path.TUNNEL,
        "direction": "outbound" if outbound else "inbound",
        "source": values.get("source", ""),
        "destination": values.get("destination", ""),
        "original_destination": values.get("original_destination", ""),
        "source_workload": source.text if source else "",
        "destination_workload": destination.text if destination else "",
        "service": directory.service_hostname(values.get("service_id", 0)),
        "source_identity": source_identity,
        "destination_identity": values.get("destination_identity", ""),
        "attested": bool(source_identity),
        "bytes_sent": values.get("bytes_sent", 0),
        "bytes_received": values.get("bytes_received", 0),
        "connect_us": values.get("connect_us", 0),
    }


def traffic_totals(counter: "Counter") -> TrafficTotals:
    """Totals of the core; the client's bytes are sent at its side, received at the other."""
    outbound = counter["direction"] == "outbound"
    own, peer = counter["workload_id"], counter["peer_workload_id"]
    sent, received = counter["bytes_sent"], counter["bytes_received"]
    return TrafficTotals(
        reporter="source" if outbound else "destination",
        source_id=own if outbound else peer,
        destination_id=peer if outbound else own,
        service_id=counter["service_id"],
        secure=counter["secure"],
        opened=counter["opened"],
        closed=counter["closed"],
        client_bytes=sent if outbound else received,
        server_bytes=received if outbound else sent,
        failed=counter["failed"],
    )
