# SPDX-License-Identifier: Apache-2.0
"""Who talked to whom lately: what is counted together, what is kept, what goes."""

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest
from app_rows import Clock, Closed, peer, tables
from test_app_kernel_flows import Told

from agent.abi.policy import Direction
from agent.abi.structs import EventKind
from agent.dataplane.telemetry import decode_event
from agent.telemetry import recent
from agent.telemetry.directory import Directory
from agent.telemetry.kernel_flows import KernelFlows
from agent.telemetry.recent import KEPT_SECONDS, RecentConnections, Seen
from agent.tunnel.records import EndedTunnelled
from mesh.reasons import Reason

CONNECTED = Told(EventKind.CONNECTED)
ATTESTED = Told(EventKind.ATTESTED, direction=Direction.INGRESS)
DENIED = Told(EventKind.DENIED, direction=Direction.EGRESS, reason=Reason.NETWORK_POLICY)
STRANGER = Told.refused(Direction.INGRESS, source_workload=0)


class Watched:
    def __init__(self) -> None:
        self.clock = Clock()
        self.directory = Directory(grace_seconds=60, clock=self.clock)
        self.directory.update(tables(peer(1, "curl"), peer(2, "web")))
        self.flows = KernelFlows(self.directory, decode=decode_event, now=self.clock)
        self.recent = RecentConnections(self.flows, now=self.clock)

    def kernel(self, *told: Told) -> None:
        raw = [one.raw() for one in told]
        self.recent.kernel(raw)
        self.flows.observe(raw)

    def tunnel(self, **values: object) -> None:
        closed = Closed(**values)  # type: ignore[arg-type]
        end = EndedTunnelled(closed, self.directory, self.clock())  # type: ignore[arg-type]
        self.recent.tunnelled([end])

    def seen(self) -> list[Seen]:
        return self.recent.snapshot()([make() for make in self.flows.open_flows()])


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_connections_of_two_workloads_to_one_port_are_counted_together(watched: Watched) -> None:
    for port in (4000, 4001, 4002):
        watched.kernel(replace(CONNECTED, source_port=port), replace(ATTESTED, source_port=port))
    watched.kernel(replace(CONNECTED, destination_port=8081))
    other, seen = sorted(watched.seen(), key=lambda one: one.count)
    assert (other.port, other.count) == (8081, 1)
    assert seen == Seen(
        source_workload="shop/curl",
        source="10.0.0.1",
        destination_workload="shop/web",
        destination="10.0.0.2",
        port=8080,
        protocol=6,
        attested=True,
        count=3,
        refused=0,
        last_seen=watched.clock(),
    )


def test_what_was_refused_is_counted_apart(watched: Watched) -> None:
    watched.kernel(DENIED, DENIED, STRANGER)
    stranger, known = sorted(watched.seen(), key=lambda one: one.count)
    assert (known.count, known.refused, known.attested) == (2, 2, False)
    assert (stranger.source_workload, stranger.source) == ("", "10.0.0.1")
    assert (stranger.destination_workload, stranger.refused) == ("shop/web", 1)


def test_a_connection_that_is_proven_and_then_refused_is_one(watched: Watched) -> None:
    dropped = Told.refused(Direction.INGRESS)
    for port in (4000, 4001):
        watched.kernel(
            replace(ATTESTED, source_port=port),
            replace(dropped, source_port=port),
            Told(EventKind.CLOSED, source_port=port),
        )
    (seen,) = watched.seen()
    assert (seen.count, seen.refused, seen.attested) == (2, 2, True)
    watched.kernel(replace(CONNECTED, source_port=4002), replace(ATTESTED, source_port=4002))
    (seen,) = watched.seen()
    assert (seen.count, seen.refused) == (3, 2)


def test_datagrams_that_the_senders_guard_refuses_are_counted(watched: Watched) -> None:
    watched.kernel(Told.refused(Direction.EGRESS), Told.refused(Direction.EGRESS))
    watched.kernel(Told.refused(Direction.INGRESS))
    (seen,) = watched.seen()
    assert (seen.count, seen.refused) == (2, 2)


def test_a_close_and_a_dry_run_are_nothing_new(watched: Watched) -> None:
    watched.kernel(CONNECTED, Told(EventKind.CLOSED), Told(EventKind.DRY_DENIED))
    assert [one.count for one in watched.seen()] == [1]


def test_the_tunnel_is_counted_when_it_ends_and_while_it_is_open(watched: Watched) -> None:
    watched.tunnel()
    watched.tunnel(source="10.0.0.1:4001", reason=int(Reason.CONNECT_DENIED))
    watched.tunnel(source="10.0.0.1:4002", reason=int(Reason.APP_RESET))
    (seen,) = watched.seen()
    assert (seen.count, seen.refused, seen.attested, seen.port) == (3, 1, True, 8080)
    end = EndedTunnelled(Closed(), watched.directory, 0.0)  # type: ignore[arg-type]
    opened = replace(end.make(), open=True, reason="")
    (seen,) = watched.recent.snapshot()([opened])
    assert seen.count == 4


def test_an_open_connection_is_seen_now_however_old_it_is(watched: Watched) -> None:
    watched.kernel(CONNECTED)
    watched.clock.now += 2 * KEPT_SECONDS
    (seen,) = watched.seen()
    assert (seen.count, seen.last_seen) == (1, watched.clock())
    watched.kernel(Told(EventKind.CLOSED))
    assert watched.seen() == []


def test_an_hour_is_enough(watched: Watched) -> None:
    watched.kernel(DENIED)
    watched.clock.now += KEPT_SECONDS - 1
    watched.kernel(STRANGER)
    assert len(watched.seen()) == 2
    watched.clock.now += 2
    assert [one.source_workload for one in watched.seen()] == [""]


def test_strangers_push_out_strangers_only_and_the_oldest_first(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "_KEPT", 3)
    monkeypatch.setattr(recent, "_KEPT_STRANGERS", 2)
    watched.kernel(DENIED)
    start = int(IPv4Address("192.0.2.0"))
    watched.kernel(*(replace(STRANGER, source=IPv4Address(start + n)) for n in range(50)))
    names = [one.source for one in watched.seen() if not one.source_workload]
    assert sorted(names) == ["192.0.2.48", "192.0.2.49"]
    assert len(watched.seen()) == 3
    for port in (1, 2, 3):
        watched.clock.now += 1
        watched.kernel(replace(DENIED, destination_port=port))
    known = [one.port for one in watched.seen() if one.source_workload]
    assert sorted(known) == [1, 2, 3]


def test_both_families_are_told_apart(watched: Watched) -> None:
    six = replace(DENIED, destination=ip_address("fd00::2"))
    watched.kernel(DENIED, six)
    assert {one.destination for one in watched.seen()} == {"10.0.0.2", "fd00::2"}
