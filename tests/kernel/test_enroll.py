# SPDX-License-Identifier: Apache-2.0
"""Enrolment of running pods: what is set, what is in the way, what is put back."""

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.abi.structs import EventKind
from agent.dataplane import netlink
from agent.dataplane.pods import EnrollmentState
from mesh.tables import Route
from tests.kernel.node import REMOTE_V4, Node
from tests.kernel.pods import Pod

MakePod = Callable[..., Pod]
SYSCTLS = ("ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect")


def _settings(pod: Pod) -> dict[str, str]:
    """Everything that enrolment may change in a pod."""
    found = {
        "rules": pod.sh("ip rule; ip -6 rule"),
        "routes": pod.sh("ip route show table 28005; ip -6 route show table 28005", check=False),
        "qdiscs": pod.sh("tc qdisc"),
        "listeners": pod.sh("ss -Hltn"),
    }
    for name in SYSCTLS:
        found[name] = pod.inside(lambda name=name: Path("/proc/sys/net", name).read_text())  # type: ignore[misc]
    return found


def _dial(address: str = REMOTE_V4, port: int = 80) -> int:
    with socket.socket() as client:
        client.settimeout(0.3)
        return client.connect_ex((address, port))


@pytest.mark.vm_short
def test_un_enrolment_puts_everything_back(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    before = _settings(pod)
    node.enrol(pod)
    during = _settings(pod)
    assert "28005" in during["rules"]
    assert "local default" in during["routes"]
    assert "clsact" in during["qdiscs"]
    assert {during[name].strip() for name in SYSCTLS} == {"1"}
    node.drop_pod(pod)
    changed = node.apply()
    assert [one.state for one in changed] == [EnrollmentState.REMOVED]
    assert _settings(pod) == before
    for name in ("enrollments", "guarded_pods", "device_captures", "flow_records"):
        assert node.map_size(name) == 0


def test_un_enrolment_leaves_what_was_there_before(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    pod.sh("tc qdisc add dev eth0 clsact")
    program = next(node.dataplane._pins.root.glob("programs-*")) / "guard_ingress"
    pod.sh(f"tc filter add dev eth0 ingress prio 7 bpf da object-pinned {program}")
    pod.inside(lambda: Path("/proc/sys/net", SYSCTLS[0]).write_text("1"))
    before = _settings(pod)
    node.enrol(pod)
    node.drop_pod(pod)
    node.apply()
    assert _settings(pod) == before
    assert "pref 7 bpf" in pod.sh("tc filter show dev eth0 ingress")


def test_a_running_connection_survives_both(node: Node, make_pod: MakePod) -> None:
    pod, stranger = make_pod(), make_pod()
    server = stranger.serve(9090)
    client = pod.run_socket(lambda: socket.create_connection((stranger.v4, 9090), 2))
    other, _ = server.accept()
    other.settimeout(2)
    client.settimeout(2)
    for change in (lambda: node.enrol(pod), lambda: node.drop_pod(pod), node.apply):
        change()
        client.send(b"ping")
        assert other.recv(10) == b"ping"
        other.send(b"pong")
        assert client.recv(10) == b"pong"
    client.close()


def test_un_enrolled_pod_goes_its_own_way(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.enrol(pod)
    assert pod.run(_dial) == 0
    node.captured(pod)
    node.drop_pod(pod)
    node.apply()
    assert pod.run(_dial) != 0  # nobody is at that address


def test_nothing_is_removed_before_in_sync(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.enrol(pod)
    node.drop_pod(pod)
    assert node.apply(in_sync=False) == []
    assert pod.run(_dial) == 0
    node.captured(pod)


def test_app_on_15001_makes_capture_use_another_port(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    app = pod.serve(15001, "0.0.0.0")
    enrolled = node.enrol(pod)[0]
    assert 15001 not in enrolled.capture_ports
    assert pod.run(_dial) == 0
    node.captured(pod)
    assert pod.run(lambda: _dial(pod.v4, 15001)) == 0
    app.accept()


def test_first_capture_port_is_15001_and_none_is_ephemeral(node: Node, make_pod: MakePod) -> None:
    enrolled = node.enrol(make_pod())[0]
    assert enrolled.capture_ports[0] == 15001
    assert all(not 32768 <= port <= 60999 for port in enrolled.capture_ports)


def test_app_on_15008_is_a_conflict_that_heals(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    before = _settings(pod)
    app = pod.serve(15008, "0.0.0.0")
    node.add_remote()
    node.add_pod(pod)
    node.apply()
    enrolled = node.enrolled(pod)
    assert enrolled.state is EnrollmentState.PORT_CONFLICT
    assert "15008" in enrolled.detail
    app.close()
    assert _settings(pod) == before
    (changed,) = node.care()
    assert changed.is_captured
    assert pod.run(_dial) == 0
    node.captured(pod)


def test_netns_that_is_not_there_yet(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.add_pod(pod)
    row = node.tables.enrollments[node.uid(pod)]
    missing = replace(row, netns="/var/run/netns/nmt-missing")
    node.apply(replace(node.tables, enrollments={row.key: missing}))
    assert node.enrolled(pod).state is EnrollmentState.NETNS_GONE
    node.apply(replace(node.tables, enrollments={row.key: row}))
    assert node.enrolled(pod).is_captured


def test_address_that_is_not_there_yet(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    pod.sh(f"ip addr del {pod.v6}/64 dev eth0")
    node.add_pod(pod)
    node.apply()
    assert node.enrolled(pod).state is EnrollmentState.FAILED
    assert pod.v6 in node.enrolled(pod).detail


def test_pod_made_again_under_the_same_path_and_address(node: Node, make_pod: MakePod) -> None:
    """The old namespace is let go, the new one captured, with the same address."""
    pod = make_pod("again", number=200)
    first = node.enrol(pod)[0].netns_cookie
    node.lan.remove(pod)
    again = make_pod("again", number=200)
    (changed,) = node.care()
    assert changed.is_captured
    assert changed.netns_cookie != first
    assert again.run(_dial) == 0
    node.captured(again)
    assert node.map_size("enrollments") == 1


def test_address_reused_by_another_workload(node: Node, make_pod: MakePod) -> None:
    """A remote address becomes a local one: direct at once, without a record."""
    pod, other = make_pod(), make_pod()
    node.add_workload(other.v4, 777, Route.TUNNEL, enrolled=True, local=False)
    node.enrol(pod)
    assert pod.run(lambda: _dial(other.v4, 8080)) == 0
    accepted = node.captured(pod)
    assert accepted.record is not None
    assert accepted.record.upstream_workload == 777
    server = other.serve(8080)
    node.enrol(other)
    assert pod.run(lambda: _dial(other.v4, 8080)) == 0
    assert server.accept()[1][0] == pod.v4
    assert node.accept(pod, 0.05) is None


def test_guard_that_was_taken_away_comes_back(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.enrol(pod)
    pod.sh("tc qdisc del dev eth0 clsact")
    node.care(deep=True)
    assert "mesh_guard" in pod.sh("tc filter show dev eth0 ingress")


def test_interface_that_comes_later(node: Node, make_pod: MakePod) -> None:
    """A socket bound to it is captured as well, once the pod has been looked after."""
    pod = make_pod()
    node.enrol(pod)
    pod.sh("ip link add net1 type veth peer name net1p; ip addr add 10.231.0.9/24 dev net1")
    pod.sh("ip link set net1 up; ip link set net1p up")

    def dial() -> int:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"net1")
            client.settimeout(1)
            return client.connect_ex((REMOTE_V4, 80))

    assert pod.run(dial) == errno.EADDRNOTAVAIL
    assert node.care(deep=True) == [node.enrolled(pod)]
    assert pod.run(dial) == 0
    assert node.captured(pod).original == (REMOTE_V4, 80)
    assert node.care(deep=True) == []


def test_sockets_that_somebody_still_holds_do_not_block_the_next_enrolment(
    node: Node, make_pod: MakePod
) -> None:
    """The core has copies of the listeners and lets go of them a moment later."""
    pod = make_pod()
    enrolled = node.enrol(pod)[0]
    copies = [os.dup(fd) for fd in (*enrolled.capture_listeners, *enrolled.inbound_listeners)]
    node.drop_pod(pod)
    node.apply()
    assert "15008" not in pod.sh("ss -Hltn")
    assert node.enrol(pod)[0].is_captured
    assert pod.run(_dial) == 0
    node.captured(pod)
    for fd in copies:
        os.close(fd)


def test_many_pods(node: Node, make_pod: MakePod) -> None:
    pods = [make_pod() for _ in range(12)]
    enrolled = node.enrol(*pods)
    assert len({one.slot for one in enrolled}) == 12
    for pod in pods:
        assert pod.run(_dial) == 0
    for pod in pods:
        accepted = node.captured(pod)
        assert accepted.record is not None
        assert accepted.record.source_workload == node.enrolled(pod).workload_id
    events = node.dataplane.events()
    assert not [event for event in events if event.kind is EventKind.DENIED]


def test_the_dial_to_the_app_shows_the_clients_address(node: Node, make_pod: MakePod) -> None:
    """What the core does at the far end: transparent, marked, bound to the client's address."""
    pod = make_pod()
    node.enrol(pod)
    server = pod.serve(8080)

    def dial(port: int) -> int:
        with socket.socket() as client:
            client.settimeout(2)
            client.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
            client.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, netlink.MARK)
            client.bind(("10.99.9.9", 0))
            return client.connect_ex((pod.v4, port))

    assert pod.inside(lambda: dial(8080)) == 0
    assert server.accept()[1][0] == "10.99.9.9"
    assert pod.inside(lambda: dial(8081)) == errno.ECONNREFUSED
