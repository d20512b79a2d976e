# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 for a few GETs: enough of RFC 9112 for scrapers, probes and curl, and no more.

A general server costs an agent 10 MB, a tenth of what it has. This one takes a request line, fields
of 8 KiB at most and no body to speak of; whoever is slow, greedy or odd is cut off.

::

    connection ─▶ head within 10 s ─▶ handler ─▶ answer within 30 s ─┐
        ▲ kept open 75 s                                             │
        └────────────────────────────────────────────────────────────┘
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, urlsplit

__all__ = ["Handler", "Request", "Response", "Routes", "serving"]

log = logging.getLogger(__name__)

_MOST_HEAD_BYTES: Final = 8192
_MOST_BODY_BYTES: Final = 4096
"""A body is read and ignored: no request here needs one."""

_MOST_CONNECTIONS: Final = 64
"""Of one listener. Scrapers, probes and a few people; the next one is closed at once."""

_HEAD_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 30.0
"""To take an answer: a slow reader holds the whole of it in memory."""

_KEEPALIVE_SECONDS: Final = 75.0
"""A scraper that comes every 15 to 60 s keeps its connection."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked; names of fields are lower case, a field given twice has its last value."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK


Handler = Callable[[Request], Awaitable[Response]]
Routes = Mapping[tuple[str, str], Handler]
"""By method and path. A HEAD is answered as the GET, without its body."""


class _Refused(Exception):  # noqa: N818 - it is an answer
    """The request is answered with this status, and the connection closed."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


@contextlib.asynccontextmanager
async def serving(
    routes: Routes, listen: Callable[..., Awaitable[asyncio.Server]]
) -> AsyncIterator[None]:
    """Serve for as long as the block runs. ``listen`` is asyncio's start_server with its address.

    Raises what ``listen`` raises.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(tasks) >= _MOST_CONNECTIONS:
            writer.close()
            return
        tasks.add(task)
        try:
            await _serve(routes, reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # it went away, or we do
        finally:
            tasks.discard(task)
            # What does not leave at once is dropped: the peer had its time.
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    server = await listen(connected, limit=_MOST_HEAD_BYTES)
    try:
        yield
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)


async def _serve(
    routes: Routes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one request after another."""
    stays = True
    while stays:
        head = False
        try:
            request, stays = await _read(reader)
            head = request.method == "HEAD"
            response = await _answer(routes, request)
        except _Refused as refusal:
            text = f"{refusal.status.phrase.lower()}\n".encode()
            response, stays = Response(text, status=refusal.status), False
        writer.write(_encode(response, stays=stays, head=head))
        await asyncio.wait_for(writer.drain(), _ANSWER_SECONDS)


async def _answer(routes: Routes, request: Request) -> Response:
    method = "GET" if request.method == "HEAD" else request.method
    handler = routes.get((method, request.path))
    if handler is None:
        known = any(path == request.path for _, path in routes)
        status = HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND
        return Response(f"{status.phrase.lower()}\n".encode(), status=status)
    try:
        return await handler(request)
    except Exception:
        log.exception("an answer failed", extra={"fields": {"path": request.path}})
        raise _Refused(HTTPStatus.INTERNAL_SERVER_ERROR) from None


async def _read(reader: asyncio.StreamReader) -> tuple[Request, bool]:
    """Read one request, and whether the connection is to stay. IncompleteReadError at the end."""
    first = await asyncio.wait_for(reader.readexactly(1), _KEEPALIVE_SECONDS)
    try:
        rest = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_SECONDS)
    except asyncio.LimitOverrunError:
        raise _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
    line, *fields = (first + rest)[:-4].decode("latin-1").split("\r\n")
    try:
        method, target, version = line.split(" ")
        parts = urlsplit(target)
        headers = dict(_field(field) for field in fields)
    except ValueError:
        raise _Refused(HTTPStatus.BAD_REQUEST) from None
    if version not in {"HTTP/1.1", "HTTP/1.0"}:
        raise _Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    await _skip_body(reader, headers)
    wish = headers.get("connection", "").lower()
    stays = wish == "keep-alive" if version == "HTTP/1.0" else wish != "close"
    return Request(method, parts.path, dict(parse_qsl(parts.query)), headers), stays


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    # RFC 9112 section 5: no space before the colon, no folded line.
    if not colon or not name or name != name.strip():
        raise ValueError(text)
    return name.lower(), value.strip()


async def _skip_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> None:
    if "transfer-encoding" in headers:
        raise _Refused(HTTPStatus.LENGTH_REQUIRED)
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise _Refused(HTTPStatus.BAD_REQUEST)
    if len(length) > len(str(_MOST_BODY_BYTES)) or int(length) > _MOST_BODY_BYTES:
        raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    await asyncio.wait_for(reader.readexactly(int(length)), _HEAD_SECONDS)


def _encode(response: Response, *, stays: bool, head: bool) -> bytes:
    fields = (
        f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        f"Connection: {'keep-alive' if stays else 'close'}\r\n\r\n"
    )
    return fields.encode("latin-1") + (b"" if head else response.body)
