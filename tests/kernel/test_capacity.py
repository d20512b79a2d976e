# SPDX-License-Identifier: Apache-2.0
"""50,000 captured connections on a node, 40,000 of them of one pod, all open at once.

One capture port alone would end at 28,232. Clients and acceptors are several processes each, so
that the usual limit of open files is enough.
"""

import contextlib
import os
import resource
import selectors
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.abi.codec import decode_address, decode_port
from agent.dataplane import kernel
from mesh.tables import Route
from tests.kernel.node import Node
from tests.kernel.pods import SLOWNESS, Pod, run_as

MakePod = Callable[..., Pod]
Original = tuple[int, str, int]
REMOTES = ("10.240.0.5", "10.240.0.6")
TIMEOUT = 90 * SLOWNESS

FEWER = 10 if SLOWNESS > 1 else 1
"""An emulated guest opens a tenth of the connections: what does not depend on a port's 28,232."""

TOTAL, OF_ONE_POD, QUOTA = 50_000 // FEWER, 40_000 // FEWER, 13_000 // FEWER


class _Gate:
    """Holds processes back until it is opened, and counts those that have come to it."""

    def __init__(self) -> None:
        self._opened, self._open = os.pipe()
        self._arrived, self._arrive = os.pipe()

    def wait(self) -> None:
        os.write(self._arrive, b"x")
        os.read(self._opened, 1)

    def await_arrivals(self, count: int) -> None:
        for _ in range(count):
            os.read(self._arrived, 1)

    def open(self) -> None:
        os.write(self._open, b"x" * 64)

    @property
    def fd(self) -> int:
        return self._opened

    def close(self) -> None:
        for fd in (self._opened, self._open, self._arrived, self._arrive):
            os.close(fd)


def _client(first: int, count: int, gate: _Gate) -> int:
    """Opens connections to ``count`` different destinations and keeps them."""
    clients = []
    failed = 0
    for number in range(first, first + count):
        client = socket.socket()
        failed |= client.connect_ex((REMOTES[number % 2], 1 + number // 2))
        clients.append(client)
    gate.wait()
    return failed


def _acceptor(
    node: Node, listeners: list[tuple[Pod, socket.socket]], quota: int, gate: _Gate
) -> tuple[list[Original], int]:
    """Accepts as the core does, and keeps: what the records said, and how many were missing."""
    selector = selectors.DefaultSelector()
    selector.register(gate.fd, selectors.EVENT_READ)
    ports = {}
    for pod, listener in listeners:
        selector.register(listener, selectors.EVENT_READ, pod)
        ports[listener] = listener.getsockname()[1]
    kept: list[socket.socket] = []
    originals: list[Original] = []
    missing = 0
    while True:
        for key, _ in selector.select():
            if key.fileobj == gate.fd:
                os.read(gate.fd, 1)
                return originals, missing
            listener = key.fileobj
            assert isinstance(listener, socket.socket)
            with contextlib.suppress(BlockingIOError):
                connection, peer = listener.accept()
                kept.append(connection)
                record = node.take_record(key.data, peer, ports[listener], 4)
                if record is None or record.flags:
                    missing += 1
                else:
                    address = str(decode_address(record.original))
                    port = decode_port(record.original_port)
                    originals.append((record.source_workload, address, port))
        if len(kept) >= quota:
            for _, listener in listeners:
                selector.unregister(listener)
            listeners = []
            quota = 1 << 30


@pytest.mark.timeout(110)
def test_fifty_thousand_connections(node: Node, make_pod: MakePod) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    room = min(limit, 20_000) - 2_000
    if room < 14_000:
        pytest.skip("needs 16,000 open files in a process (ulimit -Hn)")
    big, small = make_pod(), make_pod()
    for remote, number in zip(REMOTES, (500, 501), strict=True):
        node.add_workload(remote, number, Route.TUNNEL, enrolled=True, local=False)
    node.enrol(big, small, remote=False)
    listeners = [
        (pod, socket.socket(fileno=os.dup(fd)))
        for pod in (big, small)
        for fd in node.enrolled(pod).capture_listeners
    ]
    connected, finished = _Gate(), _Gate()
    root = kernel.cgroup2_mount()
    with ThreadPoolExecutor(9) as pool:
        acceptors = [
            pool.submit(
                run_as,
                root,
                big.fd,
                lambda: _acceptor(node, listeners, QUOTA, finished),
                TIMEOUT,
            )
            for _ in range(4)
        ]
        share = OF_ONE_POD // 4
        jobs = [(big, number * share, share) for number in range(4)]
        jobs.append((small, 0, TOTAL - OF_ONE_POD))
        clients = [
            pool.submit(pod.run, lambda f=first, c=count: _client(f, c, connected), TIMEOUT)
            for pod, first, count in jobs
        ]
        try:
            connected.await_arrivals(len(jobs))
            until = time.monotonic() + 20 * SLOWNESS
            while node.map_size("flow_records") and time.monotonic() < until:
                time.sleep(0.05)
            left = node.map_size("flow_records")
            established = big.sh("ss -Htn state established | wc -l")
        finally:
            finished.open()
            connected.open()
        assert [client.result() for client in clients] == [0] * len(jobs)
        answers = [acceptor.result() for acceptor in acceptors]
    assert left == 0
    assert int(established) >= 2 * OF_ONE_POD  # both ends
    assert sum(missing for _, missing in answers) == 0
    originals = [original for found, _ in answers for original in found]
    assert len(originals) == len(set(originals)) == TOTAL
    assert sum(one[0] == node.enrolled(big).workload_id for one in originals) == OF_ONE_POD
    for _, listener in listeners:
        listener.close()
    connected.close()
    finished.close()
