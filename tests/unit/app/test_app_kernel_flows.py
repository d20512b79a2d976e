# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells, put together: proof, end, and what happens when a part is lost."""

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from app_rows import Clock, peer, tables

from agent.abi.codec import encode_address, encode_port
from agent.abi.policy import Direction
from agent.abi.structs import Event, EventKind
from agent.dataplane.telemetry import decode_event
from agent.telemetry.connections import ConnectionRecord, Path
from agent.telemetry.directory import Directory
from agent.telemetry.kernel_flows import KernelFlows
from mesh.model.address import IpAddress
from mesh.reasons import Reason

CLIENT, SERVER, VIP = (ip_address(f"10.{text}") for text in ("0.0.1", "0.0.2", "96.0.10"))


@dataclass(frozen=True)
class Told:
    kind: EventKind
    source: IpAddress | None = CLIENT
    source_port: int = 4000
    destination: IpAddress | None = SERVER
    destination_port: int = 8080
    original: IpAddress | None = VIP
    original_port: int = 80
    source_workload: int = 1
    destination_workload: int = 2
    service_id: int = 7
    reason: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    duration_ns: int = 0
    direction: int = 0

    @classmethod
    def refused(cls, direction: Direction, **facts: Any) -> "Told":
        """By the guard of one end."""
        return cls(EventKind.DROPPED, direction=direction, reason=Reason.POLICY_DENY, **facts)

    def raw(self) -> bytes:
        """The bytes that the kernel would write."""
        ports = ("source_port", "destination_port", "original_port")
        addresses = ("source", "destination", "original")
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values |= {name: encode_port(values[name]) for name in ports}
        values |= {name: encode_address(values[name]) for name in addresses}
        return bytes(Event(protocol=6, **values))


class Flows:
    """The real thing, told of events and asked for records."""

    def __init__(self) -> None:
        clock = Clock()
        directory = Directory(grace_seconds=60, clock=clock)
        directory.update(tables(peer(1, "curl"), peer(2, "web")))
        self.directory = directory
        self._flows = KernelFlows(directory, decode=decode_event, now=clock)

    def observe(self, told: list[Told]) -> list[ConnectionRecord]:
        ended = self._flows.observe(one.raw() for one in told)
        records = [item.make() for item in ended]
        # What is kept beside a record must agree with it.
        for item, record in zip(ended, records, strict=True):
            assert item.path is record.path
            assert item.orderly == record.is_orderly
            assert item.ended_at == record.ended_at
        return records

    def open_records(self) -> list[ConnectionRecord]:
        return [make() for make in self._flows.open_flows()]


def flows() -> Flows:
    return Flows()


CLOSED = Told(EventKind.CLOSED, bytes_sent=78, bytes_received=900, duration_ns=5_000_000)


def sides(records: list[ConnectionRecord]) -> dict[str, ConnectionRecord]:
    return {record.direction: record for record in records}


def test_a_connection_is_proven_open_and_ended_at_both_sides() -> None:
    followed = flows()
    assert (
        followed.observe([Told(EventKind.ATTESTED), Told(EventKind.CONNECTED, duration_ns=80_000)])
        == []
    )
    opened = sides(followed.open_records())
    assert all(record.open and record.attested for record in opened.values())
    assert opened["outbound"].connect_us == 80
    assert opened["outbound"].source_workload == "shop/curl"
    assert opened["inbound"].original_destination == "10.96.0.10:80"
    ended = sides(followed.observe([CLOSED]))
    assert followed.open_records() == []
    out, into = ended["outbound"], ended["inbound"]
    assert not out.open
    assert out.attested
    assert (out.connect_us, out.duration_us) == (80, 5000)
    assert (out.bytes_sent, out.bytes_received) == (78, 900)
    assert (into.bytes_sent, into.bytes_received) == (900, 78)
    assert into.path is Path.KERNEL
    assert into.attested
    assert into.source_identity == "spiffe://cluster.local/ns/shop/sa/curl"
    assert into.destination_identity == "spiffe://cluster.local/ns/shop/sa/web"


def test_order_of_proof_and_connect_does_not_matter() -> None:
    followed = flows()
    followed.observe([Told(EventKind.CONNECTED), Told(EventKind.ATTESTED)])
    assert sides(followed.open_records())["outbound"].attested


def test_without_proof_or_with_another_ones_proof_it_is_only_claimed() -> None:
    followed = flows()
    followed.observe([Told(EventKind.CONNECTED)])
    assert not sides(followed.open_records())["outbound"].attested
    followed = flows()
    followed.observe([Told(EventKind.ATTESTED, source_workload=2), Told(EventKind.CONNECTED)])
    assert not sides(followed.open_records())["outbound"].attested
    assert not sides(followed.observe([CLOSED]))["outbound"].attested
    followed = flows()
    followed.observe([Told(EventKind.ATTESTED, source_port=4001), Told(EventKind.CONNECTED)])
    assert not sides(followed.open_records())["outbound"].attested


def test_a_pod_that_calls_itself_needs_no_nonce() -> None:
    followed = flows()
    followed.observe([Told(EventKind.CONNECTED, destination_workload=1)])
    ended = sides(followed.observe([replace(CLOSED, destination_workload=1)]))
    assert ended["inbound"].attested
    assert ended["inbound"].source_identity == ended["inbound"].destination_identity != ""
    followed.observe([Told(EventKind.CONNECTED, source_workload=0, destination_workload=0)])
    assert "inbound" not in sides(followed.open_records())


def test_a_known_workload_outside_the_mesh_is_passed_through() -> None:
    followed = flows()
    followed.directory.update(tables(peer(1, "curl"), replace(peer(2, "old"), enrolled=False)))
    followed.observe([Told(EventKind.CONNECTED)])
    assert [record.path for record in followed.open_records()] == [Path.PASSTHROUGH]
    assert [record.path for record in followed.observe([CLOSED])] == [Path.PASSTHROUGH]


def test_a_lost_event_costs_a_detail_not_the_record() -> None:
    (record,) = flows().observe([CLOSED])
    assert record.bytes_sent == 78
    assert not record.attested


def test_what_cannot_be_followed_is_recorded_at_once() -> None:
    outside = ip_address("fd00::9")
    passed, denied, dropped = flows().observe(
        [
            Told(EventKind.PASSTHROUGH, destination=outside, destination_workload=0),
            Told(EventKind.DENIED, reason=Reason.NO_ENDPOINT, source=None),
            Told.refused(Direction.INGRESS),
        ]
    )
    assert passed.path is Path.PASSTHROUGH
    assert passed.destination == "[fd00::9]:8080"
    assert denied.reason == "no-endpoint"
    assert denied.source == ""
    assert dropped.direction == "inbound"


def test_who_refused_says_the_direction() -> None:
    kept = flows()
    told = [
        Told.refused(Direction.EGRESS),
        Told(EventKind.DENIED, direction=Direction.EGRESS, reason=Reason.NETWORK_POLICY),
        Told.refused(Direction.INGRESS),
    ]
    directions = [record.direction for record in kept.observe(told)]
    assert directions == ["outbound", "outbound", "inbound"]
