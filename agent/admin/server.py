# SPDX-License-Identifier: Apache-2.0
"""Three small servers over views that the composition root hands in.

========================  ==========================================================
unix socket, mode 0600    GET /status /workloads /services /connections
                          /certificates /tunnels /tables /log-level,
                          POST /log-level?level=L, POST /drain
TCP 15020                 GET /metrics /healthz
TCP 15021                 GET /healthz/ready
========================  ==========================================================

JSON is encoded and the metrics page rendered in a thread, so a large answer or a slow reader never
holds up the event loop.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.admin.http import Handler, Request, Response, Routes, serving
from agent.config import ListenSettings
from agent.errors import AdminError

__all__ = ["AdminServer", "Query", "View"]

Query = Mapping[str, str]
View = Callable[[Query], Awaitable[Any]]
"""A view answers with values that JSON can hold; ValueError says that the query is wrong."""

Render = Callable[[str], tuple[bytes, str]]
"""The metrics page for an Accept header: body and content type."""

_BACKLOG: Final = 16
"""Scrapers and a few people: whoever opens more must wait."""


class AdminServer:
    """The servers; ``running`` holds them open for as long as its block runs."""

    def __init__(
        self,
        *,
        views: Mapping[str, View],
        actions: Mapping[str, View],
        refresh_metrics: Callable[[], Awaitable[None]],
        render_metrics: Render,
        pending: Callable[[], list[str]],
    ) -> None:
        self._views = views
        self._actions = actions
        self._refresh_metrics = refresh_metrics
        self._render_metrics = render_metrics
        self._pending = pending
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="admin-encode")

    @contextlib.asynccontextmanager
    async def running(self, socket: Path, listen: ListenSettings) -> AsyncIterator[None]:
        """Serve.

        Raises:
            AdminError: a port is taken, or the socket's directory is not ours.

        """
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._thread.shutdown, wait=False)
            await self._serve_socket(stack, socket)
            if listen.metrics_port:
                routes: Routes = {
                    ("GET", "/metrics"): self._metrics,
                    ("GET", "/stats/prometheus"): self._metrics,
                    ("GET", "/healthz"): _alive,
                }
                await _serve_tcp(stack, routes, listen.address, listen.metrics_port)
            if listen.readiness_port:
                routes = {("GET", "/healthz/ready"): self._readiness}
                await _serve_tcp(stack, routes, listen.address, listen.readiness_port)
            yield

    async def _serve_socket(self, stack: contextlib.AsyncExitStack, socket: Path) -> None:
        routes: Routes = {
            **{("GET", path): self._json(view) for path, view in self._views.items()},
            **{("POST", path): self._json(action) for path, action in self._actions.items()},
            ("GET", "/metrics"): self._metrics,
            ("GET", "/healthz/ready"): self._readiness,
        }
        _remove_dead(socket)
        mask = os.umask(0o177)
        try:
            listen = partial(asyncio.start_unix_server, path=str(socket), backlog=_BACKLOG)
            await stack.enter_async_context(serving(routes, listen))
        except OSError as error:
            raise AdminError(f"cannot serve the admin socket {socket}: {error}") from error
        finally:
            os.umask(mask)
        stack.callback(socket.unlink, missing_ok=True)

    def _json(self, view: View) -> Handler:
        async def handle(request: Request) -> Response:
            status = HTTPStatus.OK
            try:
                value = await view(request.query)
            except ValueError as error:
                value, status = {"error": str(error)}, HTTPStatus.BAD_REQUEST
            body = await asyncio.get_running_loop().run_in_executor(self._thread, _encode, value)
            return Response(body, "application/json", status)

        return handle

    async def _metrics(self, request: Request) -> Response:
        await self._refresh_metrics()
        loop = asyncio.get_running_loop()
        accept = request.headers.get("accept", "")
        return Response(*await loop.run_in_executor(self._thread, self._render_metrics, accept))

    async def _readiness(self, _request: Request) -> Response:
        pending = self._pending()
        if pending:
            text = f"not ready: {', '.join(pending)}\n"
            return Response(text.encode(), status=HTTPStatus.SERVICE_UNAVAILABLE)
        return Response(b"ready\n")


def _remove_dead(socket: Path) -> None:
    """Remove a socket that lies here: the lock is ours, so it is a dead agent's."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(socket.lstat().st_mode):
            socket.unlink()


async def _alive(_request: Request) -> Response:
    return Response(b"ok\n")


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=str)


async def _serve_tcp(
    stack: contextlib.AsyncExitStack, routes: Routes, address: str, port: int
) -> None:
    listen = partial(asyncio.start_server, host=address or None, port=port, backlog=_BACKLOG)
    try:
        await stack.enter_async_context(serving(routes, listen))
    except OSError as error:
        where = f"{address or '*'}:{port}"
        raise AdminError(
            f"cannot listen on {where}: {error.strerror or error}. Another agent or program uses "
            "it; choose another port"
        ) from error
