# SPDX-License-Identifier: Apache-2.0
"""Asks the admin socket of an agent on this machine. Standard library only, so it starts fast."""

import http.client
import json
import os
import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from agent.config import STATE_ROOT, Paths, check_node_name
from agent.errors import AdminError

__all__ = ["AdminClient", "find_node"]

_TIMEOUT_SECONDS: Final = 10.0
"""An agent answers in milliseconds; more means that it hangs, and a person should learn so."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def find_node(node: str | None, state_root: Path = STATE_ROOT) -> str:
    """Return ``node``, or the only node with an admin socket on this machine.

    Raises:
        AdminError: there is none, or there are several and none was named.
        ConfigError: the name cannot be a node's.

    """
    if node is not None:
        check_node_name(node)
        return node
    try:
        sockets = sorted(state_root.glob("*/admin.sock"))
    except PermissionError as error:
        raise AdminError(f"{state_root} is not readable: looking inside needs root") from error
    # A killed agent leaves its socket behind: nobody answers there.
    found = [path.parent.name for path in sockets if len(sockets) == 1 or _answers(path)]
    if not found:
        hint = "" if os.geteuid() == 0 else ", or you are not root"
        raise AdminError(f"no agent runs on this machine (no admin.sock in {state_root}/*){hint}")
    if len(found) > 1:
        raise AdminError(f"several agents run here; name one with --node: {', '.join(found)}")
    return found[0]


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_TIMEOUT_SECONDS)
        return probe.connect_ex(str(path)) == 0


class AdminClient:
    """One agent's admin socket."""

    def __init__(self, node: str, state_root: Path = STATE_ROOT) -> None:
        self._node = node
        self._socket = Paths.of_node(node, state_root).admin_socket

    def get(self, path: str) -> Any:
        """GET a view and return its JSON. AdminError if that fails."""
        return self._ask("GET", path)

    def post(self, path: str) -> Any:
        """POST an action and return its JSON. AdminError if that fails."""
        return self._ask("POST", path)

    def follow(self, path: str) -> Generator[Any]:
        """GET a stream and yield its values as they come, for as long as the agent sends.

        Raises:
            AdminError: it was refused, or it has ended.

        """
        with self._answer("GET", path) as response:
            # A line without its end is of an agent that died while it wrote.
            while (line := response.readline()).endswith(b"\n"):
                if line.strip():
                    yield json.loads(line)
        raise AdminError(f"the agent of node {self._node} has ended the stream")

    def _ask(self, method: str, path: str) -> Any:
        with self._answer(method, path) as response:
            return json.loads(response.read())

    @contextmanager
    def _answer(self, method: str, path: str) -> Iterator[http.client.HTTPResponse]:
        connection = _UnixConnection(self._socket)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            if response.status != 200:
                sentence = _sentence(response.read())
                raise AdminError(f"the agent of node {self._node} refused {path}: {sentence}")
            yield response
        except PermissionError as error:
            raise AdminError(f"{self._socket} may only be opened by root") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise AdminError(f"the agent of node {self._node} does not run here") from error
        except (OSError, http.client.HTTPException) as error:
            raise AdminError(f"the agent of node {self._node} does not answer: {error}") from error
        finally:
            connection.close()


def _sentence(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip() or "no reason given"
