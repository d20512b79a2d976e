# SPDX-License-Identifier: Apache-2.0
"""TCP capture: every way in which an application connects to a workload of another node."""

import ctypes
import errno
import os
import select
import socket
from collections.abc import Callable

import pytest

from agent.abi.structs import EventKind
from mesh.reasons import Reason
from mesh.tables import Route
from tests.kernel.node import REMOTE_ID, REMOTE_V4, REMOTE_V6, Node
from tests.kernel.pods import Pod

MakePod = Callable[..., Pod]


@pytest.mark.parametrize(
    ("family", "address", "original"),
    [
        pytest.param(socket.AF_INET, REMOTE_V4, REMOTE_V4, marks=pytest.mark.vm_short),
        pytest.param(socket.AF_INET6, REMOTE_V6, REMOTE_V6, marks=pytest.mark.vm_short),
        (socket.AF_INET6, f"::ffff:{REMOTE_V4}", REMOTE_V4),
    ],
    ids=["v4", "v6", "v4-mapped"],
)
def test_connect_is_captured(
    node: Node, make_pod: MakePod, family: socket.AddressFamily, address: str, original: str
) -> None:
    pod = make_pod()
    node.enrol(pod)

    def dial() -> tuple[str, int, str]:
        with socket.socket(family) as client:
            client.settimeout(3)
            client.connect((address, 8080))
            client.send(b"hello")
            return *client.getpeername()[:2], client.getsockname()[0]

    peer, port, own = pod.run(dial)
    assert (peer, port) == (address, 8080)
    assert own.removeprefix("::ffff:") in (pod.v4, pod.v6)
    accepted = node.captured(pod)
    assert accepted.record is not None
    assert accepted.original == accepted.upstream == (original, 8080)
    assert accepted.record.upstream_workload == REMOTE_ID
    assert accepted.record.source_workload == node.enrolled(pod).workload_id
    assert accepted.connection.recv(100) == b"hello"
    assert node.map_size("flow_records") == 0


def test_non_blocking_connect(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.enrol(pod)

    def dial() -> tuple[int, tuple[str, int]]:
        with socket.socket() as client:
            client.setblocking(False)
            code = client.connect_ex((REMOTE_V4, 80))
            select.select([], [client], [], 3)
            return code, client.getpeername()

    code, peer = pod.run(dial)
    assert code in (0, errno.EINPROGRESS)
    assert peer == (REMOTE_V4, 80)
    assert node.captured(pod).original == (REMOTE_V4, 80)


def test_many_short_non_blocking_connects_all_leave_a_record(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.enrol(pod)

    def dial() -> None:
        for index in range(300):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex((REMOTE_V4, 1 + index))
            client.close()

    pod.run(dial)
    ports = set()
    while accepted := node.accept(pod, 0.1):
        assert accepted.record is not None
        ports.add(accepted.original[1])
        accepted.connection.close()
    assert len(ports) > 250  # a few are closed before their handshake ends
    assert node.map_size("flow_records") == 0


def test_retry_on_one_socket_leaves_nothing_behind(node: Node, make_pod: MakePod) -> None:
    """A refused captured connect, then a direct one on the same socket."""
    pod, other = make_pod(), make_pod()
    enrolled = node.enrol(pod)[0]
    server = other.serve(9090)
    listeners = [socket.socket(fileno=os.dup(fd)) for fd in enrolled.capture_listeners]
    for listener in listeners:
        listener.shutdown(socket.SHUT_RD)  # no longer listening: connects are refused

    def dial() -> tuple[int, tuple[str, int]]:
        with socket.socket() as client:
            code = client.connect_ex((REMOTE_V4, 80))
            client.connect((other.v4, 9090))
            return code, client.getpeername()

    code, peer = pod.run(dial)
    assert code == errno.ECONNREFUSED
    assert peer == (other.v4, 9090)
    assert server.accept()[1][0] == pod.v4
    assert node.map_size("flow_records") == 0


def test_af_unspec_then_direct(node: Node, make_pod: MakePod) -> None:
    pod, other = make_pod(), make_pod()
    node.enrol(pod)
    server = other.serve(9090)

    def dial() -> tuple[tuple[str, int], tuple[str, int]]:
        with socket.socket() as client:
            client.connect((REMOTE_V4, 80))
            before = client.getpeername()
            unspecified = ctypes.create_string_buffer(16)
            assert ctypes.CDLL(None).connect(client.fileno(), unspecified, 16) == 0
            client.connect((other.v4, 9090))
            return before, client.getpeername()

    assert pod.run(dial) == ((REMOTE_V4, 80), (other.v4, 9090))
    server.accept()
    assert node.captured(pod).original == (REMOTE_V4, 80)


@pytest.mark.parametrize("version", [4, 6])
def test_socket_bound_to_an_address(node: Node, make_pod: MakePod, version: int) -> None:
    pod = make_pod()
    node.enrol(pod)
    own, remote = (pod.v4, REMOTE_V4) if version == 4 else (pod.v6, REMOTE_V6)

    def dial() -> tuple[str, int]:
        with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6) as client:
            client.bind((own, 40001))
            client.connect((remote, 80))
            return client.getsockname()[:2]

    assert pod.run(dial) == (own, 40001)
    assert node.captured(pod).original == (remote, 80)


@pytest.mark.parametrize("version", [4, 6])
def test_socket_bound_to_a_device(node: Node, make_pod: MakePod, version: int) -> None:
    pod = make_pod()
    node.enrol(pod)
    remote = REMOTE_V4 if version == 4 else REMOTE_V6

    def dial() -> None:
        with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            client.settimeout(2)
            client.connect((remote, 80))

    pod.run(dial)
    assert node.captured(pod).original == (remote, 80)


@pytest.mark.parametrize("device", ["eth0", "net1"])
def test_pod_of_several_interfaces(node: Node, make_pod: MakePod, device: str) -> None:
    pod = make_pod()
    pod.sh("ip link add net1 type veth peer name net1p; ip addr add 10.231.0.9/24 dev net1")
    pod.sh("ip addr add fd25::9/64 dev net1 nodad; ip link set net1 up; ip link set net1p up")
    node.enrol(pod)

    def dial() -> list[str]:
        found = []
        for family, remote in ((socket.AF_INET, REMOTE_V4), (socket.AF_INET6, REMOTE_V6)):
            with socket.socket(family) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
                client.settimeout(2)
                client.connect((remote, 80))
                found.append(client.getpeername()[0])
        return found

    assert pod.run(dial) == [REMOTE_V4, REMOTE_V6]
    assert {node.captured(pod).original[0] for _ in range(2)} == {REMOTE_V4, REMOTE_V6}
    guarded = pod.sh("tc filter show dev net1 ingress")
    assert "mesh_guard" in guarded


def test_tcp_fast_open(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.enrol(pod)

    def dial() -> list[tuple[str, int]]:
        peers = []
        with socket.socket() as client:
            client.sendto(b"early", socket.MSG_FASTOPEN, (REMOTE_V4, 80))
            peers.append(client.getpeername())
        with socket.socket() as client:
            client.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
            client.connect((REMOTE_V4, 81))
            client.send(b"early")
            peers.append(client.getpeername())
        return peers

    assert pod.run(dial) == [(REMOTE_V4, 80), (REMOTE_V4, 81)]
    for _ in range(2):
        assert node.captured(pod).connection.recv(10) == b"early"


@pytest.mark.vm_short
def test_mptcp(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.enrol(pod)

    def dial() -> tuple[str, int]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as client:
            client.settimeout(2)
            client.connect((REMOTE_V4, 80))
            return client.getpeername()

    assert pod.run(dial) == (REMOTE_V4, 80)
    assert node.captured(pod).original == (REMOTE_V4, 80)


@pytest.mark.parametrize("version", [4, 6])
def test_a_pod_reaches_itself_directly(node: Node, make_pod: MakePod, version: int) -> None:
    pod = make_pod()
    own = pod.v4 if version == 4 else pod.v6
    node.enrol(pod)
    for address in pod.addresses:  # as with sameNode: tunnel
        number = node.enrolled(pod).workload_id
        node.add_workload(str(address), number, Route.TUNNEL, enrolled=True, local=True)
    node.apply()
    server = pod.serve(8080, own)

    def dial() -> tuple[str, int]:
        with socket.create_connection((own, 8080), 2) as client:
            return client.getpeername()[:2]

    assert pod.run(dial) == (own, 8080)
    assert server.accept()[1][0] == own
    assert node.accept(pod, 0.05) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0"])
def test_loopback_is_left_alone(node: Node, make_pod: MakePod, address: str) -> None:
    pod = make_pod()
    node.enrol(pod)
    server = pod.serve(8080, address)

    def dial() -> tuple[str, int]:
        with socket.create_connection((address, 8080), 2) as client:
            return client.getpeername()[:2]

    assert pod.run(dial)[1] == 8080
    server.accept()


def test_outside_the_mesh_is_left_alone_and_told(node: Node, make_pod: MakePod) -> None:
    pod, stranger = make_pod(), make_pod()
    node.enrol(pod)
    server = stranger.serve(8080)

    def dial() -> tuple[str, int]:
        with socket.create_connection((stranger.v4, 8080), 2) as client:
            return client.getpeername()

    assert pod.run(dial) == (stranger.v4, 8080)
    assert server.accept()[1][0] == pod.v4
    (event,) = node.events(EventKind.PASSTHROUGH)
    assert (str(event.destination), event.destination_port) == (stranger.v4, 8080)
    assert event.source_workload == node.enrolled(pod).workload_id


def test_a_pod_that_is_not_enrolled_is_left_alone(node: Node, make_pod: MakePod) -> None:
    pod, stranger = make_pod(), make_pod()
    node.enrol(pod)

    def dial() -> int:
        with socket.socket() as client:
            client.settimeout(0.3)
            return client.connect_ex((REMOTE_V4, 80))

    assert stranger.run(dial) != 0
    assert node.accept(pod, 0.05) is None


def test_a_denied_destination_fails_at_once(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.add_workload("10.240.0.9", 501, Route.DENY, enrolled=True, local=False)
    node.enrol(pod)

    def dial() -> int:
        with socket.socket() as client:
            client.settimeout(2)
            return client.connect_ex(("10.240.0.9", 80))

    assert pod.run(dial) == errno.EPERM
    (event,) = node.events(EventKind.DENIED)
    assert event.reason is Reason.POLICY_DENY


def test_a_family_that_the_pod_lacks_is_refused(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    pod.addresses = pod.addresses[:1]
    pod.sh("ip -6 addr flush dev eth0")
    node.enrol(pod)

    def dial() -> int:
        with socket.socket(socket.AF_INET6) as client:
            client.settimeout(2)
            return client.connect_ex((REMOTE_V6, 80))

    assert pod.run(dial) == errno.EADDRNOTAVAIL
    (event,) = node.events(EventKind.DENIED)
    assert event.reason is Reason.NO_CAPTURE_ADDRESS


def test_port_0_is_refused_at_once(node: Node, make_pod: MakePod) -> None:
    """As by a peer that answers: no CONNECT could name it."""
    pod = make_pod()
    node.enrol(pod)

    def dial() -> int:
        with socket.socket() as client:
            client.settimeout(2)
            return client.connect_ex((REMOTE_V4, 0))

    assert pod.run(dial) == errno.ECONNREFUSED
    assert node.accept(pod, 0.05) is None
