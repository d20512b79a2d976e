# SPDX-License-Identifier: Apache-2.0
"""Flow records, totals and events: what the kernel half leaves and tells."""

import contextlib
import ctypes
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from agent.abi import structs
from agent.abi.structs import EventKind, FlowFlag, Statistic
from agent.dataplane import bpf
from agent.dataplane.telemetry import TrafficTotal
from mesh.reasons import Reason
from mesh.tables import Route
from tests.kernel.node import REMOTE_V4, Node
from tests.kernel.pods import SLOWNESS, Pod

MakePod = Callable[..., Pod]


def test_two_unread_records_under_one_key_poison_each_other(node: Node, make_pod: MakePod) -> None:
    """A client resets and comes again from the same port, before the core has accepted anything.

    Of eight such connections to four capture ports some meet. Whoever accepts them must find a
    poisoned record or none, never the other's.
    """
    pod = make_pod()
    node.enrol(pod)
    before = node.statistic(Statistic.RECORDS_POISONED)

    def dial() -> None:
        for port in range(80, 88):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.bind((pod.v4, 41000))
                client.settimeout(1)
                client.connect((REMOTE_V4, port))
                client.send(str(port).encode())

    pod.run(dial)
    found = [node.accept(pod, 0.2) for _ in range(8)]
    keys = 8 - (node.statistic(Statistic.RECORDS_POISONED) - before)
    assert 1 <= keys <= 4
    records = [one.record for one in found if one is not None and one.record is not None]
    assert len(records) == keys
    for one in found:
        if one is not None and one.record is not None and not one.record.flags:
            # The only one on its capture port; the data says whose it is, where the RST left it.
            with contextlib.suppress(ConnectionResetError):
                data = one.connection.recv(10)
                assert data in (b"", str(one.original[1]).encode())
    assert any(record.flags == FlowFlag.POISONED for record in records)
    assert node.map_size("flow_records") == 0


def test_unread_records_age(node: Node, make_pod: MakePod) -> None:
    pod = make_pod()
    node.enrol(pod)
    pod.run(lambda: socket.create_connection((REMOTE_V4, 80), 2).close())
    assert node.reap().records == 0
    assert node.reap(after=130).records == 1
    assert node.map_size("flow_records") == 0


def test_the_next_agent_forgets_what_the_last_one_left_unread(
    node: Node, make_pod: MakePod
) -> None:
    """Else a connection that gets the same source port would meet it, and be poisoned."""
    pod = make_pod()
    node.enrol(pod)

    def dial() -> None:
        socket.create_connection((REMOTE_V4, 80), 2).close()

    pod.run(dial)
    assert node.map_size("flow_records") == 1
    node.stop()
    node.start_again()
    node.apply(in_sync=False)
    assert node.map_size("flow_records") == 0
    # What comes to the new listeners is kept, also when the pod is applied again.
    pod.run(dial)
    node.apply()
    assert node.map_size("flow_records") == 1
    assert node.captured(pod).original == (REMOTE_V4, 80)


def _total(node: Node, source: Pod, destination: Pod, reason: Reason = Reason.NONE) -> TrafficTotal:
    ids = (node.enrolled(source).workload_id, node.enrolled(destination).workload_id)
    (found,) = [
        total
        for total in node.runner.run(node.dataplane.counters())
        if (total.source_workload, total.destination_workload) == ids and total.reason is reason
    ]
    return found


@pytest.mark.parametrize(
    "closer", [pytest.param("client", marks=pytest.mark.vm_short), "server", "half", "reset"]
)
def test_direct_connections_are_accounted_to_the_byte(
    node: Node, make_pod: MakePod, closer: str
) -> None:
    pod, server_pod = make_pod(), make_pod()
    node.enrol(pod, server_pod)
    server = server_pod.serve(8080)

    def serve() -> None:
        connection, _ = server.accept()
        got = 0
        while got < 10_000:
            got += len(connection.recv(65536))
        connection.sendall(b"y" * 7_000)
        if closer == "client":
            connection.recv(1)
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()

    def dial() -> None:
        with socket.create_connection((server_pod.v4, 8080), 2) as client:
            client.sendall(b"x" * 10_000)
            got = 0
            if closer == "half":
                client.shutdown(socket.SHUT_WR)
            while got < 7_000:
                got += len(client.recv(65536))
            if closer in ("server", "half"):
                assert client.recv(1) == b""
            if closer == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    pod.run(dial)
    thread.join()
    (event,) = node.events(EventKind.CLOSED)
    assert (event.bytes_sent, event.bytes_received) in {
        (10_000, 7_000),
        *([(10_000, 7_001)] if closer == "reset" else []),  # the server's FIN had arrived
    }
    assert event.duration_ns > 0
    assert event.reason is Reason.NONE
    total = _total(node, pod, server_pod)
    assert (total.opened, total.closed, total.failed, total.attested) == (1, 1, 0, 1)
    assert (total.bytes_sent, total.bytes_received) == (event.bytes_sent, event.bytes_received)
    assert total.route is Route.DIRECT


def test_a_direct_connect_that_fails_is_told(node: Node, make_pod: MakePod) -> None:
    pod, server_pod = make_pod(), make_pod()
    node.enrol(pod, server_pod)

    def dial() -> int:
        with socket.socket() as client:
            return client.connect_ex((server_pod.v4, 8080))

    assert pod.run(dial) != 0
    (event,) = node.events(EventKind.CLOSED)
    assert event.reason is Reason.APP_CONNECT_FAILED
    total = _total(node, pod, server_pod, Reason.APP_CONNECT_FAILED)
    assert (total.opened, total.failed) == (0, 1)


def test_totals_of_a_workload_that_is_gone_go_with_it(node: Node, make_pod: MakePod) -> None:
    pod, server_pod = make_pod(), make_pod()
    node.enrol(pod, server_pod)
    server = server_pod.serve(8080)
    pod.run(lambda: socket.create_connection((server_pod.v4, 8080), 2).close())
    server.accept()
    assert _total(node, pod, server_pod).opened == 1
    number = node.enrolled(pod).workload_id
    node.drop_pod(pod)
    node.apply()

    def left() -> list[TrafficTotal]:
        totals = node.runner.run(node.dataplane.counters())
        return [one for one in totals if number in (one.source_workload, one.destination_workload)]

    until = time.monotonic() + 5 * SLOWNESS
    while left() and time.monotonic() < until:  # all totals are read for it once a second at most
        time.sleep(0.1)
        node.care()
    assert not left()


def test_totals_of_a_workload_that_went_unseen_go_too(node: Node, make_pod: MakePod) -> None:
    """It left while no agent was there."""
    pod, other = make_pod(), make_pod()
    node.enrol(pod, other)
    server = other.serve(8080)
    pod.run(lambda: socket.create_connection((other.v4, 8080), 2).close())
    server.accept()
    gone = node.enrolled(other).workload_id
    assert gone in {one.destination_workload for one in node.runner.run(node.dataplane.counters())}
    node.stop()
    node.start_again()
    node.drop_pod(other)
    node.apply(in_sync=False)
    assert gone in {one.destination_workload for one in node.runner.run(node.dataplane.counters())}
    node.apply()
    assert gone not in {
        one.destination_workload for one in node.runner.run(node.dataplane.counters())
    }


def test_lost_events_are_counted(node: Node, make_pod: MakePod) -> None:
    """Nobody reads: the ring fills, totals go on, the loss is known."""
    pod, stranger = make_pod(), make_pod()
    node.enrol(pod)
    before = node.statistic(Statistic.EVENTS_LOST)

    def dial() -> None:
        with socket.socket() as client:
            client.setblocking(False)
            unspecified = (0).to_bytes(16, "little")
            for _ in range(40_000):
                client.connect_ex((stranger.v4, 9))
                libc.connect(client.fileno(), unspecified, 16)

    libc = ctypes.CDLL(None)
    pod.run(dial)
    lost = node.statistic(Statistic.EVENTS_LOST) - before
    assert lost > 0
    number = node.enrolled(pod).workload_id
    (total,) = [
        one for one in node.runner.run(node.dataplane.counters()) if one.source_workload == number
    ]
    assert total.opened == 40_000
    kept = 0
    while batch := node.dataplane.events():
        kept += len(batch)
    assert kept + lost == 40_000


def test_an_event_that_wraps_is_whole(node: Node, make_pod: MakePod) -> None:
    """A record that begins at the end of the ring goes on at its beginning."""
    pod, stranger = make_pod(), make_pod()
    node.enrol(pod)
    ring_bytes = bpf.map_info(node.dataplane.events_fd()).max_entries
    header = 8
    length = (ctypes.sizeof(structs.Event) + header + 7) // 8 * 8
    assert ring_bytes % length, "else no record would ever wrap"
    libc = ctypes.CDLL(None)

    def dial(times: int) -> None:
        with socket.socket() as client:
            client.setblocking(False)
            unspecified = (0).to_bytes(16, "little")
            for _ in range(times):
                client.connect_ex((stranger.v4, 9))
                libc.connect(client.fileno(), unspecified, 16)

    while node.dataplane.events():
        pass
    number, share = node.enrolled(pod).workload_id, ring_bytes // length // 2
    for _ in range(3):  # one and a half times round
        pod.run(lambda: dial(share))
        events = []
        while batch := node.dataplane.events():
            events += batch
        seen = {(e.source_workload, str(e.destination), e.destination_port) for e in events}
        assert seen == {(number, stranger.v4, 9)}
        assert len(events) == share
