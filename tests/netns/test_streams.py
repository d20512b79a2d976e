# SPDX-License-Identifier: Apache-2.0
"""Bytes through the tunnel: whole, in order, bounded, and ended as the applications end them."""

import time
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.netns

CLIENT, SERVER = "shop/client", "shop/web-2"
LOG = "streams-shop-web-2"


def eventually(test: Callable[[], bool], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not (held := test()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


def ended(lab, request):
    """How the server's connections of this request ended, in order."""
    return [
        line["ended"]
        for line in lab.lines(LOG)
        if line["event"] == "closed" and line["request"] == request
    ]


@pytest.mark.parametrize("family", ["4", "6"])
def test_200_megabytes_each_way_are_identical(lab, family):
    address = lab.spec.address4(SERVER) if family == "4" else lab.spec.address6(SERVER)
    answer = lab.streams(CLIENT, address, "exchange", "200", timeout=100)
    assert answer == {"missing": 0, "received_as_sent": True, "sent_as_received": True}


def test_2000_connections_at_once_leave_nothing(lab):
    address = lab.spec.address4(SERVER)
    assert lab.streams(CLIENT, address, "many", "50")["wrong"] == 0
    time.sleep(0.5)
    nodes = (lab.one, lab.two)
    before = {node: lab.open_files(node) for node in nodes}
    answer = lab.streams(CLIENT, address, "many", "2000", timeout=90)
    assert answer == {"opened": 2000, "wrong": 0, "first_wrong": []}
    # Tunnels stay pooled for a while: twenty streams or more share one file descriptor.
    for node in nodes:
        assert eventually(lambda node=node: lab.open_files(node) <= before[node] + 100, 10)
        assert eventually(lambda node=node: lab.map_entries(node, "flow_records") == 0)
    open_now = [r for node in nodes for r in lab.records(node, open=True)]
    assert open_now == []


def test_the_client_ends_first(lab):
    answer = lab.streams(CLIENT, lab.spec.address4(SERVER), "after-end", "3000000")
    assert answer == {"answer": "you sent 3000000"}


def test_the_server_ends_first(lab):
    before = len(lab.lines(LOG))
    answer = lab.streams(CLIENT, lab.spec.address4(SERVER), "end-first", "3000000")
    assert answer == {"answer": "bye"}
    wanted = {"event": "after our end", "size": 3000000}
    assert eventually(lambda: wanted in lab.lines(LOG)[before:])


def test_the_servers_reset_reaches_the_client(lab):
    answer = lab.streams(CLIENT, lab.spec.address4(SERVER), "server-resets")
    assert answer == {"first": "soon", "end": "ConnectionResetError"}


def test_the_clients_reset_reaches_the_server(lab):
    before = len(ended(lab, "wait"))
    assert lab.streams(CLIENT, lab.spec.address4(SERVER), "client-resets") == {"first": "here"}
    assert eventually(lambda: len(ended(lab, "wait")) > before)
    assert ended(lab, "wait")[-1] == "ConnectionResetError"


def test_slow_readers_cost_bounded_memory_and_stop_nobody(lab):
    """Sixteen readers that do not read, a gigabyte offered to each; another stream goes on."""
    nodes = (lab.one, lab.two)
    before = {node: lab.memory(node) for node in nodes}
    command_seconds, readers = 3.0, 16
    answer = lab.streams(
        CLIENT, lab.spec.address4(SERVER), "stall", str(readers), str(command_seconds)
    )
    assert answer["alive"]
    assert answer["first"]
    assert answer["waited"] < 1.0
    for node in nodes:
        grown = lab.memory(node) - before[node]
        assert grown < 160 << 20, f"{node}: {grown >> 20} MB"
    assert eventually(lambda: not lab.records(lab.one, open=True))
