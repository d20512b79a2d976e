# SPDX-License-Identifier: Apache-2.0
"""TCP capture: every way in which an application connects to a workload of another node."""

import ctypes
import errno
import socket
from collections.abc import Callable

import pytest

from mesh.tables import Route
from tests.kernel.node import REMOTE_ID, REMOTE_V4, REMOTE_V6, Node
from tests.kernel.pods import Pod

MakePod = Callable[..., Pod]


@pytest.mark.parametrize(
    ("family", "address", "original"),
    [
        (socket.AF_INET, REMOTE_V4, REMOTE_V4),
        (socket.AF_INET6, REMOTE_V6, REMOTE_V6),
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
