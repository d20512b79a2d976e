# SPDX-License-Identifier: Apache-2.0
"""The guard and the nonce: who is proven, who is not, and what is dropped at the pod's door."""

import ctypes
import errno
import select
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.abi.structs import EventKind, NonceSecret, Statistic
from agent.dataplane import bpf
from mesh.reasons import Reason
from tests.kernel.frames import checksum
from tests.kernel.node import Node
from tests.kernel.pods import SLOWNESS, Pod

MakePod = Callable[..., Pod]
VIP4 = "10.96.0.10"


@pytest.mark.parametrize("version", [4, pytest.param(6, marks=pytest.mark.vm_short)])
def test_same_node_connection_is_attested(node: Node, make_pod: MakePod, version: int) -> None:
    pod, server_pod = make_pod(), make_pod()
    node.enrol(pod, server_pod)
    target = server_pod.v4 if version == 4 else server_pod.v6
    server = server_pod.serve(8080, target)

    def dial() -> tuple[str, int]:
        with socket.create_connection((target, 8080), 2) as client:
            return client.getsockname()[:2]

    own = pod.run(dial)
    server.accept()
    (event,) = node.events(EventKind.ATTESTED)
    assert event.source_workload == node.enrolled(pod).workload_id
    assert event.destination_workload == node.enrolled(server_pod).workload_id
    assert (str(event.source), event.source_port) == own
    assert (str(event.destination), event.destination_port) == (target, 8080)
    assert node.map_size("nonces") == 0


def test_a_nonce_of_before_does_not_count_against_a_pod_that_comes_again(
    node: Node, make_pod: MakePod
) -> None:
    pod, server_pod = make_pod(), make_pod()
    node.enrol(pod, server_pod)
    server = server_pod.serve(8080)
    server_pod.sh("ip link set eth0 down")

    def dial(seconds: float = 0.3) -> int:
        with socket.socket() as client:
            client.settimeout(seconds)
            return client.connect_ex((server_pod.v4, 8080))

    assert pod.run(dial) != 0
    assert node.map_size("nonces") == 1, "its SYN is lost"
    node.drop_pod(pod)
    node.apply()
    node.enrol(pod)
    assert node.reap(after=60).nonces == 1
    server_pod.sh("ip link set eth0 up")
    assert pod.run(lambda: dial(5)) == 0
    server.accept()
    (event,) = node.events(EventKind.ATTESTED)
    assert event.source_workload == node.enrolled(pod).workload_id


def test_attested_through_a_service(node: Node, make_pod: MakePod) -> None:
    pod, server_pod = make_pod(), make_pod()
    node.add_service(VIP4, 80, [(server_pod.v4, 8080)], service_id=33)
    node.enrol(pod, server_pod)
    server = server_pod.serve(8080)
    pod.run(lambda: socket.create_connection((VIP4, 80), 2).close())
    server.accept()
    (event,) = node.events(EventKind.ATTESTED)
    assert event.service_id == 33


@pytest.mark.parametrize("way", ["mptcp", "tfo-request", "tfo-cookie"])
def test_attested_with_other_options_in_the_syn(node: Node, make_pod: MakePod, way: str) -> None:
    """MPTCP leaves room for the long form; a Fast Open cookie only for the short one."""
    pod, server_pod = make_pod(), make_pod()
    server_pod.inside(lambda: Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("3"))
    node.enrol(pod, server_pod)
    server = server_pod.serve(8080)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    short = node.statistic(Statistic.NONCES_SHORT)

    def dial() -> tuple[str, int]:
        if way == "mptcp":
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as client:
                client.settimeout(2)
                client.connect((server_pod.v4, 8080))
                return client.getpeername()
        with socket.socket() as client:
            client.sendto(b"early", socket.MSG_FASTOPEN, (server_pod.v4, 8080))
            return client.getpeername()

    rounds = 2 if way == "tfo-cookie" else 1
    for _ in range(rounds):
        assert pod.run(dial) == (server_pod.v4, 8080)
        server.accept()
        (event,) = node.events(EventKind.ATTESTED)
        assert event.source_workload == node.enrolled(pod).workload_id
    was_short = node.statistic(Statistic.NONCES_SHORT) - short
    assert was_short == (1 if way == "tfo-cookie" else 0)


def _syn(
    source: tuple[str, int], target: tuple[str, int], options: bytes, macs: tuple[str, str]
) -> bytes:
    """An Ethernet frame with an IPv4 TCP SYN and right checksums."""
    options += b"\0" * (-len(options) % 4)
    length = 20 + len(options)
    tcp = struct.pack(">HHIIBBHHH", source[1], target[1], 1, 0, length // 4 << 4, 2, 1000, 0, 0)
    ends = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    pseudo = ends + struct.pack(">BBH", 0, 6, length)
    total = checksum(pseudo + tcp + options)
    tcp = tcp[:16] + struct.pack(">H", total) + tcp[18:] + options
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, 6, 0) + ends
    header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    hardware = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in macs)
    return hardware + b"\x08\x00" + header + tcp


def _send_frame(frame: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0x0800))
        raw.send(frame)


def test_a_forged_nonce_proves_nothing(node: Node, make_pod: MakePod) -> None:
    """Raw SYNs with the victim's address and a made up nonce of either form."""
    victim, forger, server_pod = make_pod(), make_pod(), make_pod()
    node.enrol(victim, server_pod)  # an enrolled forger's address would not pass its seal
    server_pod.serve(8080)
    unknown = node.statistic(Statistic.NONCES_UNKNOWN)
    long_form = struct.pack(">BBHQ", 254, 12, 0x6E6D, 0x1122334455667788)
    short_form = struct.pack(">BBBBI", 254, 8, 0x6E, 0x11, 0x22334455)
    macs = (server_pod.mac, forger.mac)

    def forge() -> None:
        for number, option in enumerate((long_form, short_form)):
            source, target = (victim.v4, 50000 + number), (server_pod.v4, 8080)
            _send_frame(_syn(source, target, b"\x02\x04\x05\xb4" + option, macs))

    forger.run(forge)
    until = time.monotonic() + 1
    while node.statistic(Statistic.NONCES_UNKNOWN) < unknown + 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert node.statistic(Statistic.NONCES_UNKNOWN) == unknown + 2
    assert node.events(EventKind.ATTESTED, 0.1) == []


def _sniff_one_syn(pod: Pod) -> Callable[[], bytes]:
    def make() -> socket.socket:
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sniffer.bind(("eth0", 3))
        sniffer.settimeout(2)
        return sniffer

    sniffer = pod.inside(make)

    def read() -> bytes:
        with sniffer:
            while True:
                frame = sniffer.recv(2000)
                if frame[12:14] == b"\x08\x00" and frame[23] == 6 and frame[47] & 0x12 == 2:
                    return frame

    return read


def test_a_replayed_nonce_proves_nothing(node: Node, make_pod: MakePod) -> None:
    """A pod records its own SYN and sends it again, to the same server and to another."""
    pod, first, second = make_pod(), make_pod(), make_pod()
    node.enrol(pod, first, second)
    server = first.serve(8080)
    second.serve(8080)
    read = _sniff_one_syn(pod)
    pod.run(lambda: socket.create_connection((first.v4, 8080), 2).close())
    server.accept()
    assert len(node.events(EventKind.ATTESTED)) == 1
    frame = read()
    assert b"\xfe\x0cnm" in frame, "the SYN carries no nonce"
    options = frame[54:]
    again = _syn((pod.v4, 51000), (second.v4, 8080), options, (second.mac, pod.mac))
    pod.run(lambda: (_send_frame(frame), _send_frame(again)))
    assert node.events(EventKind.ATTESTED, 0.2) == []


def test_an_established_connection_carries_no_nonce(node: Node, make_pod: MakePod) -> None:
    """Only the SYN does; a tunnelled connection never."""
    pod, server_pod = make_pod(), make_pod()
    node.enrol(pod, server_pod)
    server = server_pod.serve(8080)
    made = node.statistic(Statistic.NONCES_MADE)

    def dial() -> None:
        with socket.create_connection((server_pod.v4, 8080), 2) as client:
            for _ in range(10):
                client.send(b"x")

    pod.run(dial)
    server.accept()
    pod.run(lambda: socket.create_connection(("10.240.0.5", 80), 2).close())
    assert node.statistic(Statistic.NONCES_MADE) == made + 1


def test_unanswered_nonces_age(node: Node, make_pod: MakePod) -> None:
    """An endpoint that is on this node by its row, but not on the wire."""
    pod, ghost = make_pod(), make_pod()
    node.enrol(pod, ghost)
    ghost.sh("tc filter del dev eth0 ingress")

    def dial() -> None:
        with socket.socket() as client:
            client.settimeout(0.1)
            client.connect_ex((ghost.v4, 8080))

    pod.run(dial)
    assert node.map_size("nonces") == 1
    assert node.reap().nonces == 0
    assert node.reap(after=20).nonces == 1
    assert node.map_size("nonces") == 0


@pytest.mark.parametrize("version", [pytest.param(4, marks=pytest.mark.vm_short), 6])
def test_capture_ports_are_closed_to_the_outside(
    node: Node, make_pod: MakePod, version: int
) -> None:
    pod, stranger = make_pod(), make_pod()
    enrolled = node.enrol(pod)[0]
    target = pod.v4 if version == 4 else pod.v6

    def dial() -> int:
        """How many of the ports answer in any way, all asked at once."""
        clients = []
        for port in enrolled.capture_ports:
            client = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6)
            client.setblocking(False)
            client.connect_ex((target, port))
            clients.append(client)
        return len(select.select([], clients, [], 0.3 * SLOWNESS)[1])

    assert stranger.run(dial) == 0
    assert node.accept(pod, 0.05) is None
    event = node.events(EventKind.DROPPED)[0]
    assert event.reason is Reason.CAPTURE_PORT_FROM_OUTSIDE
    assert event.destination_workload == enrolled.workload_id


def test_a_pod_that_dials_its_own_capture_port_leaves_no_record(
    node: Node, make_pod: MakePod
) -> None:
    pod = make_pod()
    enrolled = node.enrol(pod)[0]
    pod.run(lambda: socket.create_connection((pod.v4, enrolled.capture_ports[0]), 2).close())
    accepted = node.accept(pod)
    assert accepted is not None
    assert accepted.record is None


@pytest.mark.parametrize(
    "address", ["", pytest.param("own", marks=pytest.mark.vm_short), "127.0.0.1"]
)
def test_capture_ports_cannot_be_bound(node: Node, make_pod: MakePod, address: str) -> None:
    pod = make_pod()
    enrolled = node.enrol(pod)[0]
    where = pod.v4 if address == "own" else address

    def bind() -> list[int]:
        codes = []
        for port in enrolled.capture_ports:
            for family in (socket.AF_INET, socket.AF_INET6):
                with socket.socket(family) as server:
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    try:
                        server.bind((where if family == socket.AF_INET else "", port))
                    except OSError as error:
                        codes.append(error.errno or 0)
                    else:
                        codes.append(0)
        return codes

    assert set(pod.run(bind)) == {errno.EADDRINUSE}
    event = node.events(EventKind.DENIED)[0]
    assert event.reason is Reason.CAPTURE_PORT_RESERVED
    assert event.source_workload == enrolled.workload_id


def test_other_ports_and_udp_can_be_bound(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    enrolled = node.enrol(pod)[0]

    def bind() -> None:
        socket.create_server(("", 8080)).close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("", enrolled.capture_ports[0]))

    pod.run(bind)


def test_udp_from_outside_passes_the_guard(node: Node, make_pod: MakePod) -> None:
    """Even to the number of a capture port, and in fragments."""
    pod, stranger = make_pod(), make_pod()
    enrolled = node.enrol(pod)[0]
    target = (pod.v4, enrolled.capture_ports[0])

    def make() -> socket.socket:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(target)
        server.settimeout(2)
        return server

    server = pod.inside(make)

    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x" * 5000, target)

    stranger.run(ask)
    assert len(server.recv(6000)) == 5000
    server.close()


def test_nonces_come_from_a_secret_that_outlives_the_agent(node: Node, make_pod: MakePod) -> None:
    """Drawn once, never zero, never told; without it no nonce is made and the SYN goes without."""
    size = ctypes.sizeof(NonceSecret)
    fd = node.map("nonce_secrets")
    secret = bpf.map_lookup(fd, bytes(4), size)
    assert secret is not None
    assert len(set(secret)) > 4
    node.stop()
    node.start_again()
    fd = node.map("nonce_secrets")
    assert bpf.map_lookup(fd, bytes(4), size) == secret
    assert secret.hex() not in repr(node.dataplane.status())
    pod, server_pod = make_pod(), make_pod()
    node.enrol(pod, server_pod)
    server = server_pod.serve(8080)
    refused = node.statistic(Statistic.NONCES_REFUSED)
    bpf.map_update(fd, bytes(4), bytes(size))
    try:
        pod.run(lambda: socket.create_connection((server_pod.v4, 8080), 2).close())
    finally:
        bpf.map_update(fd, bytes(4), secret)
    server.accept()
    assert node.events(EventKind.ATTESTED, 0.1) == []
    assert node.statistic(Statistic.NONCES_REFUSED) == refused + 1
