# SPDX-License-Identifier: Apache-2.0
"""TCP, UDP and SCTP between two pods, many connections at once. Standard library only.

    python echoes.py serve TCP,TCP,… UDP,UDP,… SCTP,…   answers on these ports, v4 and v6
    python echoes.py dial                               a JSON list of dials a line on stdin;
                                                        a JSON list of outcomes a line on stdout

A dial is [protocol, address, port, seconds of patience]; an outcome is "echo" where what was sent
has come back, else what went wrong. SCTP is an INIT in a raw socket, answered by an INIT ACK: a
kernel without the SCTP module carries it too, and packets are what a policy judges.
"""

import asyncio
import contextlib
import errno
import json
import random
import socket
import struct
import sys

SCTP = 132
ECHO, END, TIMEOUT = "echo", "end", "timeout"
AGAIN_SECONDS = 0.2
"""Until a datagram without an answer is sent once more."""
INIT, INIT_ACK = 1, 2


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sctp_packet(source: int, destination: int, kind: int, tag: int) -> bytes:
    """A common header and one INIT or INIT ACK chunk (RFC 9260, sections 3.1, 3.3.2)."""
    chunk = struct.pack("!BBHIIHHI", kind, 0, 20, tag, 65536, 1, 1, tag)
    head = struct.pack("!HHI", source, destination, 0 if kind == INIT else tag)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def sctp_parts(packet: bytes, family: int) -> tuple[int, int, int, int] | None:
    """Source port, destination port, kind and tag; a raw IPv4 socket hears the IP header too."""
    body = packet[(packet[0] & 15) * 4 :] if family == socket.AF_INET else packet
    if len(body) < 20:
        return None
    source, destination = struct.unpack_from("!HH", body)
    kind, tag = body[12], struct.unpack_from("!I", body, 16)[0]
    return source, destination, kind, tag


def raw_sctp(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_RAW, SCTP)
    sock.setblocking(False)
    return sock


# ── the server ──


async def serve(tcp: list[int], udp: list[int], sctp: list[int]) -> None:
    loop = asyncio.get_running_loop()
    held: list[object] = []
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        held += [await asyncio.start_server(_echo, host, port, backlog=512) for port in tcp]
        for port in udp:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
            held.append(await loop.create_datagram_endpoint(_Echo, sock=sock))
        sock = raw_sctp(family)
        loop.add_reader(sock, _answer, sock, family, set(sctp))
        held.append(sock)
    print(json.dumps({"event": "listening"}), flush=True)
    await asyncio.Event().wait()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    writer.close()


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data, addr) -> None:
        self.transport.sendto(data, addr)


def _answer(sock: socket.socket, family: int, ports: set[int]) -> None:
    packet, peer = sock.recvfrom(2048)
    parts = sctp_parts(packet, family)
    if parts is None or parts[1] not in ports or parts[2] != INIT:
        return
    with contextlib.suppress(OSError):
        sock.sendto(sctp_packet(parts[1], parts[0], INIT_ACK, parts[3]), (peer[0], 0))


# ── the dialler ──


async def dial_all() -> None:
    loop = asyncio.get_running_loop()
    waiting: dict[tuple[int, int], asyncio.Future[str]] = {}
    raw = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        raw[family] = raw_sctp(family)
        loop.add_reader(raw[family], _hear, raw[family], family, waiting)
    print(json.dumps({"event": "listening"}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        dials = [_dial(raw, waiting, *one) for one in json.loads(line)]
        print(json.dumps(await asyncio.gather(*dials)), flush=True)


async def _dial(raw, waiting, protocol: str, address: str, port: int, patience: float) -> str:
    match protocol:
        case "tcp":
            outcome = _tcp(address, port)
        case "udp":
            outcome = _udp(address, port)
        case _:
            outcome = _sctp(raw[family_of(address)], waiting, address, port)
    try:
        return await asyncio.wait_for(outcome, patience)
    except TimeoutError:
        return TIMEOUT
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


async def _tcp(address: str, port: int) -> str:
    loop = asyncio.get_running_loop()
    data, heard = random.randbytes(64), b""
    with socket.socket(family_of(address), socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (address, port))
        await loop.sock_sendall(sock, data)
        while len(heard) < len(data):
            more = await loop.sock_recv(sock, len(data))
            if not more:
                return END
            heard += more
    return ECHO if heard == data else "other bytes"


async def _udp(address: str, port: int) -> str:
    loop = asyncio.get_running_loop()
    data = random.randbytes(64)
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((address, port))
        while True:
            sock.send(data)
            with contextlib.suppress(TimeoutError):
                answer = await asyncio.wait_for(loop.sock_recv(sock, 2048), AGAIN_SECONDS)
                return ECHO if answer == data else "other bytes"


def _hear(sock: socket.socket, family: int, waiting) -> None:
    parts = sctp_parts(sock.recv(2048), family)
    if parts is None or parts[2] != INIT_ACK:
        return
    found = waiting.get((parts[1], parts[3]))
    if found is not None and not found.done():
        found.set_result(ECHO)


async def _sctp(sock: socket.socket, waiting, address: str, port: int) -> str:
    own, tag = random.randrange(20000, 60000), random.getrandbits(32) | 1
    waiting[own, tag] = asyncio.get_running_loop().create_future()
    try:
        while True:
            sock.sendto(sctp_packet(own, port, INIT, tag), (address, 0))
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(asyncio.shield(waiting[own, tag]), AGAIN_SECONDS)
    finally:
        del waiting[own, tag]


def numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(*(numbers(text) for text in sys.argv[2:5])))
    else:
        asyncio.run(dial_all())
