# SPDX-License-Identifier: Apache-2.0
"""Whoever can put frames on a pod's link: a neighbour that is not enrolled, or the world outside.

Its packets say what they like. What the policy does not let in reaches no socket, each is refused
with its reason, and the connections of others go on.
"""

import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from agent.abi.structs import EventKind, Statistic
from agent.dataplane import bpf
from mesh.model.network_policy import NetworkPort, PodPeer
from mesh.model.peer_authentication import MtlsMode, PeerAuthentication
from mesh.model.service import Protocol
from mesh.reasons import Reason
from tests.kernel import frames
from tests.kernel.frames import ACK, ICMP, IPV4, IPV6, MORE, SYN, TCP, UDP, VLAN
from tests.kernel.node import Node
from tests.kernel.pods import SLOWNESS, Pod
from tests.kernel.test_policy import ORIGIN, app, attempt, ingress

MakePod = Callable[..., Pod]
TAG = b"nodemesh-adversary"
ALLOWED, FORBIDDEN = 5353, 5354


@dataclass
class Scene:
    """A server that lets a friend in, to one port; and a stranger on its link."""

    node: Node
    stranger: Pod
    friend: Pod
    server: Pod
    sockets: dict[int, socket.socket]

    def throw(self, *packets: bytes, kind: int = IPV4) -> None:
        made = [
            frames.ethernet(self.stranger.mac, self.server.mac, kind, packet) for packet in packets
        ]
        self.stranger.run(lambda: frames.send(*made, protocol=kind))

    def udp4(self, port: int, payload: bytes = TAG) -> bytes:
        return frames.udp((self.stranger.v4, 5000), (self.server.v4, port), payload)

    def heard(self, port: int) -> bytes:
        try:
            return self.sockets[port].recv(9000)
        except TimeoutError:
            return b""

    def refused(self, *reasons: Reason) -> None:
        """No socket has got anything, and these are the reasons."""
        assert not any(self.heard(port) for port in self.sockets), "it has arrived"
        found = self.node.events(EventKind.DROPPED)
        assert {event.reason for event in found} == set(reasons)


@pytest.fixture
def scene(node: Node, make_pod: MakePod) -> Iterator[Scene]:
    stranger, friend, server = make_pod(), make_pod(), make_pod()
    node.enrol(friend, server)
    ports = (
        NetworkPort(protocol=Protocol.UDP, port=ALLOWED),
        NetworkPort(protocol=Protocol.TCP, port=8080),
    )
    node.set_policies(ingress(server, PodPeer(None, app(friend)), ports=ports))

    def serve(port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        made.bind(("::", port))
        made.settimeout(0.15)
        return made

    sockets = {port: server.inside(lambda port=port: serve(port)) for port in (ALLOWED, FORBIDDEN)}
    listener = server.serve(8080)
    client = friend.run_socket(lambda: socket.create_connection((server.v4, 8080), 2))
    served = listener.accept()[0]
    try:
        yield Scene(node, stranger, friend, server, sockets)
        served.settimeout(2)
        client.sendall(b"still here")
        assert served.recv(100) == b"still here", "other traffic was hurt"
        assert attempt(friend, server.v4, 8080)[0] == "open"
    finally:
        for one in (client, served, listener, *sockets.values()):
            one.close()


@pytest.mark.vm_short
def test_a_stranger_is_not_let_in(scene: Scene) -> None:
    scene.throw(frames.ipv4(scene.stranger.v4, scene.server.v4, UDP, scene.udp4(ALLOWED)))
    scene.refused(Reason.NETWORK_POLICY)
    assert attempt(scene.stranger, scene.server.v4, 8080)[0] == "ECONNREFUSED"
    scene.node.events(EventKind.DROPPED)


@pytest.mark.parametrize("tags", [1, 2, 3])
def test_vlan_tags_hide_nothing(scene: Scene, tags: int) -> None:
    """The kernel takes tags of VLAN 0 off one by one, some of them after the guard."""
    packet = frames.ipv4(scene.stranger.v4, scene.server.v4, UDP, scene.udp4(ALLOWED))
    kind = IPV4
    for _ in range(tags):
        packet, kind = frames.tagged(kind, packet), VLAN
    scene.throw(packet, kind=VLAN)
    scene.refused(Reason.NETWORK_POLICY if tags == 1 else Reason.PACKET_MALFORMED)


def test_ipv4_options_are_followed(scene: Scene) -> None:
    """No operations, a time stamp: the ports stand behind them. A source route is refused."""
    for options in (b"\x01" * 4, b"\x44\x04\x05\x00" + b"\x01" * 3, b"\x94\x04\0\0"):
        packet = scene.udp4(ALLOWED)
        scene.throw(frames.ipv4(scene.stranger.v4, scene.server.v4, UDP, packet, options=options))
        scene.refused(Reason.NETWORK_POLICY)
    bad = (b"\x83\x07\x04" + bytes(4), b"\x89\x07\x04" + bytes(4), b"\x07\x01", b"\x01" * 40)
    for options in bad:
        scene.throw(
            frames.ipv4(
                scene.stranger.v4, scene.server.v4, UDP, scene.udp4(ALLOWED), options=options
            )
        )
        scene.refused(Reason.PACKET_MALFORMED)


@pytest.mark.parametrize("count", [1, 3, 8, 9, 12])
def test_extension_headers_are_followed_to_the_eighth(scene: Scene, count: int) -> None:
    packet = frames.udp((scene.stranger.v6, 5000), (scene.server.v6, ALLOWED), TAG)
    protocol = UDP
    for _ in range(count):  # destination options, padded
        packet, protocol = bytes([protocol, 0, 1, 4, 0, 0, 0, 0]) + packet, 60
    scene.throw(frames.ipv6(scene.stranger.v6, scene.server.v6, protocol, packet), kind=IPV6)
    scene.refused(Reason.NETWORK_POLICY if count <= 8 else Reason.PACKET_MALFORMED)


def test_headers_that_lead_elsewhere_or_nowhere(scene: Scene) -> None:
    own, server = scene.stranger.v6, scene.server.v6
    datagram = frames.udp((own, 5000), (server, ALLOWED), TAG)
    routing = struct.pack(">BBBBI", UDP, 2, 4, 1, 0) + socket.inet_pton(10, server)
    twice = struct.pack(">BBHI", 44, 0, 1, 9) + struct.pack(">BBHI", UDP, 0, 0x28, 9)
    mapped = f"::ffff:{scene.friend.v4}"
    forged = frames.udp((mapped, 5000), (server, ALLOWED), TAG)
    for packet in (
        frames.ipv6(own, server, 43, routing + datagram),
        frames.ipv6(own, server, 44, twice + datagram),
        frames.ipv6(own, server, 60, b"\x11\xff\x01\x04" + bytes(4)),  # longer than the packet
        frames.ipv6(mapped, server, UDP, forged),
    ):
        scene.throw(packet, kind=IPV6)
        scene.refused(Reason.PACKET_MALFORMED)


def test_first_fragments_are_judged_and_later_ones_alone_are_nothing(scene: Scene) -> None:
    own, server = scene.stranger.v4, scene.server.v4
    datagram = scene.udp4(ALLOWED, TAG + bytes(14))
    first, rest = datagram[:24], datagram[24:]
    later = frames.ipv4(own, server, UDP, rest, place=3, number=77)
    scene.throw(later)
    assert scene.heard(ALLOWED) == b""
    scene.throw(later, frames.ipv4(own, server, UDP, first, place=MORE, number=77))
    scene.refused(Reason.NETWORK_POLICY)


@pytest.mark.vm_short
def test_a_header_split_over_fragments(scene: Scene) -> None:
    """Flags that come in a second fragment, behind padding that says something else."""
    own, server = scene.stranger.v4, scene.server.v4
    segment = frames.tcp((own, 5000), (server, 8080), SYN)
    decoy = frames.tcp((own, 5000), (server, 8080), ACK)
    tiny = frames.ipv4(own, server, TCP, segment[:8], place=MORE, number=78)
    rest = frames.ipv4(own, server, TCP, segment[8:], place=1, number=78)
    scene.throw(tiny, rest)
    scene.refused(Reason.PACKET_MALFORMED)
    scene.throw(tiny + decoy[8:], rest)  # the padding reads as an ACK
    scene.refused(Reason.PACKET_MALFORMED)
    scene.throw(frames.ipv4(own, server, UDP, scene.udp4(ALLOWED)[:4], place=MORE, number=79))
    scene.refused(Reason.NETWORK_POLICY)  # its ports are there


def test_overlapping_fragments(scene: Scene) -> None:
    """An allowed port first, then the other over it: the kernel throws such a datagram away."""
    source = scene.friend.v4  # allowed there, by what it claims
    server = scene.server.v4
    good = frames.udp((source, 5000), (server, ALLOWED), bytes(24))
    evil = frames.udp((source, 5000), (server, FORBIDDEN), bytes(8) + TAG[:16])
    scene.throw(
        frames.ipv4(source, server, UDP, good[:24], place=MORE, number=80),
        frames.ipv4(source, server, UDP, evil[:24], place=MORE, number=80),
        frames.ipv4(source, server, UDP, evil[24:], place=3, number=80),
    )
    assert scene.heard(FORBIDDEN) == b""
    assert {event.reason for event in scene.node.events(EventKind.DROPPED)} == {
        Reason.NETWORK_POLICY
    }


@pytest.mark.parametrize("of", ["udp", "tcp"])
def test_icmp_errors_about_nothing(scene: Scene, of: str) -> None:
    """The packet within was never sent. What a real one does is in the next test."""
    own, server = scene.stranger.v4, scene.server.v4
    if of == "udp":
        inner = frames.ipv4(server, own, UDP, frames.udp((server, 6000), (own, 6001), TAG))
    else:
        inner = frames.ipv4(server, own, TCP, frames.tcp((server, 8080), (own, 6001), ACK))
    for code in (3, 4):
        error = frames.icmp(3, code, struct.pack(">HH", 0, 576) + inner)
        scene.throw(frames.ipv4(own, server, ICMP, error))
        scene.refused(Reason.HANDSHAKE_UNKNOWN)


def test_icmp_errors_about_what_was_sent_arrive(scene: Scene) -> None:
    def ask() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(2)
            client.connect((scene.stranger.v4, 6001))
            client.send(b"is there somebody?")
            try:
                client.recv(10)
            except ConnectionRefusedError:
                return "refused"
        return "answered"

    assert scene.server.run(ask) == "refused"


def test_udp_replies_come_and_others_do_not(scene: Scene) -> None:
    """From whom was asked, from that port to that port."""

    def serve() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((scene.stranger.v4, 6001))
        made.settimeout(2)
        return made

    def ask() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((scene.server.v4, 6000))
        made.sendto(b"question", (scene.stranger.v4, 6001))
        made.settimeout(0.3)
        return made

    far, near = scene.stranger.inside(serve), scene.server.run_socket(ask)
    near.settimeout(0.3)
    assert far.recv(100) == b"question"
    far.sendto(b"answer", (scene.server.v4, 6000))
    assert near.recv(100) == b"answer"
    other = frames.udp((scene.stranger.v4, 6002), (scene.server.v4, 6000), TAG)
    scene.throw(frames.ipv4(scene.stranger.v4, scene.server.v4, UDP, other))
    with pytest.raises(TimeoutError):
        near.recv(100)
    scene.refused(Reason.NETWORK_POLICY)
    far.close()
    near.close()


@pytest.mark.parametrize("version", [4, 6])
def test_echo_is_judged_and_answered(scene: Scene, version: int) -> None:
    """Nobody outside may ping the server, and the server may ping anybody."""
    target = scene.server.v4 if version == 4 else scene.server.v6
    other = scene.stranger.v4 if version == 4 else scene.stranger.v6

    def ping(address: str) -> bool:
        family, protocol = (2, ICMP) if version == 4 else (10, 58)
        with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
            raw.settimeout(0.3)
            body = struct.pack(">HH", 77, 1) + TAG
            # The kernel adds the checksum of ICMPv6 itself.
            raw.sendto(
                frames.icmp(8, 0, body) if version == 4 else b"\x80\0\0\0" + body, (address, 0)
            )
            try:
                while True:
                    got = raw.recv(1000)
                    if TAG in got and got[20 if version == 4 else 0] in (0, 129):
                        return True
            except TimeoutError:
                return False

    assert not scene.stranger.run(lambda: ping(target))
    scene.refused(Reason.NETWORK_POLICY)
    assert scene.server.run(lambda: ping(other))


def test_a_frame_forged_into_an_open_connection(scene: Scene) -> None:
    """From an enrolled pod it does not pass the seal; and a blind one does not harm."""
    scene.node.enrol(scene.stranger)
    scene.node.set_policies()
    segment = frames.tcp((scene.friend.v4, 40000), (scene.server.v4, 8080), 0x18, TAG)
    scene.throw(frames.ipv4(scene.friend.v4, scene.server.v4, TCP, segment))
    scene.refused(Reason.SOURCE_FORGED)


@pytest.mark.vm_short
def test_a_flood_of_claims_leaves_nothing_behind(scene: Scene) -> None:
    """SYNs from a friend's address that nobody proves: judged, and not remembered."""
    before = scene.node.map_size("peerings")
    packets = [
        frames.ipv4(
            scene.friend.v4,
            scene.server.v4,
            TCP,
            frames.tcp((scene.friend.v4, 20000 + number), (scene.server.v4, 8080), SYN),
        )
        for number in range(300)
    ]
    scene.throw(*packets)
    assert scene.node.map_size("peerings") <= before + 1


def test_the_nodes_address_proves_nothing_where_strict(scene: Scene) -> None:
    """NodePort traffic has it too, masqueraded; a probe of the node itself passes."""
    strict = PeerAuthentication(
        namespace="shop", name="strict", mode=MtlsMode.STRICT, origin=ORIGIN
    )
    scene.node.set_policies(strict)
    scene.throw(
        frames.ipv4(
            "10.230.0.1",
            scene.server.v4,
            TCP,
            frames.tcp(("10.230.0.1", 5000), (scene.server.v4, 8080), SYN),
        )
    )
    scene.refused(Reason.NOT_ATTESTED)

    def probe() -> None:
        socket.create_connection((scene.server.v4, 8080), 2 * SLOWNESS).close()

    attested = scene.node.statistic(Statistic.NODE_ATTESTED)
    scene.node.lan.run_on_host(probe)
    assert scene.node.statistic(Statistic.NODE_ATTESTED) == attested + 1


@pytest.mark.vm_short
def test_a_proven_connection_that_stays_silent_stays_proven(node: Node, make_pod: MakePod) -> None:
    """What the nonce has proven is with the socket as soon as it is one, not with its first packet:
    a pool opens connections long before it uses them."""
    client, server = make_pod(), make_pod()
    node.enrol(client, server)
    node.set_policies(
        PeerAuthentication(namespace="shop", name="s", mode=MtlsMode.STRICT, origin=ORIGIN)
    )
    listener = server.serve(8080)
    opened = client.run_socket(lambda: socket.create_connection((server.v4, 8080), 2))
    served = listener.accept()[0]
    assert node.map_size("peerings") == 0
    node.set_policies(
        PeerAuthentication(namespace="shop", name="t", mode=MtlsMode.STRICT, origin=ORIGIN)
    )
    opened.sendall(b"at last")
    served.settimeout(2)
    assert served.recv(100) == b"at last"
    for one in (opened, served, listener):
        one.close()


def test_a_pods_quota_of_flows_is_its_own_and_comes_back(node: Node, make_pod: MakePod) -> None:
    """What is remembered of flows ages, and is given back; a full quota refuses no policy's yes."""
    client, server = make_pod(), make_pod()
    node.enrol(client, server)
    count = 500

    def scan() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for port in range(20000, 20000 + count):
                sender.sendto(b"x", (server.v4, port))

    client.run(scan)
    assert node.map_size("peerings") >= count
    assert node.reap().peerings == 0
    made = node.map_size("peerings")
    assert node.reap(after=130).peerings == made
    assert node.map_size("peerings") == 0
    fd, cookie = node.map("peerings_aged"), node.enrolled(client).netns_cookie
    given_back = bpf.map_lookup(fd, cookie.to_bytes(8, "little"), 8)
    assert given_back is not None
    assert int.from_bytes(given_back, "little") >= count
