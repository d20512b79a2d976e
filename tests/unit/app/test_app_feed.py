# SPDX-License-Identifier: Apache-2.0
"""Verdicts on their way to whoever looks on: what is told, what is kept, what is lost."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address

import pytest
from app_rows import Clock, Closed, peer, tables
from test_app_kernel_flows import Told as KernelTold

from agent.abi.policy import Direction
from agent.abi.structs import EventKind
from agent.dataplane.telemetry import decode_event
from agent.telemetry.directory import Directory
from agent.telemetry.feed import Feed, Told, Verdict
from agent.telemetry.kernel_flows import KernelFlows
from agent.tunnel.records import EndedTunnelled
from cli.events import _line, _lost
from mesh.reasons import Reason

DENIED = KernelTold(EventKind.DENIED, reason=Reason.NETWORK_POLICY)
ALLOWED = KernelTold(EventKind.CONNECTED)
ATTESTED = KernelTold(EventKind.ATTESTED, direction=Direction.INGRESS)


@pytest.fixture
def directory() -> Directory:
    made = Directory(grace_seconds=60, clock=Clock())
    made.update(tables(peer(1, "curl"), peer(2, "web")))
    return made


@pytest.fixture
def feed(directory: Directory) -> Feed:
    clock = Clock()
    return Feed(directory, KernelFlows(directory, decode=decode_event, now=clock), now=clock)


async def test_a_refusal_is_told_with_both_ends_and_kept_for_later(feed: Feed) -> None:
    with feed.watch() as watcher:
        feed.kernel([DENIED.raw()])
        (told,) = await watcher.take(1)
    assert told.verdict is Verdict.DENIED
    assert (told.told_by, told.protocol, told.direction) == ("kernel", "TCP", "outbound")
    assert (told.source_workload, told.destination_workload) == ("shop/curl", "shop/web")
    assert told.reason == "network-policy"
    assert feed.recent() == [told]
    assert feed.verdicts == {
        ("kernel", Verdict.DENIED, "outbound", Reason.NETWORK_POLICY): 1,
    }


async def test_what_is_allowed_is_told_to_watchers_only(feed: Feed) -> None:
    feed.kernel([ALLOWED.raw()])
    with feed.watch() as watcher, feed.watch(Verdict.DENIED) as strict:
        feed.kernel([ALLOWED.raw(), ATTESTED.raw(), DENIED.raw()])
        feed.kernel([KernelTold(EventKind.CLOSED).raw()])
        directions = [(one.verdict, one.direction) for one in await watcher.take(1)]
        assert [one.verdict for one in await strict.take(1)] == [Verdict.DENIED]
    assert directions == [
        (Verdict.ALLOWED, "outbound"),
        (Verdict.ALLOWED, "inbound"),
        (Verdict.DENIED, "outbound"),
    ]
    assert [one.verdict for one in feed.recent()] == [Verdict.DENIED]
    assert feed.verdicts["kernel", Verdict.ALLOWED, "outbound", 0] == 2, "also unwatched"
    assert feed.verdicts["kernel", Verdict.ALLOWED, "inbound", 0] == 1


async def test_dry_run_is_neither_allowed_nor_denied(feed: Feed) -> None:
    feed.kernel([KernelTold(EventKind.DRY_DENIED, reason=Reason.POLICY_DENY).raw()])
    assert [one.verdict for one in feed.recent()] == [Verdict.DRY_RUN]
    assert {verdict for _, verdict, *_ in feed.verdicts} == {Verdict.DRY_RUN}


async def test_the_tunnel_tells_of_ends(feed: Feed, directory: Directory) -> None:
    ends = [
        EndedTunnelled(Closed(reason=int(reason)), directory, 5.0)  # type: ignore[arg-type]
        for reason in (Reason.NONE, Reason.APP_RESET, Reason.CONNECT_DENIED)
    ]
    with feed.watch() as watcher:
        feed.tunnelled(ends)
        told = await watcher.take(1)
    assert [one.verdict.value for one in told] == ["allowed", "allowed", "denied"]
    assert [one.reason for one in told] == ["", "app-reset", "connect-denied"]
    assert sorted(feed.verdicts.values()) == [1, 2]
    assert feed.verdicts["tunnel", Verdict.DENIED, "outbound", Reason.CONNECT_DENIED] == 1


async def test_a_refused_handshake_has_its_ends_the_right_way_round(feed: Feed) -> None:
    feed.refused_by_core(
        {"direction": "inbound", "workload_id": 2, "source": "10.9.9.9:1", "reason": 16}
    )
    (told,) = feed.recent()
    assert (told.source, told.source_workload) == ("10.9.9.9:1", "")
    assert told.destination_workload == "shop/web"
    assert told.reason == "tls-handshake-failed"


async def test_a_slow_reader_loses_and_nobody_else(feed: Feed) -> None:
    with feed.watch() as slow, feed.watch() as quick:
        got = 0
        for _ in range(5):
            feed.kernel([DENIED.raw()] * 1000)
            got += len(await quick.take(1))
        assert got == 5000
        assert quick.lost == 0
        waited = len(await slow.take(1))
        assert waited + slow.lost == 5000
        assert waited < 5000
    assert len(feed.recent()) == 1000


async def test_a_reader_waits_no_longer_than_it_said(feed: Feed) -> None:
    with feed.watch() as watcher:
        assert await watcher.take(0.01) == []
        asyncio.get_running_loop().call_later(0.01, feed.kernel, [DENIED.raw()])
        assert len(await watcher.take(5)) == 1


async def test_a_reader_that_is_cancelled_as_something_comes_ends(feed: Feed) -> None:
    """So an agent ends whose last connections are refused while it drains."""

    async def read() -> None:
        with feed.watch() as watcher:
            while True:
                await watcher.take(60)

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    feed.kernel([DENIED.raw()])
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader], timeout=5)
    assert reader.cancelled()


def test_ends_are_found_by_name_address_and_service() -> None:
    told = Told(
        time=0.0,
        verdict=Verdict.DENIED,
        told_by="kernel",
        direction="outbound",
        protocol="TCP",
        source="[fd00::1]:4000",
        destination="10.0.0.2:8080",
        original_destination="10.96.0.10:80",
        source_workload="shop/curl",
        service="web.shop.svc.cluster.local",
    )
    assert all(told.is_from(end) for end in ("shop/curl", "fd00::1"))
    assert not told.is_from("10.0.0.2")
    assert all(told.is_to(end) for end in ("10.0.0.2", "10.96.0.10", "shop/web"))
    assert not any(told.is_to(end) for end in ("shop/we", "10.0.0", "shop/curl", "other/web"))
    assert not replace(told, service="").is_to("shop/web")


def test_a_line_names_ends_reason_and_rule() -> None:
    feed_directory = Directory(grace_seconds=60, clock=Clock())
    feed_directory.update(tables(peer(1, "curl"), peer(2, "web")))
    flows = KernelFlows(feed_directory, decode=decode_event, now=Clock())
    feed = Feed(feed_directory, flows, now=Clock())
    feed.kernel([replace(DENIED, source=ip_address("fd00::1")).raw()])
    event = feed.recent()[0].as_json()
    rule = {"policy": "NetworkPolicy shop/np", "rule": "egress[0]", "file": "m.yaml", "line": 7}
    text = _line({**event, "rule": rule})
    assert "DENIED   outbound  shop/curl ([fd00::1]:4000) -> shop/web (10.0.0.2:8080)" in text
    assert text.endswith("TCP  network-policy  NetworkPolicy shop/np egress[0] (m.yaml:7)")
    assert _line({**event, "rule": None}).endswith("network-policy")
    assert _lost({"kernel": 3, "tunnel": 0, "reader": 2}).endswith(
        "3 by the kernel, 2 by the reader"
    )
