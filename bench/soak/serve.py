# SPDX-License-Identifier: Apache-2.0
"""The soak's server, run inside a pod: `python -m bench.soak.serve NAME`. Standard library only.

A connection begins with one line, ``ORDER SEED UP DOWN PAUSE``: how many bytes the client sends
and wants, and in which order the two directions end. The answer begins with the server's name.

========  ==================================================================================
both      both directions at once; after the client's end and our bytes, one line of verdict
after     our bytes only after the client's end, then the verdict
before    our bytes and our end first; then we read to the client's end (told in the log)
reset     our bytes, then a reset
echo      everything back, until the client's end
========  ==================================================================================

Prints a JSON object for every stream that was not as sent, or whose end only the server saw.
"""

import asyncio
import json
import socket
import struct
import sys
from typing import cast

from bench.soak.pattern import BLOCK, Checker, Pattern

PORT = 9000
UDP_PORT = 9001
_LINGER_ZERO = struct.pack("ii", 1, 0)


def report(**facts: object) -> None:
    """Print a line of JSON at once."""
    print(json.dumps(facts), flush=True)


async def send(writer: asyncio.StreamWriter, seed: int, size: int, pause: float) -> None:
    """Send the bytes of ``seed``; with a pause after each block."""
    pattern, offset = Pattern(seed), 0
    while offset < size:
        data = pattern.read(offset, min(BLOCK, size - offset))
        writer.write(data)
        await writer.drain()
        offset += len(data)
        if pause:
            await asyncio.sleep(pause)


async def receive(reader: asyncio.StreamReader, check: Checker, pause: float) -> None:
    """Read and check to the end of the stream; with a pause after each piece."""
    while data := await reader.read(BLOCK):
        check.take(data)
        if pause:
            await asyncio.sleep(pause)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset: linger time 0 (socket(7))."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    writer.transport.abort()


def _verdict(check: Checker) -> bytes:
    if check.wrong_at >= 0:
        return b"wrong %d\n" % check.wrong_at
    return b"ok\n" if check.complete else b"short %d\n" % check.received


class Server:
    """One server process."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def run(self) -> None:
        """Serve TCP and UDP on both families until killed."""
        servers = [
            await asyncio.start_server(self._accept, host, PORT, backlog=1024, limit=BLOCK)
            for host in ("0.0.0.0", "::")
        ]
        loop = asyncio.get_running_loop()
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            sock = socket.socket(family, socket.SOCK_DGRAM)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, UDP_PORT))
            sock.settimeout(0)
            await loop.create_datagram_endpoint(_Udp, sock=sock)
        report(event="listening")
        async with servers[0], servers[1]:
            await asyncio.Event().wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        check, order, end, words = Checker(Pattern(0), 0), "", "eof", [""]
        try:
            words = (await reader.readline()).decode().split()
            if len(words) != 5:
                return
            order, seed, up, down = words[0], int(words[1]), int(words[2]), int(words[3])
            check = Checker(Pattern(seed), up)
            writer.write(f"{self._name}\n".encode())
            await _ORDERS[order](reader, writer, check, (seed + 1, down, float(words[4])))
        except OSError as error:
            end = type(error).__name__
        finally:
            if check.wrong_at >= 0 or order == "before":
                report(seed=words[1], end=end, wrong_at=check.wrong_at, whole=check.complete)
            writer.close()


Sending = tuple[int, int, float]


async def _both(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, check: Checker, sending: Sending
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(send(writer, *sending))
        group.create_task(receive(reader, check, sending[2]))
    writer.write(_verdict(check))
    await writer.drain()


async def _after(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, check: Checker, sending: Sending
) -> None:
    await receive(reader, check, sending[2])
    await send(writer, *sending)
    writer.write(_verdict(check))
    await writer.drain()


async def _before(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, check: Checker, sending: Sending
) -> None:
    await send(writer, *sending)
    writer.write_eof()
    await receive(reader, check, sending[2])


async def _reset(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, check: Checker, sending: Sending
) -> None:
    await send(writer, *sending)
    check.take(await reader.read(1))
    reset(writer)


async def _echo(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _check: Checker, _sending: Sending
) -> None:
    while data := await reader.read(BLOCK):
        writer.write(data)
        await writer.drain()


_ORDERS = {"both": _both, "after": _after, "before": _before, "reset": _reset, "echo": _echo}


class _Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(data, addr)


if __name__ == "__main__":
    asyncio.run(Server(sys.argv[1]).run())
