# SPDX-License-Identifier: Apache-2.0
"""Sockets that share a source port: each record reaches its own connection, none is in the way."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.node import REMOTE_V4, REMOTE_V6, Node
from tests.kernel.pods import Pod

MakePod = Callable[..., Pod]


def test_one_port_on_two_addresses_and_families(node: Node, make_pod: MakePod) -> None:
    """Three sockets with source port 40001; each record reaches its own connection."""
    pod = make_pod()
    pod.sh("ip addr add 10.230.77.77/16 dev eth0")
    node.enrol(pod)

    def dial() -> None:
        for family, own, remote, port in (
            (socket.AF_INET, pod.v4, REMOTE_V4, 81),
            (socket.AF_INET, "10.230.77.77", REMOTE_V4, 82),
            (socket.AF_INET6, pod.v6, REMOTE_V6, 83),
        ):
            client = socket.socket(family)
            client.bind((own, 40001))
            client.connect((remote, port))
            client.send(str(port).encode())
            clients.append(client)

    clients: list[socket.socket] = []
    pod.run(dial)
    seen = set()
    for _ in range(3):
        accepted = node.captured(pod)
        port = accepted.original[1]
        assert accepted.connection.recv(10) == str(port).encode()
        seen.add(port)
    assert seen == {81, 82, 83}


def test_one_source_port_serves_a_destination_more_than_once(node: Node, make_pod: MakePod) -> None:
    """K capture ports: with 8 ephemeral ports a pod can hold more than 8 connections."""
    pod = make_pod()
    node.enrol(pod)
    pod.inside(lambda: Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40007"))

    def dial() -> int:
        clients = []
        for index in range(24):
            client = socket.socket()
            for _ in range(50):
                if client.connect_ex((REMOTE_V4, 100 + index)) == 0:
                    clients.append(client)
                    break
        return len(clients)

    made = pod.run(dial)
    assert made > 8
    originals = set()
    for _ in range(made):
        accepted = node.captured(pod)
        assert accepted.record is not None
        assert not accepted.record.flags
        originals.add(accepted.original)
    assert len(originals) == made


@pytest.mark.parametrize(
    ("family", "remote"), [(socket.AF_INET, REMOTE_V4), (socket.AF_INET6, REMOTE_V6)]
)
@pytest.mark.parametrize("bound_to", ["", "own"])
def test_one_bound_port_reaches_as_many_destinations_as_there_are_capture_ports(
    node: Node, make_pod: MakePod, family: socket.AddressFamily, remote: str, bound_to: str
) -> None:
    """At random, the second connection would meet the first in one case of four."""
    pod = make_pod()
    node.enrol(pod)
    own = str(next(a for a in pod.addresses if a.version == (4 if family == socket.AF_INET else 6)))

    def dial() -> list[int]:
        outcomes = []
        for port in range(41000, 41005):
            clients = []
            for index in range(4):
                client = socket.socket(family)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.bind((own if bound_to else "", port))
                outcomes.append(client.connect_ex((remote, 200 + index)))
                clients.append(client)
            for client in clients:
                client.close()
        return outcomes

    assert pod.run(dial) == [0] * 20
    for _ in range(20):
        accepted = node.captured(pod)
        assert accepted.record is not None
        assert not accepted.record.flags
