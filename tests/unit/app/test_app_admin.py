# SPDX-License-Identifier: Apache-2.0
"""The admin server over a real unix socket and real ports, asked by the real client."""

import asyncio
import itertools
import socket
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from agent.admin.server import AdminServer
from agent.config import ListenSettings
from agent.errors import AdminError, ConfigError
from cli.client import AdminClient, find_node


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Agent:
    """Enough of an agent to serve."""

    def __init__(self) -> None:
        self.pending = ["certificates"]
        self.refreshed = self.told = 0
        self.server = AdminServer(
            views={"/status": self.status, "/bad": self.bad},
            actions={"/drain": self.status},
            streams={"/follow": self.follow},
            refresh_metrics=self.refresh,
            render_metrics=lambda accept: (f"for {accept}\n".encode(), "text/plain; version=1"),
            pending=lambda: self.pending,
        )

    async def status(self, query: Mapping[str, str]) -> Any:
        return {"node": "node1", "query": dict(query)}

    async def bad(self, _query: Mapping[str, str]) -> Any:
        raise ValueError("limit must be a number")

    def follow(self, query: Mapping[str, str]) -> AsyncIterator[Any]:
        if "bad" in query:
            raise ValueError("no such verdict")
        return self._count()

    async def _count(self) -> AsyncIterator[Any]:
        for number in itertools.count():
            yield {"number": number} if number % 2 else None
            self.told = number
            await asyncio.sleep(0.01)

    async def refresh(self) -> None:
        self.refreshed += 1


def get(url: str) -> tuple[int, str]:
    try:
        with urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


async def test_everything_is_served_and_the_socket_goes_when_the_agent_goes(
    tmp_path: Path,
) -> None:
    agent = Agent()
    (tmp_path / "node1").mkdir()
    path = tmp_path / "node1" / "admin.sock"
    listen = ListenSettings(
        address="127.0.0.1", metrics_port=free_port(), readiness_port=free_port()
    )
    client = AdminClient("node1", tmp_path)
    async with agent.server.running(path, listen):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert find_node(None, tmp_path) == "node1"
        found = await asyncio.to_thread(client.get, "/status?recent=1")
        assert found == {"node": "node1", "query": {"recent": "1"}}
        with pytest.raises(AdminError, match="limit must be a number"):
            await asyncio.to_thread(client.get, "/bad")
        with pytest.raises(AdminError):
            await asyncio.to_thread(client.get, "/drain")
        assert (await asyncio.to_thread(client.post, "/drain"))["node"] == "node1"

        metrics = f"http://127.0.0.1:{listen.metrics_port}"
        assert (await asyncio.to_thread(get, f"{metrics}/metrics"))[0] == 200
        assert agent.refreshed == 1
        assert await asyncio.to_thread(get, f"{metrics}/healthz") == (200, "ok\n")
        # Nothing that tells about connections or changes anything may be reached over TCP.
        assert (await asyncio.to_thread(get, f"{metrics}/status"))[0] == 404
        ready = f"http://127.0.0.1:{listen.readiness_port}/healthz/ready"
        assert await asyncio.to_thread(get, ready) == (503, "not ready: certificates\n")
        agent.pending = []
        assert await asyncio.to_thread(get, ready) == (200, "ready\n")
    assert not path.exists()
    with pytest.raises(AdminError, match="does not run here"):
        client.get("/status")


async def test_a_stream_goes_on_until_its_reader_goes(tmp_path: Path) -> None:
    agent = Agent()
    (tmp_path / "node1").mkdir()
    client = AdminClient("node1", tmp_path)
    quiet = ListenSettings(metrics_port=0, readiness_port=0)

    def read(lines: Iterator[Any], count: int) -> list[int]:
        return [line["number"] for line in itertools.islice(lines, count)]

    async with agent.server.running(tmp_path / "node1" / "admin.sock", quiet):
        with pytest.raises(AdminError, match="no such verdict"):
            await asyncio.to_thread(lambda: next(client.follow("/follow?bad=1")))
        readers = [client.follow("/follow") for _ in range(8)]
        for lines in readers:
            assert await asyncio.to_thread(read, lines, 3) == [1, 3, 5]
        with pytest.raises(AdminError, match="8 readers"):
            await asyncio.to_thread(lambda: next(client.follow("/follow")))
        for lines in readers:
            lines.close()
        async with asyncio.timeout(10):
            while agent.server._streaming:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        again = client.follow("/follow")
        assert await asyncio.to_thread(read, again, 1) == [1]
    with pytest.raises(AdminError, match="ended"):
        list(again)


async def test_a_dead_agents_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    quiet = ListenSettings(metrics_port=0, readiness_port=0)
    async with Agent().server.running(path, quiet):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))


async def test_a_taken_port_is_said_in_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        listen = ListenSettings(address="127.0.0.1", metrics_port=port, readiness_port=0)
        with pytest.raises(AdminError, match=f"127.0.0.1:{port}"):
            async with Agent().server.running(tmp_path / "admin.sock", listen):
                raise AssertionError


def test_no_agent_or_several_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(AdminError, match="no agent runs"):
        find_node(None, tmp_path)
    live = []
    for name in ("node1", "node2", "dead"):
        (tmp_path / name).mkdir()
        live.append(socket.socket(socket.AF_UNIX))
        live[-1].bind(str(tmp_path / name / "admin.sock"))
        live[-1].listen()
    live[-1].close()
    with pytest.raises(AdminError, match=r"--node: node1, node2$"):
        find_node(None, tmp_path)
    live[0].close()
    assert find_node(None, tmp_path) == "node2"
    assert find_node("node1", tmp_path) == "node1"
    live[1].close()
    with pytest.raises(ConfigError):
        find_node("../etc", tmp_path)
