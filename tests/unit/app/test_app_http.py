# SPDX-License-Identifier: Apache-2.0
"""The small HTTP server, byte by byte: what it answers, and whom it cuts off."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from agent.admin import http
from agent.admin.http import Request, Response, Routes, serving

Ask = Callable[[bytes], Awaitable[bytes]]


async def echo(request: Request) -> Response:
    return Response(f"{request.path} {dict(request.query)} {request.headers.get('x')}".encode())


async def broken(_request: Request) -> Response:
    raise KeyError("never shown")


async def large(_request: Request) -> Response:
    return Response(b"x" * 30_000_000)


ROUTES: Routes = {
    ("GET", "/echo"): echo,
    ("POST", "/do"): echo,
    ("GET", "/broken"): broken,
    ("GET", "/large"): large,
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Path]:
    path = tmp_path / "sock"
    async with serving(ROUTES, partial(asyncio.start_unix_server, path=str(path))):
        yield path


async def ask(path: Path, data: bytes, *, then_end: bool = True) -> bytes:
    """Everything that is answered until the server closes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    if then_end:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_requests_one_after_another_on_one_connection(server: Path) -> None:
    told = await ask(
        server,
        b"GET /echo?a=1&b=%20 HTTP/1.1\r\nHost: x\r\nX:  y \r\n\r\n"
        b"HEAD /echo HTTP/1.1\r\n\r\n"
        b"POST /do HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
        b"GET /none HTTP/1.1\r\nConnection: close\r\n\r\n"
        b"GET /echo HTTP/1.1\r\n\r\n",
    )
    first, rest = told.split(b"/echo {'a': '1', 'b': ' '} y")
    assert first.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n")
    assert first.endswith(b"Content-Length: 28\r\nConnection: keep-alive\r\n\r\n")
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 13\r\nConnection: keep-alive\r\n\r\nHTTP/1.1 200 OK" in rest
    assert b"/do {} None" in rest
    assert rest.endswith(b"Connection: close\r\n\r\nnot found\n")
    assert told.count(b"HTTP/1.1 ") == 4


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /echo HTTP/1.1\r\n\r\n", b"405"),
        (b"DELETE /do HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /echo\r\n\r\n", b"400"),
        (b"GET  /echo HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /echo HTTP/2.0\r\n\r\n", b"505"),
        (b"GET /echo HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
        (b"GET /echo HTTP/1.1\r\nX : y\r\n\r\n", b"400"),
        (b"GET /echo HTTP/1.1\r\nX: y\r\n folded\r\n\r\n", b"400"),
        (b"GET http://[ HTTP/1.1\r\n\r\n", b"400"),
        (b"POST /do HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"POST /do HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /do HTTP/1.1\r\nContent-Length: 4097\r\n\r\n", b"413"),
        (b"POST /do HTTP/1.1\r\nContent-Length: " + b"9" * 6000 + b"\r\n\r\n", b"413"),
        (b"GET /echo HTTP/1.1\r\nX: " + b"y" * 9000 + b"\r\n\r\n", b"431"),
        (b"GET /broken HTTP/1.1\r\n\r\n", b"500"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
    ],
)
async def test_what_is_refused(server: Path, data: bytes, status: bytes) -> None:
    told = await ask(server, data)
    assert told.split(b" ")[1] == status
    assert b"never shown" not in told
    # An old or odd client changes nothing for the next one.
    assert b" 200 OK" in await ask(server, b"GET /echo HTTP/1.0\r\n\r\n", then_end=False)


async def test_half_a_request_is_answered_with_nothing(server: Path) -> None:
    assert await ask(server, b"GET /ec") == b""
    assert await ask(server, b"POST /do HTTP/1.1\r\nContent-Length: 9\r\n\r\nbody") == b""


async def test_a_slow_head_and_a_slow_reader_are_cut_off(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_HEAD_SECONDS", 0.1)
    monkeypatch.setattr(http, "_ANSWER_SECONDS", 0.1)
    assert await ask(server, b"GET /echo HTTP/1.1\r\nX: ", then_end=False) == b""
    reader, writer = await asyncio.open_unix_connection(str(server))
    writer.write(b"GET /large HTTP/1.1\r\n\r\n")
    await asyncio.sleep(0.5)
    assert len(await reader.read()) < 30_000_000
    writer.close()


async def test_too_many_connections_are_closed_at_once(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_MOST_CONNECTIONS", 2)
    held = [await asyncio.open_unix_connection(str(server)) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert await ask(server, b"", then_end=False) == b""
    held[0][1].close()
    await asyncio.sleep(0.05)
    assert b" 200 OK" in await ask(server, b"GET /echo HTTP/1.0\r\n\r\n", then_end=False)
    held[1][1].close()
