# SPDX-License-Identifier: Apache-2.0
"""What changes under an enrolled pod must never open a moment in which it speaks in the clear."""

import asyncio
import errno
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Self

import pytest

from agent.abi.structs import EventKind
from agent.dataplane.pods import EnrollmentState
from mesh.model.workload import WorkloadUid
from mesh.reasons import Reason
from mesh.tables import EnrollmentRow, Route, WorkloadId
from tests.kernel.node import REMOTE_V4, REMOTE_V6, Node
from tests.kernel.pods import Pod

MakePod = Callable[..., Pod]
REFUSED = {0, errno.ECONNREFUSED, errno.EADDRNOTAVAIL}


def _dial(address: str = REMOTE_V4, port: int = 80, device: str = "") -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
        if device:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        client.settimeout(0.3)
        return client.connect_ex((address, port))


class _Dialler:
    """A process of the pod that connects each millisecond, to an address that would answer."""

    def __init__(self, node: Node, pod: Pod, remote: Pod, seconds: float) -> None:
        node.add_workload(remote.v4, 777, Route.TUNNEL, enrolled=True, local=False)
        node.apply()
        enrolled = node.enrolled(pod)
        self._inherited = (*enrolled.capture_listeners, *enrolled.inbound_listeners)
        self._remote = remote
        self._server = remote.serve(8080, backlog=4096)
        self._server.setblocking(False)
        self._seconds = seconds
        self.codes: Counter[int] = Counter()
        self._thread = threading.Thread(target=self._run, args=(pod,))

    def _run(self, pod: Pod) -> None:
        def dial() -> Counter[int]:
            for fd in self._inherited:  # a fork holds them, no process of a pod would
                os.close(fd)
            codes: Counter[int] = Counter()
            until = time.monotonic() + self._seconds
            while time.monotonic() < until:
                codes[_dial(self._remote.v4, 8080)] += 1
                time.sleep(0.001)
            return codes

        self.codes = pod.run(dial)

    def __enter__(self) -> Self:
        self._thread.start()
        time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def leaked(self) -> int:
        """Connections that reached the remote pod in the clear."""
        count = 0
        while True:
            try:
                self._server.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


def _row(node: Node, pod: Pod) -> EnrollmentRow:
    return node.tables.enrollments[node.uid(pod)]


def _put_row(node: Node, row: EnrollmentRow) -> None:
    node.apply(replace(node.tables, enrollments={**node.tables.enrollments, row.key: row}))


def test_nothing_leaks_while_a_pods_addresses_change(node: Node, make_pod: MakePod) -> None:
    pod, remote = make_pod(), make_pod()
    node.enrol(pod)
    with _Dialler(node, pod, remote, 1.5) as dialler:
        for number in range(3):
            new = f"10.230.9.{number + 1}"
            pod.sh(f"ip addr add {new}/16 dev eth0")
            _put_row(node, replace(_row(node, pod), addresses=(ip_address(new),)))
            assert node.enrolled(pod).capture_addresses[0] == ip_address(new)
            _put_row(node, replace(_row(node, pod), addresses=pod.addresses))
    assert dialler.leaked() == 0
    assert set(dialler.codes) <= REFUSED
    assert dialler.codes[0] > 100


def test_nothing_leaks_while_the_agent_restarts(node: Node, make_pod: MakePod) -> None:
    pod, remote = make_pod(), make_pod()
    node.enrol(pod)
    with _Dialler(node, pod, remote, 1.5) as dialler:
        for _ in range(2):
            node.stop()
            time.sleep(0.1)
            node.start_again()
            node.apply(in_sync=False)
            node.apply()
            time.sleep(0.1)
    assert dialler.leaked() == 0
    assert set(dialler.codes) == {0, errno.ECONNREFUSED}


def test_another_identity_or_number_disturbs_no_listener(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    before = node.enrol(pod)[0]
    identity = replace(before.identity, service_account="other")
    node.judge(WorkloadId(4321))
    _put_row(node, replace(_row(node, pod), identity=identity, workload_id=WorkloadId(4321)))
    after = node.enrolled(pod)
    assert after.identity == identity
    assert after.capture_listeners == before.capture_listeners
    assert after.inbound_listeners == before.inbound_listeners
    assert pod.run(_dial) == 0
    accepted = node.captured(pod)
    assert accepted.record is not None
    assert accepted.record.source_workload == 4321


def test_listeners_of_an_address_that_stays_are_kept(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    before = node.enrol(pod)[0]
    pod.sh("ip addr add 10.230.9.9/16 dev eth0")
    addresses = (*pod.addresses, ip_address("10.230.9.9"))
    _put_row(node, replace(_row(node, pod), addresses=addresses))
    after = node.enrolled(pod)
    assert after.capture_listeners == before.capture_listeners
    assert after.inbound_listeners[:2] == before.inbound_listeners
    assert len(after.inbound_listeners) == 3


def test_an_address_change_that_cannot_be_followed_yet(node: Node, make_pod: MakePod) -> None:
    """The row is ahead of the interface: captured as before, and followed when it is there."""
    pod = make_pod()
    node.enrol(pod)
    row = replace(_row(node, pod), addresses=(ip_address("10.230.9.9"),))
    _put_row(node, row)
    assert node.enrolled(pod).is_captured
    assert "10.230.9.9" in node.enrolled(pod).detail
    assert pod.run(_dial) == 0
    node.captured(pod)
    pod.sh("ip addr add 10.230.9.9/16 dev eth0")
    assert node.care() == [node.enrolled(pod)]
    assert node.enrolled(pod).addresses == row.addresses
    assert node.enrolled(pod).detail == ""


def test_a_pod_that_cannot_be_adopted_stays_captured(node: Node, make_pod: MakePod) -> None:
    """A process took 15008 while no agent was there: refused until it goes, never in the clear."""
    pod, remote = make_pod(), make_pod()
    node.add_workload(remote.v4, 777, Route.TUNNEL, enrolled=True, local=False)
    server = remote.serve(8080)
    server.setblocking(False)
    node.enrol(pod)
    node.stop()
    thief = pod.serve(15008)
    node.start_again()
    node.apply()
    assert node.enrolled(pod).state is EnrollmentState.PORT_CONFLICT
    assert pod.run(lambda: _dial(remote.v4, 8080)) == errno.ECONNREFUSED
    thief.close()
    (changed,) = node.care()
    assert changed.is_captured
    assert pod.run(lambda: _dial(remote.v4, 8080)) == 0
    with pytest.raises(BlockingIOError):
        server.accept()


def test_an_enrolled_pod_cannot_take_15008(node: Node, make_pod: MakePod) -> None:
    """Or it would keep the next agent from adopting it. Its loopback is its own affair."""
    pod = make_pod()
    node.enrol(pod)
    node.stop()
    try:
        for where in (pod.v4, "0.0.0.0"):
            with pytest.raises(OSError, match="in use"):
                pod.run(lambda where=where: socket.create_server((where, 15008)).close())  # type: ignore[misc]
        pod.run(lambda: socket.create_server(("127.0.0.1", 15008)).close())
    finally:
        node.start_again()
        node.apply()


def test_an_address_that_goes_refuses_instead_of_leaving_the_pod(
    node: Node, make_pod: MakePod
) -> None:
    """Somebody else may have the address next: a captured socket must not be sent there."""
    pod, heir = make_pod(), make_pod()
    node.enrol(pod)
    port = node.enrolled(pod).capture_ports
    pod.sh(f"ip addr del {pod.v4}/16 dev eth0; ip addr add 10.230.9.9/16 dev eth0")
    heir.sh(f"ip addr add {pod.v4}/16 dev eth0")
    servers = [heir.serve(one, pod.v4) for one in port]
    node.care()
    assert pod.run(_dial) == errno.EADDRNOTAVAIL
    for server in servers:
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_new_interface_is_guarded_without_being_asked(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.enrol(pod)

    async def scenario() -> str:
        heard = asyncio.Event()
        care = asyncio.create_task(node.dataplane.run(lambda _pods: heard.set()))
        await asyncio.sleep(0.3)
        pod.sh("ip link add net1 type veth peer name net1p; ip addr add 10.231.0.9/24 dev net1")
        try:
            await asyncio.wait_for(heard.wait(), 10 if "NODEMESH_VM" in os.environ else 2)
            return pod.sh("tc filter show dev net1 ingress")
        finally:
            care.cancel()
            await asyncio.gather(care, return_exceptions=True)

    assert "mesh_guard" in node.runner.run(scenario())
    assert pod.run(lambda: _dial(device="net1")) in (0, errno.ENETUNREACH)


def test_a_pod_of_too_many_interfaces_costs_the_agent_little(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.enrol(pod)
    for number in range(20):
        pod.sh(f"ip link add d{number} type veth peer name e{number}")
        pod.sh(f"ip addr add 10.231.{number}.9/24 dev d{number}")
    node.care()
    assert len(node.enrolled(pod).capture_listeners) <= 9 * 4
    assert pod.run(_dial) == 0
    assert pod.run(lambda: _dial(device="d19")) == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("version", [4, 6])
def test_a_pod_of_one_family(node: Node, make_pod: MakePod, version: int) -> None:
    """IPv6 switched off in the pod, or nothing but IPv6."""
    pod = make_pod()
    if version == 4:
        pod.inside(lambda: Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1"))
    else:
        pod.sh("ip addr flush dev eth0 scope global; ip -4 addr flush dev eth0")
        pod.sh(f"ip addr add {pod.v6}/64 dev eth0 nodad", check=False)
        pod.sh("ip -6 route add default via fd23::1", check=False)
    pod.addresses = (ip_address(pod.v4 if version == 4 else pod.v6),)
    node.enrol(pod)
    there, absent = (REMOTE_V4, REMOTE_V6) if version == 4 else (REMOTE_V6, REMOTE_V4)
    assert pod.run(lambda: _dial(there)) == 0
    assert node.captured(pod).original == (there, 80)
    assert pod.run(lambda: _dial(absent)) != 0
    node.drop_pod(pod)
    node.apply()
    assert "28005" not in pod.sh("ip rule; ip -6 rule")


def test_filters_of_others_keep_their_place(node: Node, make_pod: MakePod) -> None:
    """Priority 1 is taken, by a filter for one protocol only: ours takes the next."""
    pod, stranger = make_pod(), make_pod()
    pod.sh("tc qdisc add dev eth0 clsact")
    program = next(node.dataplane._pins.root.glob("programs-*")) / "guard_ingress"
    pod.sh(f"tc filter add dev eth0 ingress protocol ip prio 1 bpf da object-pinned {program}")
    before = pod.sh("tc filter show dev eth0 ingress")
    enrolled = node.enrol(pod)[0]
    node.care(deep=True)
    shown = pod.sh("tc filter show dev eth0 ingress")
    assert shown.count("mesh_guard ") + shown.count("mesh_guard:") <= 1
    assert "pref 2 bpf" in shown
    assert stranger.run(lambda: _dial(pod.v4, enrolled.capture_ports[0])) != 0
    assert node.events(EventKind.DROPPED)
    node.drop_pod(pod)
    node.apply()
    assert pod.sh("tc filter show dev eth0 ingress") == before


def test_a_routing_table_of_somebody_else_is_named(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    pod.sh("ip route add default via 10.230.0.1 table 28005")
    node.add_pod(pod)
    node.apply()
    assert node.enrolled(pod).state is EnrollmentState.FAILED
    assert "28005" in node.enrolled(pod).detail
    assert pod.sh("ip route show table 28005").startswith("default via 10.230.0.1")


def test_one_netns_is_one_pods(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.enrol(pod)
    double = replace(_row(node, pod), key=WorkloadUid("double"), workload_id=WorkloadId(4000))
    _put_row(node, double)
    assert node.dataplane.pods()[double.key].state is EnrollmentState.FAILED
    assert "already" in node.dataplane.pods()[double.key].detail
    assert pod.run(_dial) == 0
    accepted = node.captured(pod)
    assert accepted.record is not None
    assert accepted.record.source_workload == node.enrolled(pod).workload_id


def test_a_pod_by_another_name_stays_captured(node: Node, make_pod: MakePod) -> None:
    pod, remote = make_pod(), make_pod()
    before = node.enrol(pod)[0]
    renamed = replace(_row(node, pod), key=WorkloadUid("renamed"), workload_id=WorkloadId(4000))
    node.judge(renamed.workload_id)
    with _Dialler(node, pod, remote, 0.6) as dialler:
        node.apply(replace(node.tables, enrollments={renamed.key: renamed}))
    found = node.dataplane.pods()
    assert set(found) == {renamed.key}
    assert found[renamed.key].capture_listeners == before.capture_listeners
    assert dialler.leaked() == 0
    assert set(dialler.codes) == {0}


def test_the_nodes_own_network_is_never_enrolled(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.add_pod(pod)
    row = replace(_row(node, pod), netns="/proc/self/ns/net", addresses=(ip_address("127.0.0.1"),))
    _put_row(node, row)
    assert node.enrolled(pod).state is EnrollmentState.FAILED
    assert "own network" in node.enrolled(pod).detail


def test_a_namespace_that_was_removed_dies(node: Node, make_pod: MakePod) -> None:
    """No descriptor of ours keeps it, once its path is gone."""
    pod = make_pod("mortal", number=201)
    node.enrol(pod)
    inode = os.fstat(pod.fd).st_ino
    node.lan.remove(pod)
    node.care()
    assert node.enrolled(pod).state is EnrollmentState.NETNS_GONE
    held = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            held.add(entry.stat().st_ino)
        except OSError:
            continue
    assert inode not in held
    assert node.map_size("enrollments") == node.map_size("guarded_pods") == 0


def test_what_was_dialled_before_its_destination_came_into_the_mesh_is_reset(
    node: Node, make_pod: MakePod
) -> None:
    """Its SYN was lost, and the next would go round the tunnel: it may dial again at once."""
    pod, remote = make_pod(), make_pod()
    node.enrol(pod)
    remote.serve(8080)
    remote.sh("ip link set eth0 down")

    def dial() -> int:
        with socket.socket() as client:
            client.settimeout(5)
            return client.connect_ex((remote.v4, 8080))

    codes: list[int] = []
    dialling = threading.Thread(target=lambda: codes.append(pod.run(dial)))
    dialling.start()
    time.sleep(0.3)
    node.add_workload(remote.v4, 777, Route.TUNNEL, enrolled=True, local=False)
    node.apply()
    remote.sh("ip link set eth0 up")
    dialling.join()
    assert codes == [errno.ECONNREFUSED]
    assert {event.reason for event in node.events(EventKind.DROPPED)} == {Reason.TUNNEL_BYPASSED}
