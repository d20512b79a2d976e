# SPDX-License-Identifier: Apache-2.0
"""VIPs: TCP and UDP, chosen endpoints, true peer and reply addresses, nowhere to go."""

import ctypes
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from agent.abi.structs import EventKind
from mesh.model.service import Protocol
from mesh.reasons import Reason
from tests.kernel.node import REMOTE_ID, REMOTE_V4, REMOTE_V6, Node
from tests.kernel.pods import Pod

MakePod = Callable[..., Pod]
VIP4, VIP6 = "10.96.0.10", "fd96::10"
OTHER_VIP4 = "10.96.0.11"


@contextmanager
def udp_echo(pod: Pod, address: str, port: int) -> Iterator[None]:
    """Answers every datagram with its own address and what was sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def make() -> socket.socket:
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind((address, port))
        server.settimeout(0.1)
        return server

    server = pod.inside(make)
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                data, peer = server.recvfrom(2048)
            except TimeoutError:
                continue
            server.sendto(address.encode() + b" " + data, peer)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        server.close()


@pytest.mark.parametrize(
    ("vip", "remote", "dialled"),
    [(VIP4, REMOTE_V4, VIP4), (VIP6, REMOTE_V6, VIP6), (VIP4, REMOTE_V4, f"::ffff:{VIP4}")],
    ids=["v4", "v6", "v4-mapped"],
)
def test_vip_to_a_remote_endpoint(
    node: Node, make_pod: MakePod, vip: str, remote: str, dialled: str
) -> None:
    pod = make_pod()
    node.add_service(vip, 80, [(remote, 8080)], service_id=9)
    node.enrol(pod)

    def dial() -> tuple[str, int]:
        with socket.create_connection((dialled, 80), 2) as client:
            return client.getpeername()[:2]

    assert pod.run(dial) == (dialled, 80)
    accepted = node.captured(pod)
    assert accepted.record is not None
    assert (accepted.original, accepted.upstream) == ((vip, 80), (remote, 8080))
    assert accepted.record.service_id == 9
    assert accepted.record.upstream_workload == REMOTE_ID


@pytest.mark.parametrize("version", [4, 6])
def test_vip_to_a_local_endpoint(node: Node, make_pod: MakePod, version: int) -> None:
    pod, server_pod = make_pod(), make_pod()
    vip, target = (VIP4, server_pod.v4) if version == 4 else (VIP6, server_pod.v6)
    node.add_service(vip, 80, [(target, 8080)])
    node.enrol(pod, server_pod)
    server = server_pod.serve(8080, target)

    def dial() -> tuple[str, int]:
        with socket.create_connection((vip, 80), 2) as client:
            return client.getpeername()[:2]

    assert pod.run(dial) == (vip, 80)
    assert server.accept()[1][0] == (pod.v4 if version == 4 else pod.v6)
    assert node.accept(pod, 0.05) is None


def test_vip_to_an_endpoint_outside_the_mesh(node: Node, make_pod: MakePod) -> None:
    pod, stranger = make_pod(), make_pod()
    node.add_service(VIP4, 80, [(stranger.v4, 8080)])
    node.enrol(pod)
    server = stranger.serve(8080)

    def dial() -> tuple[str, int]:
        with socket.create_connection((VIP4, 80), 2) as client:
            return client.getpeername()

    assert pod.run(dial) == (VIP4, 80)
    server.accept()


def test_a_pod_reaches_its_own_service(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.add_service(VIP4, 80, [(pod.v4, 8080)])
    node.enrol(pod)
    server = pod.serve(8080)

    def dial() -> tuple[str, int]:
        with socket.create_connection((VIP4, 80), 2) as client:
            return client.getpeername()

    assert pod.run(dial) == (VIP4, 80)
    server.accept()
    assert node.accept(pod, 0.05) is None


def test_connections_spread_over_endpoints(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.add_service(VIP4, 80, [(REMOTE_V4, 8080), (REMOTE_V4, 8081)])
    node.enrol(pod)

    def dial() -> None:
        for _ in range(24):
            socket.create_connection((VIP4, 80), 2).close()

    pod.run(dial)
    assert {node.captured(pod).upstream[1] for _ in range(24)} == {8080, 8081}


@pytest.mark.parametrize(
    ("port", "reason"), [(80, Reason.NO_ENDPOINT), (81, Reason.NO_SERVICE_PORT)]
)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_nowhere_to_go_fails_at_once(
    node: Node, make_pod: MakePod, port: int, reason: Reason, kind: socket.SocketKind
) -> None:
    pod = make_pod()
    protocol = Protocol.TCP if kind == socket.SOCK_STREAM else Protocol.UDP
    node.add_service(VIP4, 80, [], protocol=protocol)
    node.enrol(pod)

    def dial() -> int:
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(2)
            return client.connect_ex((VIP4, port))

    assert pod.run(dial) == errno.ECONNREFUSED
    (event,) = node.events(EventKind.DENIED)
    assert event.reason is reason
    assert (str(event.original), event.original_port) == (VIP4, port)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("port", [0, 80])
def test_sorting_addresses_as_getaddrinfo_does_is_not_refused(
    node: Node, make_pod: MakePod, port: int, version: int
) -> None:
    """A UDP connect to the port of a TCP service, only to learn the source address.

    Whoever sends after all reaches nobody: the VIP is on no wire.
    """
    pod = make_pod()
    vip, own = (VIP4, pod.v4) if version == 4 else (VIP6, pod.v6)
    node.add_service(vip, 80, [(REMOTE_V4, 8080)])
    node.enrol(pod)

    def ask() -> tuple[str, tuple[str, int], int]:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(1)
            client.connect((vip, port))
            names = str(client.getsockname()[0]), client.getpeername()[:2]
            client.send(b"lost")
            try:
                client.recv(10)
            except OSError as error:
                return *names, error.errno or 0
            return *names, 0

    assert pod.run(ask) == (own, (vip, port), errno.ECONNREFUSED)
    assert node.events(EventKind.DENIED, 0.05) == []


def test_a_disconnected_udp_socket_hears_the_endpoint_itself(node: Node, make_pod: MakePod) -> None:
    """Connected to the VIP, dissolved (AF_UNSPEC), then straight to the endpoint."""
    pod, server_pod = make_pod(), make_pod()
    node.add_service(VIP4, 53, [(server_pod.v4, 5353)], protocol=Protocol.UDP)
    node.enrol(pod, server_pod)

    def ask() -> tuple[str, int]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(2)
            client.connect((VIP4, 53))
            unspecified = ctypes.create_string_buffer(16)
            assert ctypes.CDLL(None).connect(client.fileno(), unspecified, 16) == 0
            client.sendto(b"q", (server_pod.v4, 5353))
            return client.recvfrom(100)[1]

    with udp_echo(server_pod, server_pod.v4, 5353):
        assert pod.run(ask) == (server_pod.v4, 5353)


@pytest.mark.parametrize(
    ("dialled", "connected"),
    [
        pytest.param(VIP4, False, marks=pytest.mark.vm_short),
        pytest.param(VIP6, False, marks=pytest.mark.vm_short),
        (f"::ffff:{VIP4}", False),
        (VIP4, True),
        (VIP6, True),
        (f"::ffff:{VIP4}", True),
    ],
)
def test_udp_replies_come_from_the_vip(
    node: Node, make_pod: MakePod, dialled: str, connected: bool
) -> None:
    pod, server_pod = make_pod(), make_pod()
    vip, target = (VIP6, server_pod.v6) if dialled == VIP6 else (VIP4, server_pod.v4)
    node.add_service(vip, 53, [(target, 5353)], protocol=Protocol.UDP)
    node.enrol(pod, server_pod)

    def ask() -> tuple[bytes, tuple[str, int], tuple[str, int] | None]:
        family = socket.AF_INET6 if ":" in dialled else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(2)
            if connected:
                client.connect((dialled, 53))
                client.send(b"q")
            else:
                client.sendto(b"q", (dialled, 53))
            data, peer = client.recvfrom(100)
            return data, peer[:2], client.getpeername()[:2] if connected else None

    with udp_echo(server_pod, target, 5353):
        data, peer, name = pod.run(ask)
    assert data == target.encode() + b" q"
    assert peer == (dialled, 53)
    assert name in ((dialled, 53), None)


def test_udp_keeps_its_endpoint_while_that_exists(node: Node, make_pod: MakePod) -> None:
    """Twenty datagrams of one socket reach one endpoint, although there are four."""
    pod, server_pod = make_pod(), make_pod()
    targets = [(server_pod.v4, port) for port in (5301, 5302, 5303, 5304)]
    node.add_service(VIP4, 53, targets, protocol=Protocol.UDP)
    node.enrol(pod, server_pod)
    servers = [server_pod.inside(lambda t=target: _bound(t)) for target in targets]  # type: ignore[misc]

    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(20):
                client.sendto(b"q", (VIP4, 53))

    pod.run(ask)
    counts = sorted(_drain(server) for server in servers)
    assert counts == [0, 0, 0, 20]


def _bound(target: tuple[str, int]) -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(target)
    server.setblocking(False)
    return server


def _drain(server: socket.socket) -> int:
    count = 0
    while True:
        try:
            server.recv(100)
        except BlockingIOError:
            return count
        count += 1


def test_udp_endpoint_that_moved_stays_and_one_that_left_is_replaced(
    node: Node, make_pod: MakePod
) -> None:
    pod, first, second = make_pod(), make_pod(), make_pod()
    targets = [(first.v4, 5353), (second.v4, 5353)]
    node.add_service(VIP4, 53, targets, protocol=Protocol.UDP, frontend_id=1)
    node.enrol(pod, first, second)

    client = pod.run_socket(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client.settimeout(2)

    def ask() -> tuple[bytes, tuple[str, int]]:
        client.sendto(b"q", (VIP4, 53))
        return client.recvfrom(100)

    with udp_echo(first, first.v4, 5353), udp_echo(second, second.v4, 5353):
        answer, peer = pod.run(ask)
        chosen = answer.split()[0].decode()
        assert peer == (VIP4, 53)
        other = next(pod for pod in (first, second) if pod.v4 != chosen)
        # The chosen endpoint moves to another index, among strangers: it stays.
        moved = [(other.v4, 5353), ("10.240.0.77", 1), ("10.240.0.78", 1), (chosen, 5353)]
        node.add_service(VIP4, 53, moved, protocol=Protocol.UDP, frontend_id=1)
        node.apply()
        for _ in range(5):
            assert pod.run(ask) == (answer, (VIP4, 53))
        # It leaves: the other one answers, from the same VIP.
        node.add_service(VIP4, 53, [(other.v4, 5353)], protocol=Protocol.UDP, frontend_id=1)
        node.apply()
        answer, peer = pod.run(ask)
        assert answer.split()[0].decode() == other.v4
        assert peer == (VIP4, 53)
    client.close()


def test_one_udp_socket_and_two_vips(node: Node, make_pod: MakePod) -> None:
    """Both VIPs have the same endpoint: the reply comes from the one asked last."""
    pod, server_pod = make_pod(), make_pod()
    for vip, number in ((VIP4, 1), (OTHER_VIP4, 2)):
        target = [(server_pod.v4, 5353)]
        node.add_service(vip, 53, target, protocol=Protocol.UDP, frontend_id=number)
    node.enrol(pod, server_pod)

    def ask() -> list[tuple[str, int]]:
        peers = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(2)
            for target in ((VIP4, 53), (OTHER_VIP4, 53), (VIP4, 53), (server_pod.v4, 5353)):
                client.sendto(b"q", target)
                peers.append(client.recvfrom(100)[1])
        return peers

    with udp_echo(server_pod, server_pod.v4, 5353):
        peers = pod.run(ask)
    assert peers == [(VIP4, 53), (OTHER_VIP4, 53), (VIP4, 53), (server_pod.v4, 5353)]


def test_churn_of_one_pod_leaves_the_peer_names_of_another_alone(
    node: Node, make_pod: MakePod
) -> None:
    victim, churner = make_pod(), make_pod()
    node.add_service(VIP4, 80, [(REMOTE_V4, 8080)])
    node.enrol(victim, churner)
    client = victim.run_socket(lambda: socket.create_connection((VIP4, 80), 2))

    def churn() -> None:
        for _ in range(2000):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex((VIP4, 80))
            one.close()

    churner.run(churn)
    assert victim.run(client.getpeername) == (VIP4, 80)
    assert node.captured(victim).upstream == (REMOTE_V4, 8080)
    client.close()
