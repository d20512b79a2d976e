# SPDX-License-Identifier: Apache-2.0
"""Many connections from one pod: more than one 4-tuple space holds, and thousands at once."""

import contextlib
import json
import threading
import time

import pytest

pytestmark = pytest.mark.netns

PORTS = ("9101", "9102", "9103", "9104")
RANGE = "/proc/sys/net/ipv4/ip_local_port_range"


@pytest.fixture
def crowd(lab):
    """Open connections from the client to a crowd of them in web-2; nothing may be left."""
    server = lab.start("shop/web-2", "crowd", "crowd.py", "serve", *PORTS)

    def open_many(count):
        address = lab.spec.address4("shop/web-2")
        arguments = ("crowd.py", "open", str(count), address, *PORTS)
        return json.loads(lab.python("shop/client", *arguments, timeout=150))

    yield open_many
    server.kill()
    deadline = time.monotonic() + 20
    while open_now := lab.records(lab.one, open=True):
        assert time.monotonic() < deadline, len(open_now)
        time.sleep(0.2)
    for node in (lab.one, lab.two):
        assert lab.map_entries(node, "flow_records") == 0


def test_a_pod_is_not_held_to_one_4_tuple_space(lab, crowd):
    """With 1,000 source ports, one capture port would end at the thousandth connection."""
    client = lab.cluster.pod("shop/client")
    usual = client.run(["cat", RANGE]).stdout.strip()
    client.run(["sh", "-c", f"echo 50000 50999 > {RANGE}"])
    try:
        answer = crowd(3000)
    finally:
        client.run(["sh", "-c", f"echo {usual} > {RANGE}"])
    assert (answer["open"], answer["wrong"]) == (3000, 0), answer


@contextlib.contextmanager
def watched_memory(lab):
    """The most resident memory of each agent while the block runs, bytes."""
    nodes, over = (lab.one, lab.two), threading.Event()
    most = {node: lab.memory(node) for node in nodes}

    def watch():
        while not over.wait(0.2):
            for node in nodes:
                most[node] = max(most[node], lab.memory(node))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield most
    finally:
        over.set()
        watching.join()


@pytest.mark.timeout(200)
def test_10000_connections_at_once_cost_little_memory(lab, crowd):
    """All wait idle for the last one, and are used again; a hundred share a tunnel."""
    before = {node: lab.memory(node) for node in (lab.one, lab.two)}
    with watched_memory(lab) as most:
        answer = crowd(10000)
    assert (answer["open"], answer["wrong"]) == (10000, 0), answer
    for node, resident in before.items():
        each = (most[node] - resident) / 10000
        print(f"{node}: {each:.0f} bytes for each connection")
        assert each < 10_000, f"{node}: {each:.0f} bytes for each connection"
