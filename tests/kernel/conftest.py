# SPDX-License-Identifier: Apache-2.0
"""One loaded dataplane for the session; pods are made per test and removed after it."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.dataplane.cleanup import cleanup
from tests.kernel.node import Node
from tests.kernel.pods import SLOWNESS, Lan, Pod

_HERE = Path(__file__).parent

_settimeout = socket.socket.settimeout


def _settimeout_slowly(self: socket.socket, value: float | None) -> None:
    _settimeout(self, value and value * SLOWNESS)


if SLOWNESS > 1:
    socket.socket.settimeout = _settimeout_slowly  # type: ignore[method-assign]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm_short: covers a hook once; run in emulated kernels")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacking = _lacking()
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.kernel)
            limit = item.get_closest_marker("timeout")
            if limit is not None and SLOWNESS > 1:
                item.add_marker(pytest.mark.timeout(limit.args[0] * SLOWNESS), append=False)
            if lacking:
                item.add_marker(pytest.mark.skip(reason=lacking))


def _lacking() -> str:
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/usr/lib/python3/dist-packages/bcc").is_dir():
        return "needs BCC (python3-bpfcc)"
    return ""


@pytest.fixture(scope="session")
def lan() -> Iterator[Lan]:
    made = Lan(f"k{os.getpid()}")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def _node(lan: Lan) -> Iterator[Node]:
    name = f"nmt-k{os.getpid()}"
    try:
        made = Node(lan, name)
        try:
            yield made
        finally:
            made.close()
    finally:
        cleanup(name)


@pytest.fixture
def node(_node: Node) -> Iterator[Node]:
    _node.reset()
    try:
        yield _node
    finally:
        _node.reset()


@pytest.fixture
def make_pod(lan: Lan, node: Node) -> Iterator[Callable[..., Pod]]:
    made: list[Pod] = []

    def make(name: str | None = None, *, number: int | None = None) -> Pod:
        pod = lan.pod(name, number=number)
        made.append(pod)
        return pod

    yield make
    node.reset()
    for pod in made:
        if pod in lan.pods:
            lan.remove(pod)
