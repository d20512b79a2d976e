# SPDX-License-Identifier: Apache-2.0
"""A pod with CAP_NET_RAW (and more) that wants out: where to, as whom, and how, is not its choice.

No frame with the tag reaches the victim, each has its reason, and what the pod may do goes on.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from agent.abi.policy import Direction
from agent.abi.structs import EventKind, Statistic
from agent.dataplane import kernel
from mesh.model.network_policy import PodPeer
from mesh.reasons import Reason
from tests.kernel import frames
from tests.kernel.frames import ICMP, ICMPV6, IPV4, IPV6, SCTP, TCP, UDP, VLAN, Tap
from tests.kernel.node import REMOTE_V4, Node
from tests.kernel.pods import SLOWNESS, Pod, run_as
from tests.kernel.test_policy import app, attempt, egress

MakePod = Callable[..., Pod]
TAG = b"nodemesh-adversary"


@dataclass
class Scene:
    """An attacker that may talk to a friend only, and a victim that it may not talk to."""

    node: Node
    attacker: Pod
    friend: Pod
    victim: Pod
    tap: Tap

    def frame(self, packet: bytes, kind: int = IPV4, target: Pod | None = None) -> bytes:
        return frames.ethernet(self.attacker.mac, (target or self.victim).mac, kind, packet)

    def udp4(self, source: str | None = None, payload: bytes = TAG) -> bytes:
        source = source or self.attacker.v4
        packet = frames.udp((source, 5000), (self.victim.v4, 5353), payload)
        return frames.ipv4(source, self.victim.v4, UDP, packet)

    def refused(self, reason: Reason) -> None:
        """Nothing has arrived, and that is the reason."""
        assert not self.tap.saw(TAG), "it has arrived"
        found = self.node.events(EventKind.DROPPED)
        told = {(event.reason, event.source_workload, event.direction) for event in found}
        assert told == {(reason, self.node.enrolled(self.attacker).workload_id, Direction.EGRESS)}


@pytest.fixture
def scene(node: Node, make_pod: MakePod) -> Iterator[Scene]:
    attacker, friend, victim = make_pod(), make_pod(), make_pod()
    node.enrol(attacker, friend, victim)
    node.set_policies(egress(attacker, PodPeer(None, app(friend))))
    listener = friend.serve(8080)
    made = Scene(node, attacker, friend, victim, Tap(victim))
    for pod in (friend, victim):  # what they know of each other does not depend on the attack
        attacker.sh(f"ip neigh replace {pod.v4} lladdr {pod.mac} dev eth0 nud permanent")
    try:
        yield made
        assert attempt(attacker, friend.v4, 8080)[0] == "open", "other traffic was hurt"
    finally:
        made.tap.close()
        listener.close()
        node.reap(after=20)  # the nonces of what was not let out


def test_the_scene_lets_through_what_is_allowed(scene: Scene) -> None:
    """Else none of the other tests would say anything: the same frame, without the policy."""
    frame = scene.frame(scene.udp4())
    scene.node.set_policies()
    scene.attacker.run(lambda: frames.send(frame))
    assert scene.tap.saw(TAG)


@pytest.mark.parametrize("version", [4, pytest.param(6, marks=pytest.mark.vm_short)])
def test_another_pods_address(scene: Scene, version: int) -> None:
    scene.node.set_policies()
    sealed = scene.node.statistic(Statistic.SEALED)
    if version == 4:
        frame = scene.frame(scene.udp4(scene.friend.v4))
        scene.attacker.run(lambda: frames.send(frame))
    else:
        source = scene.friend.v6
        packet = frames.udp((source, 5000), (scene.victim.v6, 5353), TAG)
        frame = scene.frame(frames.ipv6(source, scene.victim.v6, UDP, packet), IPV6)
        scene.attacker.run(lambda: frames.send(frame, protocol=IPV6))
    scene.refused(Reason.SOURCE_FORGED)
    assert scene.node.statistic(Statistic.SEALED) == sealed + 1


def test_another_pods_address_added_to_the_own_interface(scene: Scene) -> None:
    """With CAP_NET_ADMIN; the agent looks after the pod, and does not believe it."""
    scene.node.set_policies()
    scene.attacker.sh(f"ip addr add {scene.friend.v4}/32 dev eth0")
    scene.node.care(deep=True)
    frame = scene.frame(scene.udp4(scene.friend.v4))
    scene.attacker.run(lambda: frames.send(frame))
    scene.refused(Reason.SOURCE_FORGED)
    scene.attacker.sh(f"ip addr del {scene.friend.v4}/32 dev eth0")


@pytest.mark.parametrize("mark", [0, 0x6D65, 0x6D657361], ids=["plain", "dial", "answer"])
def test_a_raw_packet_is_judged_whatever_its_mark(scene: Scene, mark: int) -> None:
    frame = scene.frame(scene.udp4())
    scene.attacker.run(lambda: frames.send(frame, mark=mark))
    scene.refused(Reason.NETWORK_POLICY)


@pytest.mark.vm_short
def test_round_the_guard_by_qdisc_bypass(scene: Scene) -> None:
    frame = scene.frame(scene.udp4())
    scene.attacker.run(lambda: frames.send(frame, bypass=True))
    scene.refused(Reason.NOT_STAMPED)


def test_round_the_guard_by_a_32_bit_system_call(scene: Scene) -> None:
    frame = scene.frame(scene.udp4())
    if not scene.attacker.run(lambda: frames.send_with_32_bit_bypass(frame)):
        pytest.skip("the kernel has no 32-bit system calls")
    scene.refused(Reason.NOT_STAMPED)


def test_round_the_guard_by_af_xdp(scene: Scene) -> None:
    frame = scene.frame(scene.udp4())
    how = scene.attacker.run(lambda: frames.send_by_xdp(frame))
    if how != "sent":
        pytest.skip(f"AF_XDP: {how}")
    scene.refused(Reason.NOT_STAMPED)


@pytest.mark.vm_short
def test_a_removed_guard_seals_the_pod_until_it_is_back(scene: Scene) -> None:
    """CAP_NET_ADMIN: nothing leaves meanwhile, not even what is allowed."""
    scene.node.care()
    scene.attacker.sh("tc qdisc del dev eth0 clsact")
    frame = scene.frame(scene.udp4())
    scene.attacker.run(lambda: frames.send(frame))
    scene.refused(Reason.NOT_STAMPED)
    assert attempt(scene.attacker, scene.friend.v4, 8080, 0.3)[0] == "timeout"
    scene.node.care()  # the watch has heard of it: not a deep visit
    scene.node.events(EventKind.DROPPED, 0.1)
    scene.attacker.run(lambda: frames.send(frame))
    scene.refused(Reason.NETWORK_POLICY)


def test_a_removed_guard_is_put_back_within_a_second(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """By the agent's own loop, which says so."""
    scene.node.care()

    async def look_after() -> None:
        task = asyncio.create_task(scene.node.dataplane.run(lambda _changed: None))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(scene.attacker.sh, "tc qdisc del dev eth0 clsact")
        await asyncio.sleep(1 * SLOWNESS)
        task.cancel()
        await asyncio.wait([task])

    scene.node.runner.run(look_after())
    assert "lost a guard" in caplog.text
    assert "mesh_guard" in scene.attacker.sh("tc filter show dev eth0 egress")


@pytest.mark.parametrize("said", [0x88B5, frames.ARP, IPV6], ids=["unknown", "arp", "ipv6"])
def test_a_frame_that_is_not_what_its_sender_says(scene: Scene, said: int) -> None:
    """AF_PACKET lets the sender name the protocol; the receiver reads the frame."""
    frame = scene.frame(scene.udp4())
    scene.attacker.run(lambda: frames.send(frame, protocol=said))
    scene.refused(Reason.PACKET_MALFORMED)


@pytest.mark.parametrize("tags", [1, 2])
def test_vlan_tags_of_ones_own(scene: Scene, tags: int) -> None:
    """A tag of VLAN 0 is none to the receiver: it delivers what is inside."""
    packet, kind = scene.udp4(), IPV4
    for _ in range(tags):
        packet, kind = frames.tagged(kind, packet), VLAN
    frame = scene.frame(packet, kind)
    scene.attacker.run(lambda: frames.send(frame, protocol=VLAN))
    scene.refused(Reason.PACKET_MALFORMED)
    scene.attacker.run(lambda: frames.send(frame, protocol=IPV4))
    scene.refused(Reason.PACKET_MALFORMED)
    scene.attacker.run(lambda: frames.send(frame, protocol=VLAN, bypass=True))
    scene.refused(Reason.NOT_STAMPED if tags == 1 else Reason.PACKET_MALFORMED)


def test_a_protocol_that_is_not_ip(scene: Scene) -> None:
    frame = scene.frame(TAG * 3, 0x88B5)
    scene.attacker.run(lambda: frames.send(frame, protocol=0x88B5))
    scene.refused(Reason.PACKET_MALFORMED)
    scene.attacker.run(lambda: frames.send(frame, protocol=0x88B5, bypass=True))
    scene.refused(Reason.PACKET_MALFORMED)


@pytest.mark.parametrize("protocol", [frames.GRE, SCTP, 253], ids=["gre", "sctp", "unknown"])
def test_protocols_without_sockets_are_judged(scene: Scene, protocol: int) -> None:
    payload = struct.pack(">HH", 5000, 5353) + bytes(8) + TAG
    four = scene.frame(frames.ipv4(scene.attacker.v4, scene.victim.v4, protocol, payload))
    six = frames.ipv6(scene.attacker.v6, scene.victim.v6, protocol, payload)
    scene.attacker.run(lambda: frames.send(four))
    scene.refused(Reason.NETWORK_POLICY)
    scene.attacker.run(lambda: frames.send(scene.frame(six, IPV6), protocol=IPV6))
    scene.refused(Reason.NETWORK_POLICY)


def test_later_fragments_alone(scene: Scene) -> None:
    """No port to judge, and a receiver who knows what to make of them."""
    packet = frames.ipv4(scene.attacker.v4, scene.victim.v4, UDP, TAG, place=0x20)
    fragment = struct.pack(">BBHI", UDP, 0, 0x20 << 3, 7) + TAG
    six = frames.ipv6(scene.attacker.v6, scene.victim.v6, 44, fragment)
    scene.attacker.run(lambda: frames.send(scene.frame(packet)))
    scene.refused(Reason.HANDSHAKE_UNKNOWN)
    scene.attacker.run(lambda: frames.send(scene.frame(six, IPV6), protocol=IPV6))
    scene.refused(Reason.HANDSHAKE_UNKNOWN)


@pytest.mark.parametrize("version", [4, pytest.param(6, marks=pytest.mark.vm_short)])
def test_fragments_of_an_allowed_datagram_pass(scene: Scene, version: int) -> None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    target = scene.friend.v4 if version == 4 else scene.friend.v6

    def serve() -> socket.socket:
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind((target, 5353))
        server.settimeout(2)
        return server

    server = scene.friend.inside(serve)

    def ask() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            for _ in range(3):
                client.sendto(TAG * 400, (target, 5353))

    scene.attacker.run(ask)
    for _ in range(3):
        assert server.recv(9000) == TAG * 400
    server.close()
    assert scene.node.events(EventKind.DROPPED, 0.05) == []


@pytest.mark.parametrize(
    "way", ["unreachable", "echo-reply", "unreachable6", "reset", "ack-of-listener", "syn-ack"]
)
def test_answers_to_nobody(scene: Scene, way: str) -> None:
    """Errors, replies and resets carry data too; without a question they are judged as any."""
    own, victim = scene.attacker.v4, scene.victim.v4
    listener = scene.attacker.serve(7777)
    if way == "unreachable":
        inner = frames.ipv4(victim, own, UDP, frames.udp((victim, 5353), (own, 5000), TAG))
        packet = frames.ipv4(own, victim, ICMP, frames.icmp(3, 3, bytes(4) + inner))
    elif way == "unreachable6":
        own, victim = scene.attacker.v6, scene.victim.v6
        inner = frames.ipv6(victim, own, UDP, frames.udp((victim, 5353), (own, 5000), TAG))
        body = frames.icmpv6(own, victim, 1, bytes(4) + inner)
        packet = frames.ipv6(own, victim, ICMPV6, body)
    elif way == "echo-reply":
        packet = frames.ipv4(own, victim, ICMP, frames.icmp(0, 0, bytes(4) + TAG))
    else:
        flags = {"reset": frames.RST, "ack-of-listener": frames.ACK}.get(way, 0x12)
        segment = frames.tcp((own, 7777), (victim, 5353), flags, TAG)
        packet = frames.ipv4(own, victim, TCP, segment)
    kind = IPV6 if way == "unreachable6" else IPV4
    scene.attacker.run(lambda: frames.send(scene.frame(packet, kind), protocol=kind))
    scene.refused(Reason.NETWORK_POLICY)
    listener.close()


@pytest.mark.vm_short
def test_raw_tcp_round_the_tunnel(scene: Scene) -> None:
    """A TCP stack of one's own in user space; and a process that the connect hook does not see."""
    scene.node.set_policies()
    packet = frames.tcp((scene.attacker.v4, 5001), (REMOTE_V4, 15008), frames.SYN, TAG)
    frame = scene.frame(frames.ipv4(scene.attacker.v4, REMOTE_V4, TCP, packet))
    scene.attacker.run(lambda: frames.send(frame))
    scene.refused(Reason.TUNNEL_BYPASSED)

    def dial() -> str:
        with socket.socket() as client:
            client.settimeout(0.2)
            try:
                client.connect((REMOTE_V4, 80))
            except OSError as error:
                return type(error).__name__
            return "open"

    unseen = kernel.cgroup2_mount() / f"{scene.node.lan.cgroup_name}-unseen"
    unseen.mkdir()
    try:
        assert run_as(unseen, scene.attacker.fd, dial) == "ConnectionRefusedError"
    finally:
        unseen.rmdir()
    scene.refused(Reason.TUNNEL_BYPASSED)


def test_dhcp_ports_and_neighbour_discovery_are_no_way_out(scene: Scene) -> None:
    packet = frames.udp((scene.attacker.v4, 68), (scene.victim.v4, 67), TAG)
    frame = scene.frame(frames.ipv4(scene.attacker.v4, scene.victim.v4, UDP, packet))
    scene.attacker.run(lambda: frames.send(frame))
    scene.refused(Reason.NETWORK_POLICY)
    own, victim = scene.attacker.v6, scene.victim.v6
    body = frames.icmpv6(own, victim, 135, bytes(4) + socket.inet_pton(10, victim) + TAG * 4)
    for hops in (64, 255):
        frame = scene.frame(frames.ipv6(own, victim, ICMPV6, body, hops), IPV6)
        scene.attacker.run(lambda frame=frame: frames.send(frame, protocol=IPV6))
        scene.refused(Reason.NETWORK_POLICY)


def test_source_routes_and_segments_left(scene: Scene) -> None:
    """Addressed to the friend, who may be talked to, and sent on from there."""
    route = struct.pack(">BBB", 131, 7, 4) + socket.inet_aton(scene.victim.v4)
    own, friend = scene.attacker.v4, scene.friend.v4
    packet = frames.ipv4(
        own, friend, UDP, frames.udp((own, 5000), (friend, 5353), TAG), options=route
    )
    own, friend = scene.attacker.v6, scene.friend.v6
    header = struct.pack(">BBBBI", UDP, 2, 4, 1, 0) + socket.inet_pton(10, scene.victim.v6)
    six = frames.ipv6(own, friend, 43, header + frames.udp((own, 5000), (friend, 5353), TAG))
    scene.attacker.run(lambda: frames.send(scene.frame(packet)))
    scene.refused(Reason.PACKET_MALFORMED)
    scene.attacker.run(lambda: frames.send(scene.frame(six, IPV6), protocol=IPV6))
    scene.refused(Reason.PACKET_MALFORMED)


def test_arp_for_another_pod(scene: Scene) -> None:
    """A reply nobody asked for, that says the friend is here; also round the guard."""
    packet = frames.arp(2, scene.attacker.mac, scene.friend.v4, scene.victim.mac, scene.victim.v4)
    frame = scene.frame(packet + TAG, frames.ARP)
    scene.attacker.run(lambda: frames.send(frame, protocol=frames.ARP))
    scene.refused(Reason.SOURCE_FORGED)
    scene.attacker.run(lambda: frames.send(frame, protocol=frames.ARP, bypass=True))
    scene.refused(Reason.SOURCE_FORGED)


@pytest.mark.parametrize("kind", [134, 135, 136, 137])
def test_neighbour_discovery_for_another_pod(scene: Scene, kind: int) -> None:
    friend = socket.inet_pton(socket.AF_INET6, scene.friend.v6)
    source = "::" if kind == 135 else scene.attacker.v6
    body = frames.icmpv6(source, "ff02::1", kind, bytes(4) + friend + TAG)
    target = "33:33:00:00:00:01"
    packet = frames.ipv6(source, "ff02::1", ICMPV6, body, 255)
    frame = frames.ethernet(scene.attacker.mac, target, IPV6, packet)
    scene.attacker.run(lambda: frames.send(frame, protocol=IPV6))
    scene.refused(Reason.SOURCE_FORGED)


@pytest.mark.vm_short
def test_what_a_link_needs_goes_on(scene: Scene) -> None:
    """Addresses are found free, neighbours found, groups joined, though nothing may leave."""
    scene.node.set_policies(egress(scene.attacker), egress(scene.friend))
    for pod in (scene.attacker, scene.friend):
        pod.sh("ip neigh flush all; ip -6 neigh flush all", check=False)
    scene.attacker.sh("ip -6 addr add fd23:1::77/64 dev eth0")
    until = time.monotonic() + 5 * SLOWNESS
    while "tentative" in scene.attacker.sh("ip -6 addr show dev eth0"):
        assert time.monotonic() < until, "duplicate address detection does not end"
        time.sleep(0.1)
    assert "dadfailed" not in scene.attacker.sh("ip -6 addr show dev eth0")

    def join() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as member:
            group = socket.inet_pton(socket.AF_INET6, "ff05::77") + struct.pack("i", 0)
            member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)

    scene.attacker.run(join)
    scene.node.set_policies(egress(scene.attacker, PodPeer(None, app(scene.friend))))
    listener = scene.friend.serve(8081, scene.friend.v6)
    assert attempt(scene.attacker, scene.friend.v6, 8081)[0] == "open"
    listener.close()
    told = {event.reason for event in scene.node.events(EventKind.DROPPED, 0.05)}
    assert told <= {Reason.SOURCE_FORGED}  # the address that is not the pod's


@pytest.mark.parametrize("version", [4, 6])
def test_a_refused_datagram_is_answered(scene: Scene, version: int) -> None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    target = scene.victim.v4 if version == 4 else scene.victim.v6

    def ask() -> str:
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(2)
            client.connect((target, 5353))
            client.send(TAG)
            try:
                client.recv(100)
            except OSError as error:
                return type(error).__name__ + str(error.errno)
        return "answered"

    assert scene.attacker.run(ask) == ("OSError113" if version == 4 else "PermissionError13")
    scene.refused(Reason.NETWORK_POLICY)
