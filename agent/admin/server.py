# SPDX-License-Identifier: Apache-2.0
"""Doorway to aiohttp: three small servers over views that the composition root hands in.

========================  ==========================================================
unix socket, mode 0600    GET /status /workloads /services /connections
                          /certificates /tunnels /tables /log-level
                          /explain /policies /policy/state /events
                          /events/follow /connections/recent,
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
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from agent.config import ListenSettings
from agent.errors import AdminError

__all__ = ["AdminServer", "Query", "Stream", "View"]

Query = Mapping[str, str]
View = Callable[[Query], Awaitable[Any]]
"""A view answers with values that JSON can hold; ValueError says that the query is wrong."""

Stream = Callable[[Query], AsyncIterator[Any]]
"""A view without an end: values as they come, None to show that it lives. ValueError as a View."""

Render = Callable[[str], tuple[bytes, str]]
"""The metrics page for an Accept header: body and content type."""

_KEEPALIVE_SECONDS: Final = 75.0
"""aiohttp's default; a scraper that comes every 15-60 s keeps its connection."""

_BACKLOG: Final = 16
"""Scrapers and a few people: whoever opens more must wait."""

_STREAMS: Final = 8
"""Readers of streams at once: people who look on, not programs by the hundred."""


class AdminServer:
    """The servers; ``running`` holds them open for as long as its block runs."""

    def __init__(
        self,
        *,
        views: Mapping[str, View],
        actions: Mapping[str, View],
        streams: Mapping[str, Stream],
        refresh_metrics: Callable[[], Awaitable[None]],
        render_metrics: Render,
        pending: Callable[[], list[str]],
    ) -> None:
        self._views = views
        self._actions = actions
        self._streams = streams
        self._streaming = 0
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
                app = _application()
                app.router.add_get("/metrics", self._metrics)
                app.router.add_get("/stats/prometheus", self._metrics)
                app.router.add_get("/healthz", _alive)
                await _serve_tcp(stack, app, listen.address, listen.metrics_port)
            if listen.readiness_port:
                app = _application()
                app.router.add_get("/healthz/ready", self._readiness)
                await _serve_tcp(stack, app, listen.address, listen.readiness_port)
            yield

    async def _serve_socket(self, stack: contextlib.AsyncExitStack, socket: Path) -> None:
        app = _application()
        for path, view in self._views.items():
            app.router.add_get(path, self._json(view))
        for path, stream in self._streams.items():
            app.router.add_get(path, self._lines(stream))
        for path, action in self._actions.items():
            app.router.add_post(path, self._json(action))
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz/ready", self._readiness)
        runner = await _runner(stack, app)
        _remove_dead(socket)
        mask = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(socket), backlog=_BACKLOG).start()
        except OSError as error:
            raise AdminError(f"cannot serve the admin socket {socket}: {error}") from error
        finally:
            os.umask(mask)
        stack.callback(socket.unlink, missing_ok=True)

    def _json(self, view: View) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            try:
                value = await view(request.query)
            except ValueError as error:
                return web.json_response({"error": str(error)}, status=400)
            body = await asyncio.get_running_loop().run_in_executor(self._thread, _encode, value)
            return web.Response(body=body, content_type="application/json")

        return handle

    def _lines(self, stream: Stream) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """One JSON value a line (ndjson); an empty line for None."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                values = stream(request.query)
            except ValueError as error:
                return web.json_response({"error": str(error)}, status=400)
            if self._streaming >= _STREAMS:
                sentence = f"{_STREAMS} readers follow already; end one of them"
                return web.json_response({"error": sentence}, status=503)
            self._streaming += 1
            try:
                return await _send_lines(request, values)
            finally:
                self._streaming -= 1

        return handle

    async def _metrics(self, request: web.Request) -> web.Response:
        await self._refresh_metrics()
        loop = asyncio.get_running_loop()
        accept = request.headers.get("Accept", "")
        body, kind = await loop.run_in_executor(self._thread, self._render_metrics, accept)
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _readiness(self, _request: web.Request) -> web.Response:
        pending = self._pending()
        if pending:
            return web.Response(status=503, text=f"not ready: {', '.join(pending)}\n")
        return web.Response(text="ready\n")


async def _send_lines(request: web.Request, values: AsyncIterator[Any]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    # A reader that has gone is no trouble, and a write to a slow one waits.
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        async for value in values:
            await response.write(b"\n" if value is None else _encode(value) + b"\n")
    return response


def _remove_dead(socket: Path) -> None:
    """Remove a socket that lies here: the lock is ours, so it is a dead agent's."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(socket.lstat().st_mode):
            socket.unlink()


async def _alive(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=str)


def _application() -> web.Application:
    return web.Application(client_max_size=4096)


async def _runner(stack: contextlib.AsyncExitStack, app: web.Application) -> web.AppRunner:
    runner = web.AppRunner(
        app, access_log=None, keepalive_timeout=_KEEPALIVE_SECONDS, shutdown_timeout=1.0
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


async def _serve_tcp(
    stack: contextlib.AsyncExitStack, app: web.Application, address: str, port: int
) -> None:
    runner = await _runner(stack, app)
    try:
        await web.TCPSite(runner, address or None, port, backlog=_BACKLOG).start()
    except OSError as error:
        where = f"{address or '*'}:{port}"
        raise AdminError(
            f"cannot listen on {where}: {error.strerror or error}. Another agent or program uses "
            "it; choose another port"
        ) from error
