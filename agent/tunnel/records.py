# SPDX-License-Identifier: Apache-2.0
"""What the core reports, in the words of telemetry.

The core counts and reports as one pod of this node sees it: ``workload_id`` is that pod, sent is
what left towards the tunnel (outbound) or towards the application (inbound).
"""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from agent.telemetry.connections import ConnectionRecord, Own, Path
from agent.telemetry.directory import Directory
from agent.telemetry.labels import reason_text
from agent.telemetry.traffic import TrafficTotals

if TYPE_CHECKING:
    from agent.tunnel._hbone import ClosedConnection, Connection, Counter

__all__ = ["EndedTunnelled", "closed_record", "open_record", "traffic_totals"]


class EndedTunnelled:
    """A connection of the tunnel that ended. The core keeps its values until somebody asks."""

    __slots__ = ("_closed", "_directory", "ended_at", "orderly", "reason")

    path: Final = Path.TUNNEL

    def __init__(self, closed: "ClosedConnection", directory: Directory, ended_at: float) -> None:
        self._closed = closed
        self._directory = directory
        self.ended_at = ended_at
        self.reason = closed.reason
        self.orderly = not self.reason

    @property
    def is_outbound(self) -> bool:
        """Whether the pod of this node began it."""
        return self._closed.between[0]

    def ends(self) -> tuple[bool, int, int, str, str]:
        """Whether it is outbound, both workload ids (ours first), and source and destination."""
        outbound, own, peer, *_ = self._closed.between
        source, destination, *_ = self._closed.own
        return outbound, own, peer, source, destination

    def make(self) -> ConnectionRecord:
        """Make the record, with the names that the directory has now."""
        return closed_record(self._closed, self._directory, now=self.ended_at)

    def brief(self) -> tuple[Hashable, Own]:
        """See Ended: numbers and identities are common as long as the directory is."""
        common = (self._directory.revision, self._closed.between)
        return common, Own._make(self._closed.own)


def closed_record(
    closed: "ClosedConnection", directory: Directory, *, now: float
) -> ConnectionRecord:
    """A connection that ended as a record."""
    outbound, own, peer, service, source_identity, destination_identity = closed.between
    values = Own._make(closed.own)
    return ConnectionRecord(
        **_ends(directory, outbound=outbound, own=own, peer=peer, service=service),
        source=values.source,
        destination=values.destination,
        original_destination=values.original_destination,
        hbone_address=values.hbone_address,
        source_identity=source_identity,
        destination_identity=destination_identity,
        attested=bool(source_identity),
        bytes_sent=values.bytes_sent,
        bytes_received=values.bytes_received,
        connect_us=values.connect_us,
        duration_us=values.duration_us,
        ended_at=now,
        reason=reason_text(closed.reason),
        detail=closed.detail,
        trace_id=values.trace_id,
    )


def open_record(connection: "Connection", directory: Directory) -> ConnectionRecord:
    """An open stream as a record."""
    return ConnectionRecord(
        **_ends(
            directory,
            outbound=connection["direction"] == "outbound",
            own=connection["workload_id"],
            peer=connection["peer_workload_id"],
            service=connection["service_id"],
        ),
        source=connection["source"],
        destination=connection["destination"],
        original_destination=connection["original_destination"],
        source_identity=connection["source_identity"],
        destination_identity=connection["destination_identity"],
        attested=bool(connection["source_identity"]),
        bytes_sent=connection["bytes_sent"],
        bytes_received=connection["bytes_received"],
        connect_us=connection["connect_us"],
        duration_us=connection["age_us"],
        open=True,
    )


class _Ends(TypedDict):
    path: Path
    direction: Literal["outbound", "inbound"]
    source_workload: str
    destination_workload: str
    service: str


def _ends(directory: Directory, *, outbound: bool, own: int, peer: int, service: int) -> _Ends:
    ours, theirs = directory.workload(own), directory.workload(peer)
    source, destination = (ours, theirs) if outbound else (theirs, ours)
    return {
        "path": Path.TUNNEL,
        "direction": "outbound" if outbound else "inbound",
        "source_workload": source.text if source else "",
        "destination_workload": destination.text if destination else "",
        "service": directory.service_hostname(service),
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
