# SPDX-License-Identifier: Apache-2.0
"""What is open when the policy changes: idle connections, and flows of datagrams."""

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from agent.abi.policy import Direction
from agent.abi.structs import EventKind
from mesh.model.network_policy import NetworkPort, PodPeer
from mesh.model.service import Protocol
from mesh.reasons import Reason
from tests.kernel.node import Node
from tests.kernel.pods import SLOWNESS, Pod
from tests.kernel.test_policy import app, egress, ingress

MakePod = Callable[..., Pod]
PORT = 8080


@dataclass
class Link:
    """An open connection, by its two sockets."""

    client: socket.socket
    served: socket.socket

    def end(self, one: socket.socket, seconds: float = 1.0) -> type[OSError] | None:
        """How a socket ends on which nothing is sent; None: it does not."""
        poll = select.poll()
        poll.register(one, select.POLLIN)
        if not poll.poll(seconds * 1000 * SLOWNESS):
            return None
        try:
            assert one.recv(1) == b"", "nobody has sent anything"
        except OSError as error:
            return type(error)
        return None

    def works(self) -> bool:
        self.client.sendall(b"still there?")
        self.served.settimeout(2)
        return self.served.recv(100) == b"still there?"


@pytest.fixture
def dial() -> Iterator[Callable[[Pod, Pod, str], Link]]:
    with contextlib.ExitStack() as stack:

        def connect(source: Pod, target: Pod, address: str) -> Link:
            with target.serve(PORT, address) as listener:
                client = source.run_socket(lambda: socket.create_connection((address, PORT), 2))
                stack.enter_context(client)
                return Link(client, stack.enter_context(listener.accept()[0]))

        yield connect


def edit(node: Node, *policies: object) -> float:
    """Applies policies and does what the agent does after it; returns the seconds that took."""
    started = time.monotonic()
    node.set_policies(*policies)
    node.runner.run(node.dataplane.end_forbidden())
    return time.monotonic() - started


@pytest.mark.parametrize("version", [4, 6])
def test_an_idle_connection_ends_with_its_permission(
    node: Node, make_pod: MakePod, dial: Callable[[Pod, Pod, str], Link], version: int
) -> None:
    kept, cut, server = make_pod(), make_pod(), make_pod()
    node.enrol(kept, cut, server)
    address = server.v4 if version == 4 else server.v6
    links = [dial(pod, server, address) for pod in (kept, cut)]
    edit(node, ingress(server))
    assert [link.end(link.client) for link in links] == [ConnectionResetError] * 2

    edit(node, ingress(server, PodPeer(None, app(kept)), PodPeer(None, app(cut))))
    links = [dial(pod, server, address) for pod in (kept, cut)]
    while node.dataplane.events():
        pass
    before = refused(node, cut, server)
    source_port = links[1].client.getsockname()[1]
    assert edit(node, ingress(server, PodPeer(None, app(kept)))) < 1 * SLOWNESS
    assert links[1].end(links[1].client) is ConnectionResetError
    assert links[1].end(links[1].served) is ConnectionAbortedError
    (event,) = node.events(EventKind.DROPPED)
    assert (event.reason, event.direction) == (Reason.NETWORK_POLICY, Direction.INGRESS)
    assert event.source_workload == node.enrolled(cut).workload_id
    assert event.source_port == source_port
    assert (str(event.destination), event.destination_port) == (address, PORT)
    assert refused(node, cut, server) == before + 1
    assert links[0].end(links[0].client, 0.2) is None
    assert links[0].works()


def refused(node: Node, source: Pod, target: Pod) -> int:
    """What the metrics say."""
    numbers = tuple(node.enrolled(pod).workload_id for pod in (source, target))
    return sum(
        one.failed
        for one in node.runner.run(node.dataplane.counters())
        if (one.source_workload, one.destination_workload) == numbers
        and one.reason is Reason.NETWORK_POLICY
    )


def test_egress_ends_at_the_one_who_dialled(
    node: Node, make_pod: MakePod, dial: Callable[[Pod, Pod, str], Link]
) -> None:
    client, server, outside = make_pod(), make_pod(), make_pod()
    node.enrol(client, server)
    links = [dial(client, pod, pod.v4) for pod in (server, outside)]
    edit(node, egress(client, PodPeer(None, app(server))))
    assert links[1].end(links[1].client) is ConnectionAbortedError
    assert links[1].end(links[1].served) is ConnectionResetError
    assert [event.direction for event in node.events(EventKind.DROPPED)] == [Direction.EGRESS]
    assert links[0].end(links[0].client, 0.2) is None
    assert links[0].works()
    edit(node, egress(client))
    assert links[0].end(links[0].client) is ConnectionAbortedError


def test_a_class_that_changes_is_looked_at_everywhere(
    node: Node, make_pod: MakePod, dial: Callable[[Pod, Pod, str], Link]
) -> None:
    """The policy stays; it is the client that is somebody else now."""
    client, server = make_pod(), make_pod()
    node.enrol(client, server)
    rule = ingress(server, PodPeer(None, app(client)))
    edit(node, rule)
    link = dial(client, server, server.v4)
    node.set_policies(rule, labels={client.name: {"app": "another"}})
    node.runner.run(node.dataplane.end_forbidden())
    assert link.end(link.client) is ConnectionResetError


def test_the_node_and_the_agent_are_left_alone(node: Node, make_pod: MakePod) -> None:
    server = make_pod()
    node.enrol(server)
    with server.serve(PORT) as listener:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

        def probe() -> None:
            made = socket.create_connection((server.v4, PORT), 2)
            socket.send_fds(theirs, [b"x"], [made.fileno()])

        node.lan.run_on_host(probe)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        with socket.socket(fileno=fds[0]) as client, listener.accept()[0] as served:
            edit(node, ingress(server))
            link = Link(client, served)
            assert link.end(client, 0.2) is None
            assert link.works()


def test_a_flow_of_datagrams_is_judged_again(node: Node, make_pod: MakePod) -> None:
    """Both ways: what the client sends is refused at the server, and its socket is told."""
    kept, cut, server = make_pod(), make_pod(), make_pod()
    node.enrol(kept, cut, server)

    def bound() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((server.v4, PORT))
        return made

    def connected() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.connect((server.v4, PORT))
        return made

    port = NetworkPort(protocol=Protocol.UDP, port=PORT)
    friends = [PodPeer(None, app(pod)) for pod in (kept, cut)]
    edit(node, ingress(server, *friends, ports=(port,)))
    with server.inside(bound) as service:
        service.settimeout(1)
        flows = [pod.run_socket(connected) for pod in (kept, cut)]
        peers = []
        for flow in flows:
            flow.settimeout(1)
            flow.send(b"ask")
            peers.append(service.recvfrom(10)[1])
            service.sendto(b"answer", peers[-1])
            assert flow.recv(10) == b"answer"
        edit(node, ingress(server, friends[0], ports=(port,)))
        while node.dataplane.events():
            pass
        flows[1].send(b"again")
        with pytest.raises(OSError, match="No route to host"):  # ICMP: prohibited
            flows[1].recv(10)
        assert {event.reason for event in node.events(EventKind.DROPPED)} == {Reason.NETWORK_POLICY}
        flows[0].send(b"again")
        assert service.recvfrom(10) == (b"again", peers[0])
        for flow in flows:
            flow.close()


def test_a_pod_that_no_change_touches_is_not_looked_at(node: Node, make_pod: MakePod) -> None:
    first, second, third = make_pod(), make_pod(), make_pod()
    node.enrol(first, second, third)
    other = ingress(second, name="other")
    edit(node, ingress(first, ports=(NetworkPort(port=80),)), other)
    recheck, pods = node.dataplane._recheck, node.dataplane.pods().values()
    assert recheck is not None
    assert recheck.is_possible
    node.set_policies(ingress(first, ports=(NetworkPort(port=81),)), other)
    assert recheck.affected(pods, node.tables.subjects) == [node.uid(first)]
    assert recheck.affected(pods, node.tables.subjects) == []
    node.set_policies(ingress(first, PodPeer(None, app(third))), other)
    touched = {node.uid(first), node.uid(second)}
    assert set(recheck.affected(pods, node.tables.subjects)) == touched, "classes are others now"
