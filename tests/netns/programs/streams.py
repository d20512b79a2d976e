# SPDX-License-Identifier: Apache-2.0
"""Byte streams between two pods. Standard library only.

    python streams.py serve   PORT                     one JSON object a line: how each one ended
    python streams.py ask     ADDRESS PORT REQUEST …   one JSON object on stdout

The first line of a connection is a request: what the server shall do.
"""

import asyncio
import hashlib
import json
import random
import socket
import struct
import sys
import time

CHUNK = 1 << 20
BLOCK = random.Random(7).randbytes(CHUNK)


def report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def block(number: int) -> bytes:
    """A megabyte that no other place of the stream holds."""
    return struct.pack("!Q", number) + BLOCK[8:]


# ── the server ──


async def serve(port: int) -> None:
    servers = [
        await asyncio.start_server(_serve_one, host, port, backlog=4096, limit=1 << 20)
        for host in ("0.0.0.0", "::")
    ]
    report(event="listening")
    async with servers[0], servers[1]:
        await asyncio.Event().wait()


async def _serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = "?"
    try:
        request = (await reader.readline()).decode().strip()
        verb, _, rest = request.partition(" ")
        await _VERBS[verb](reader, writer, rest)
        ended = "orderly"
    except (ConnectionError, OSError, asyncio.IncompleteReadError) as error:
        ended = type(error).__name__
    report(event="closed", request=request, ended=ended)
    writer.close()


async def _exchange(reader, writer, rest) -> None:
    """Send a count of megabytes while reading; at the client's end, the digest of what it sent."""
    count = int(rest)
    digest = hashlib.sha256()

    async def send() -> None:
        for number in range(count):
            writer.write(block(number))
            await writer.drain()

    sending = asyncio.ensure_future(send())
    while data := await reader.read(CHUNK):
        digest.update(data)
    await sending
    writer.write(digest.digest())
    await writer.drain()
    writer.write_eof()


async def _echo(reader, writer, _rest) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def _after_end(reader, writer, _rest) -> None:
    """Answer only after the client's end, and say what came before it."""
    data = await reader.read()
    writer.write(b"you sent %d" % len(data))
    await writer.drain()


async def _end_first(reader, writer, _rest) -> None:
    """End our direction at once, go on reading; the report says how much came."""
    writer.write(b"bye")
    writer.write_eof()
    data = await reader.read()
    report(event="after our end", size=len(data))


async def _reset(reader, writer, _rest) -> None:
    """Reset the connection."""
    writer.write(b"soon")
    await writer.drain()
    await reader.readexactly(1)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _wait(reader, writer, _rest) -> None:
    """Read until something happens."""
    writer.write(b"here")
    await writer.drain()
    while await reader.read(65536):
        pass


async def _pour(_reader, writer, rest) -> None:
    """Send a count of megabytes, without waiting for anything."""
    for number in range(int(rest)):
        writer.write(block(number))
        await writer.drain()
    report(event="poured")


_VERBS = {
    "exchange": _exchange,
    "echo": _echo,
    "after-end": _after_end,
    "end-first": _end_first,
    "reset": _reset,
    "wait": _wait,
    "pour": _pour,
}

# ── the client ──


def _open(address: str, port: int, request: str) -> socket.socket:
    sock = socket.create_connection((address, port), timeout=30)
    sock.sendall(f"{request}\n".encode())
    return sock


def exchange(address: str, port: int, count: str) -> dict[str, object]:
    return asyncio.run(_exchange_client(address, port, int(count)))


async def _exchange_client(address: str, port: int, count: int) -> dict[str, object]:
    reader, writer = await asyncio.open_connection(address, port, limit=1 << 20)
    writer.write(f"exchange {count}\n".encode())
    sent, received, wanted = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()

    async def send() -> None:
        for number in range(count):
            data = block(number ^ 0xFFFF)
            sent.update(data)
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    sending = asyncio.ensure_future(send())
    left = count * CHUNK
    while left:
        data = await reader.read(min(left, CHUNK))
        if not data:
            break
        received.update(data)
        left -= len(data)
    for number in range(count):
        wanted.update(block(number))
    await sending
    tail = await reader.read()
    return {
        "missing": left,
        "received_as_sent": received.digest() == wanted.digest(),
        "sent_as_received": tail == sent.digest(),
    }


def after_end(address: str, port: int, size: str) -> dict[str, object]:
    sock = _open(address, port, "after-end")
    sock.sendall(b"x" * int(size))
    sock.shutdown(socket.SHUT_WR)
    answer = b""
    while data := sock.recv(65536):
        answer += data
    return {"answer": answer.decode()}


def end_first(address: str, port: int, size: str) -> dict[str, object]:
    sock = _open(address, port, "end-first")
    answer = b""
    while data := sock.recv(65536):
        answer += data
    time.sleep(0.3)
    sock.sendall(b"y" * int(size))
    sock.close()
    return {"answer": answer.decode()}


def server_resets(address: str, port: int) -> dict[str, object]:
    sock = _open(address, port, "reset")
    first = sock.recv(4)
    sock.sendall(b"x")
    try:
        end = repr(sock.recv(100))
    except ConnectionError as error:
        end = type(error).__name__
    return {"first": first.decode(), "end": end}


def client_resets(address: str, port: int) -> dict[str, object]:
    sock = _open(address, port, "wait")
    first = sock.recv(4)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    return {"first": first.decode()}


def stall(address: str, port: int, count: str, seconds: str) -> dict[str, object]:
    """Open several streams that pour, read nothing from them for a while, then a little."""
    socks = [_open(address, port, "pour 1000") for _ in range(int(count))]
    time.sleep(float(seconds))
    began = time.monotonic()
    other = _open(address, port, "echo")
    other.sendall(b"alive")
    alive = other.recv(5) == b"alive"
    waited = time.monotonic() - began
    first = b""
    while len(first) < CHUNK:
        first += socks[0].recv(CHUNK - len(first))
    return {"alive": alive, "waited": waited, "first": first == block(0)}


def many(address: str, port: int, count: str) -> dict[str, object]:
    return asyncio.run(_many(address, port, int(count)))


async def _many(address: str, port: int, count: int) -> dict[str, object]:
    """Open connections until ``count`` are open at once, use each, close all."""
    opened = 0
    everybody = asyncio.Event()
    limit = asyncio.Semaphore(256)

    async def one(number: int) -> bool:
        nonlocal opened
        async with limit:
            reader, writer = await asyncio.open_connection(address, port)
            text = f"number {number}".encode()
            writer.write(b"echo\n" + text)
            first = await reader.readexactly(len(text))
        opened += 1
        if opened == count:
            everybody.set()
        await everybody.wait()
        writer.write(text)
        second = await reader.readexactly(len(text))
        writer.close()
        await writer.wait_closed()
        return first == second == text

    results = await asyncio.wait_for(
        asyncio.gather(*(one(n) for n in range(count)), return_exceptions=True), 60
    )
    wrong = [repr(result) for result in results if result is not True]
    return {"opened": opened, "wrong": len(wrong), "first_wrong": wrong[:1]}


def load(address: str, port: int, seconds: str) -> dict[str, object]:
    """Short connections one after another; none may fail."""
    deadline = time.monotonic() + float(seconds)
    done, failed = 0, []
    while time.monotonic() < deadline:
        try:
            sock = _open(address, port, "echo")
            sock.sendall(b"ping")
            if sock.recv(4) != b"ping":
                failed.append("no echo")
            sock.close()
            done += 1
        except OSError as error:
            failed.append(repr(error))
        time.sleep(0.01)
    return {"done": done, "failed": len(failed), "first_failed": failed[:3]}


def hold(address: str, port: int, seconds: str) -> dict[str, object]:
    """Keep one connection and use it ten times a second."""
    sock = _open(address, port, "echo")
    report(event="open")
    deadline = time.monotonic() + float(seconds)
    rounds = 0
    while time.monotonic() < deadline:
        try:
            sock.sendall(b"ping")
            if sock.recv(4) != b"ping":
                return {"rounds": rounds, "end": "closed"}
        except OSError as error:
            return {"rounds": rounds, "end": type(error).__name__}
        rounds += 1
        time.sleep(0.1)
    return {"rounds": rounds, "end": "alive"}


def wait(address: str, port: int, seconds: str) -> dict[str, object]:
    """Keep one connection on which nobody sends anything after the first answer."""
    sock = _open(address, port, "echo")
    sock.sendall(b"ping")
    if sock.recv(4) != b"ping":
        return {"end": "closed"}
    report(event="open")
    sock.settimeout(float(seconds))
    try:
        sock.recv(1)
    except TimeoutError:
        return {"end": "alive"}
    except OSError as error:
        return {"end": type(error).__name__}
    return {"end": "closed"}


_ASK = {
    "exchange": exchange,
    "after-end": after_end,
    "end-first": end_first,
    "server-resets": server_resets,
    "client-resets": client_resets,
    "stall": stall,
    "many": many,
    "load": load,
    "hold": hold,
    "wait": wait,
}

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        report(**_ASK[sys.argv[4]](sys.argv[2], int(sys.argv[3]), *sys.argv[5:]))
