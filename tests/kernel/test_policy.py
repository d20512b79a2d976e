# SPDX-License-Identifier: Apache-2.0
"""Policies at the hooks: compiled from real ones, asked by real packets."""

import errno
import socket
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Network, ip_network

import pytest

from agent.abi.policy import Direction
from agent.abi.structs import EventKind, Statistic
from mesh.model.authorization_policy import (
    Action,
    AuthorizationPolicy,
    AuthorizationRule,
    Match,
    MatchKind,
    Operation,
    Source,
)
from mesh.model.labels import Labels
from mesh.model.network_policy import (
    IpBlock,
    NetworkPeer,
    NetworkPolicy,
    NetworkPort,
    NetworkRule,
    PodPeer,
    PolicyTypes,
)
from mesh.model.peer_authentication import MtlsMode, PeerAuthentication
from mesh.model.policy import LabelSelector, Origin
from mesh.model.service import Protocol
from mesh.reasons import Reason
from tests.kernel.node import Node
from tests.kernel.pods import Pod

MakePod = Callable[..., Pod]
ORIGIN = Origin("test.yaml", 1)


def app(pod: Pod) -> LabelSelector:
    return LabelSelector(Labels({"app": pod.name}))


def ingress(
    pod: Pod, *peers: NetworkPeer, ports: tuple[NetworkPort, ...] = (), name: str = "np"
) -> NetworkPolicy:
    """Only these peers may enter; none at all: nobody."""
    rules = (NetworkRule(peers, ports, ORIGIN),) if peers or ports else ()
    return NetworkPolicy(
        namespace="shop",
        name=name,
        pods=app(pod),
        types=PolicyTypes.INGRESS,
        ingress=rules,
        origin=ORIGIN,
    )


def egress(pod: Pod, *peers: NetworkPeer, ports: tuple[NetworkPort, ...] = ()) -> NetworkPolicy:
    rules = (NetworkRule(peers, ports, ORIGIN),) if peers or ports else ()
    return NetworkPolicy(
        namespace="shop",
        name="out",
        pods=app(pod),
        types=PolicyTypes.EGRESS,
        egress=rules,
        origin=ORIGIN,
    )


def attempt(pod: Pod, target: str, port: int, timeout: float = 2) -> tuple[str, float]:
    """How a connect() ends, and after how long."""

    def dial() -> tuple[str, float]:
        started = time.monotonic()
        try:
            with socket.create_connection((target, port), timeout):
                return "open", time.monotonic() - started
        except OSError as error:
            name = "timeout" if error.errno is None else errno.errorcode[error.errno]
            return name, time.monotonic() - started

    return pod.run(dial)


@pytest.mark.parametrize("version", [4, pytest.param(6, marks=pytest.mark.vm_short)])
def test_ingress_by_label_refuses_with_a_reset(node: Node, make_pod: MakePod, version: int) -> None:
    friend, stranger, server = make_pod(), make_pod(), make_pod()
    node.enrol(friend, stranger, server)
    target = server.v4 if version == 4 else server.v6
    listener = server.serve(8080, target)
    node.set_policies(ingress(server, PodPeer(None, app(friend))))
    assert attempt(friend, target, 8080)[0] == "open"
    listener.accept()
    how, seconds = attempt(stranger, target, 8080)
    assert (how, seconds < 0.5) == ("ECONNREFUSED", True)
    (event,) = node.events(EventKind.DROPPED)
    assert event.reason is Reason.NETWORK_POLICY
    assert event.direction is Direction.INGRESS
    assert event.source_workload == node.enrolled(stranger).workload_id
    node.set_policies()
    assert attempt(stranger, target, 8080)[0] == "open"


def test_egress_fails_at_once(node: Node, make_pod: MakePod) -> None:
    client, allowed, other = make_pod(), make_pod(), make_pod()
    node.enrol(client, allowed, other)
    listeners = [pod.serve(8080) for pod in (allowed, other)]
    node.set_policies(egress(client, PodPeer(None, app(allowed)), ports=(NetworkPort(port=8080),)))
    assert attempt(client, allowed.v4, 8080)[0] == "open"
    assert attempt(client, other.v4, 8080)[0] == "EPERM"
    assert attempt(client, allowed.v4, 8081)[0] == "EPERM"
    assert attempt(client, "10.230.77.77", 8080)[0] == "EPERM"
    assert len(listeners) == 2


def test_address_blocks_with_exceptions(node: Node, make_pod: MakePod) -> None:
    inside, hole, server = make_pod(), make_pod(), make_pod()
    node.enrol(server)
    listener = server.serve(8080)
    block = IpBlock(IPv4Network("10.230.0.0/16"), (IPv4Network(f"{hole.v4}/32"),))
    node.set_policies(ingress(server, block, ports=(NetworkPort(port=8000, end_port=8100),)))
    assert attempt(inside, server.v4, 8080)[0] == "open"
    assert attempt(hole, server.v4, 8080)[0] == "ECONNREFUSED"
    listener.close()


def test_principals_need_proof(node: Node, make_pod: MakePod) -> None:
    """The same pod, enrolled and not: only the nonce proves who it is."""
    client, server = make_pod(), make_pod()
    node.enrol(client, server)
    listener = server.serve(8080)
    principal = Match(MatchKind.EXACT, f"cluster.local/ns/shop/sa/{client.name}")
    allow = AuthorizationPolicy(
        namespace="shop",
        name="allow",
        selector=Labels({"app": server.name}),
        rules=(
            AuthorizationRule(
                sources=(Source(principals=(principal,)),),
                operations=(Operation(ports=(8080,)),),
                origin=ORIGIN,
            ),
        ),
        origin=ORIGIN,
    )
    node.set_policies(allow)
    assert attempt(client, server.v4, 8080)[0] == "open"

    def forge() -> str:
        try:
            socket.create_connection((server.v4, 8080), 2).close()
        except ConnectionRefusedError:
            return "refused"
        return "open"

    assert client.inside(forge) == "refused"  # its address, but no hook: no nonce
    (event,) = node.events(EventKind.DROPPED)
    assert event.reason is Reason.NO_ALLOW_RULE
    listener.close()


def test_deny_wins_and_strict_refuses_the_unproven(node: Node, make_pod: MakePod) -> None:
    client, stranger, server = make_pod(), make_pod(), make_pod()
    node.enrol(client, server)
    listener = server.serve(8080)
    strict = PeerAuthentication(
        namespace="shop", name="strict", mode=MtlsMode.STRICT, origin=ORIGIN
    )
    node.set_policies(strict)
    assert attempt(client, server.v4, 8080)[0] == "open"
    assert attempt(stranger, server.v4, 8080)[0] == "ECONNREFUSED"
    assert node.events(EventKind.DROPPED)[0].reason is Reason.NOT_ATTESTED
    deny = AuthorizationPolicy(
        namespace="shop",
        name="deny",
        action=Action.DENY,
        rules=(
            AuthorizationRule(sources=(Source(ip_blocks=(ip_network(client.v4),)),), origin=ORIGIN),
        ),
        origin=ORIGIN,
    )
    node.set_policies(strict, deny)
    assert attempt(client, server.v4, 8080)[0] == "ECONNREFUSED"
    assert node.events(EventKind.DROPPED)[0].reason is Reason.POLICY_DENY
    listener.close()


def test_a_change_ends_what_it_forbids_and_nothing_else(node: Node, make_pod: MakePod) -> None:
    kept, cut, server = make_pod(), make_pod(), make_pod()
    node.enrol(kept, cut, server)
    listener = server.serve(8080)

    def dial() -> socket.socket:
        return socket.create_connection((server.v4, 8080), 2)

    pairs = []
    for pod in (kept, cut):
        client = pod.run_socket(dial)
        client.settimeout(2)
        pairs.append((client, listener.accept()[0]))
    node.set_policies(ingress(server, PodPeer(None, app(kept))))
    for client, served in pairs:
        served.settimeout(0.5)
        client.sendall(b"still there?")
    assert pairs[0][1].recv(100) == b"still there?"
    with pytest.raises(TimeoutError):
        pairs[1][1].recv(100)
    with pytest.raises(ConnectionResetError):
        pairs[1][0].recv(100)


def test_a_connect_under_way_is_refused_when_it_is_forbidden(node: Node, make_pod: MakePod) -> None:
    """Its SYN was lost before the change; the next is refused at once, not left to time out."""
    pod, server_pod = make_pod(), make_pod()
    node.enrol(pod, server_pod)
    node.set_policies()
    server_pod.serve(8080)
    server_pod.sh("ip link set eth0 down")
    found: list[tuple[str, float]] = []
    dialling = threading.Thread(target=lambda: found.append(attempt(pod, server_pod.v4, 8080, 9)))
    dialling.start()
    time.sleep(0.3)
    node.set_policies(egress(pod))
    server_pod.sh("ip link set eth0 up")
    dialling.join()
    assert [name for name, _ in found] == ["ECONNREFUSED"]
    assert {one.reason for one in node.events(EventKind.DROPPED)} == {Reason.NETWORK_POLICY}


def test_udp_ingress_and_replies(node: Node, make_pod: MakePod) -> None:
    friend, stranger, server = make_pod(), make_pod(), make_pod()
    node.enrol(friend, stranger, server)

    def serve() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((server.v4, 5353))
        made.settimeout(0.5)
        return made

    service = server.inside(serve)
    node.set_policies(
        ingress(
            server,
            PodPeer(None, app(friend)),
            ports=(NetworkPort(protocol=Protocol.UDP, port=5353),),
        )
    )

    def send() -> None:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"ask", (server.v4, 5353))

    friend.run(send)
    assert service.recv(100) == b"ask"
    stranger.run(send)
    with pytest.raises(TimeoutError):
        service.recv(100)


def test_nothing_passes_before_policies_are_known(node: Node, make_pod: MakePod) -> None:
    client, server = make_pod(), make_pod()
    node.enrol(client, server)
    listener = server.serve(8080)
    number = node.enrolled(server).workload_id
    node.forget_subject(number)
    assert attempt(client, server.v4, 8080)[0] == "ECONNREFUSED"
    assert node.events(EventKind.DROPPED)[0].reason is Reason.POLICY_UNKNOWN
    listener.close()


def test_the_node_proves_itself_and_its_pods_do_not(node: Node, make_pod: MakePod) -> None:
    """A probe passes where everybody else is refused; the node's address is no proof."""
    server = make_pod()
    node.enrol(server)
    listener = server.serve(8080)
    node.set_policies(ingress(server))

    def dial() -> str:
        try:
            socket.create_connection((server.v4, 8080), 2).close()
        except ConnectionRefusedError:
            return "refused"
        return "open"

    assert node.lan.run_on_host(dial) == "open"
    listener.accept()
    hostnet = node.lan.cgroup / "hostnet"
    hostnet.mkdir()
    try:
        assert node.lan.run_on_host(dial, hostnet) == "refused"
    finally:
        hostnet.rmdir()
    (event,) = node.events(EventKind.DROPPED)
    assert event.reason is Reason.NETWORK_POLICY


def test_a_dry_run_refuses_nothing_and_is_told(node: Node, make_pod: MakePod) -> None:
    client, server = make_pod(), make_pod()
    node.enrol(client, server)
    listener = server.serve(8080)
    deny = AuthorizationPolicy(
        namespace="shop",
        name="dry",
        action=Action.DENY,
        dry_run=True,
        rules=(
            AuthorizationRule(sources=(Source(ip_blocks=(ip_network(client.v4),)),), origin=ORIGIN),
        ),
        origin=ORIGIN,
    )
    node.set_policies(deny)
    before = node.statistic(Statistic.DRY_DENIED)
    assert attempt(client, server.v4, 8080)[0] == "open"
    event = node.events(EventKind.DRY_DENIED)[0]
    assert event.source_workload == node.enrolled(client).workload_id
    assert event.destination_workload == node.enrolled(server).workload_id
    assert node.statistic(Statistic.DRY_DENIED) > before
    listener.close()
