# SPDX-License-Identifier: Apache-2.0
"""The soak's clients, run inside a pod: `python -m bench.soak.load PLAN.json`.

Standard library only.

Each actor does one kind of operation again and again, towards a random target, with pauses
between. Every operation prints one JSON object: what, whence, whither, when, and how it ended.
SIGTERM lets what is under way finish and starts nothing more.
"""

import asyncio
import errno
import json
import random
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.soak.pattern import BLOCK, Checker, Pattern
from bench.soak.serve import report, reset, send

OPERATION_SECONDS = 40.0
"""More than a slow operation needs, with a link that was down for a while in the middle."""

KIB = 1 << 10
MIB = 1 << 20


class UnexpectedError(Exception):
    """The connection was not as it should be: the first argument is the word for it."""


@dataclass
class Operation:
    """One operation under way."""

    kind: str
    target: dict[str, Any]
    seed: int
    rng: random.Random
    stop: asyncio.Event
    who: str = ""
    port: int = 0
    bytes: int = 0
    used: float = 0.0
    """When it was last seen to be well, where it rests in between."""
    check: Checker = field(default_factory=lambda: Checker(Pattern(0), 0))

    async def open(
        self, order: str, up: int = 0, down: int = 0, pause: float = 0
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, ask, and read who answers."""
        self.check = Checker(Pattern(self.seed + 1), down)
        reader, writer = await asyncio.open_connection(
            self.target["address"], self.target["port"], limit=BLOCK
        )
        self.port = writer.get_extra_info("sockname")[1]
        writer.write(f"{order} {self.seed} {up} {down} {pause}\n".encode())
        await writer.drain()
        try:
            line = await reader.readline()
        except BaseException:
            writer.close()
            raise
        if not line.endswith(b"\n"):
            writer.close()
            raise UnexpectedError("EOF", "no name")
        self.who = line.decode().strip()
        return reader, writer

    async def read_all(self, reader: asyncio.StreamReader, pause: float = 0) -> None:
        """Read the server's bytes, and check them."""
        while self.check.received < self.check.size:
            data = await reader.read(min(BLOCK, self.check.size - self.check.received))
            self.check.take(data)
            self.bytes += len(data)
            self._judge(at_end=not data)
            if pause:
                await asyncio.sleep(pause)

    def _judge(self, *, at_end: bool) -> None:
        if self.check.wrong_at >= 0:
            raise UnexpectedError("WRONG", f"byte {self.check.wrong_at} of {self.check.size}")
        if at_end:
            raise UnexpectedError("EOF", f"{self.check.received} of {self.check.size} bytes")


async def _expect_verdict(reader: asyncio.StreamReader) -> None:
    said = (await reader.read(100)).decode()
    while said and not said.endswith("\n"):
        more = (await reader.read(100)).decode()
        said += more
        if not more:
            break
    if not said:
        raise UnexpectedError("EOF", "no verdict")
    if said != "ok\n":
        raise UnexpectedError("SHORT" if said.startswith("short") else "WRONG", f"server: {said}")
    if rest := await reader.read(1):
        raise UnexpectedError("WRONG", f"more than was sent: {rest!r}")


async def _exchange(
    op: Operation, order: str, up: int, down: int, *, read: float = 0, write: float = 0,
    server: float = 0,
) -> None:  # fmt: skip
    reader, writer = await op.open(order, up, down, server)
    try:

        async def upload() -> None:
            await send(writer, op.seed, up, write)
            writer.write_eof()

        if order == "both":
            async with asyncio.TaskGroup() as group:
                group.create_task(upload())
                group.create_task(op.read_all(reader, read))
        else:
            await upload()
            await op.read_all(reader, read)
        await _expect_verdict(reader)
        op.bytes += up
    finally:
        writer.close()


async def _short(op: Operation) -> None:
    await _exchange(op, "both", op.rng.randrange(1, 2000), op.rng.randrange(1, 8000))


async def _bulk(op: Operation) -> None:
    up, down = (op.rng.choice((0, 1, KIB, MIB, 4 * MIB, 8 * MIB)) for _ in range(2))
    await _exchange(op, "both", up + op.rng.randrange(999), down + op.rng.randrange(999))


async def _slow_reader(op: Operation) -> None:
    await _exchange(op, "both", 100, 2 * MIB + op.rng.randrange(999), read=0.1)


async def _slow_writer(op: Operation) -> None:
    await _exchange(op, "both", 2 * MIB + op.rng.randrange(999), 100, write=0.1)


async def _slow_server(op: Operation) -> None:
    await _exchange(op, "both", 2 * MIB, 1 * MIB, server=0.05)


async def _half_close(op: Operation) -> None:
    await _exchange(op, "after", op.rng.randrange(1, MIB), op.rng.randrange(1, MIB))


async def _server_first(op: Operation) -> None:
    """The server ends its direction first; it tells in its log what came after that."""
    up = op.rng.randrange(1, 256 * KIB)
    reader, writer = await op.open("before", up, op.rng.randrange(1, MIB))
    try:
        await op.read_all(reader)
        if await reader.read(1):
            raise UnexpectedError("WRONG", "more than was sent")
        await asyncio.sleep(op.rng.random())
        await send(writer, op.seed, up, 0)
        writer.write_eof()
    finally:
        writer.close()
        await writer.wait_closed()
    op.bytes += up


async def _client_resets(op: Operation) -> None:
    reader, writer = await op.open("both", 1000, MIB)
    op.check.take(await reader.read(op.rng.randrange(1, 200 * KIB)))
    reset(writer)
    if op.check.wrong_at >= 0:
        raise UnexpectedError("WRONG", f"byte {op.check.wrong_at}")


async def _server_resets(op: Operation) -> None:
    """All bytes must arrive before we agree to the reset; then nothing but a reset may."""
    reader, writer = await op.open("reset", 1, op.rng.randrange(1, 64 * KIB))
    try:
        await op.read_all(reader)
        await send(writer, op.seed, 1, 0)
        try:
            rest = await reader.read(1)
        except ConnectionResetError:
            return
        raise UnexpectedError("WRONG" if rest else "EOF", "instead of the reset")
    finally:
        writer.close()


async def _refused(op: Operation) -> None:
    """Nothing listens there: refused, or reset by the tunnel, and not one byte."""
    try:
        reader, writer = await asyncio.open_connection(op.target["address"], 9099)
    except (ConnectionRefusedError, ConnectionResetError):
        return
    try:
        op.port = writer.get_extra_info("sockname")[1]
        said = await reader.read(1)
    except ConnectionResetError:
        return
    finally:
        writer.close()
    raise UnexpectedError("WRONG" if said else "EOF", "instead of being refused")


async def _idle(op: Operation) -> None:
    """A connection that lives long and is used now and then."""
    reader, writer = await op.open("echo")
    try:
        until = time.monotonic() + op.rng.uniform(5, 90)
        while time.monotonic() < until and not op.stop.is_set():
            text = op.rng.randbytes(op.rng.randrange(1, 3000))
            writer.write(text)
            got = b""
            while len(got) < len(text):
                data = await asyncio.wait_for(reader.read(len(text) - len(got)), 20)
                if not data:
                    raise UnexpectedError("EOF", "of an idle connection")
                got += data
            if got != text:
                raise UnexpectedError("WRONG", "echo")
            op.bytes += len(text)
            op.used = time.monotonic()
            await _wait(op.stop, op.rng.uniform(0.1, 10))
    finally:
        writer.close()


async def _udp(op: Operation) -> None:
    """Five tries: UDP may lose one, but not all."""
    family = socket.AF_INET6 if ":" in op.target["address"] else socket.AF_INET
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0)
        for number in range(5):
            text = b"%d %d" % (op.seed, number)
            await loop.sock_sendto(sock, text, (op.target["address"], op.target["udp_port"]))
            try:
                data, peer = await asyncio.wait_for(loop.sock_recvfrom(sock, 2000), 1)
            except TimeoutError:
                continue
            if peer[:2] != (op.target["address"], op.target["udp_port"]):
                raise UnexpectedError("WRONG", f"answer from {peer}")
            if data.split()[0] != text.split()[0]:
                raise UnexpectedError("WRONG", "another datagram")
            return
    raise UnexpectedError("LOST", "five datagrams")


KINDS: dict[str, Callable[[Operation], Awaitable[None]]] = {
    "short": _short,
    "bulk": _bulk,
    "slow reader": _slow_reader,
    "slow writer": _slow_writer,
    "slow server": _slow_server,
    "half-close": _half_close,
    "server ends first": _server_first,
    "client resets": _client_resets,
    "server resets": _server_resets,
    "refused": _refused,
    "idle": _idle,
    "udp": _udp,
}


def error_word(error: BaseException) -> tuple[str, str]:
    """The word for an error, and more about it."""
    if isinstance(error, BaseExceptionGroup):
        words = [error_word(inner) for inner in error.exceptions]
        # A direction that was cancelled or broke as well says less than wrong bytes do.
        return next((word for word in words if word[0] == "WRONG"), words[0])
    if isinstance(error, UnexpectedError):
        return str(error.args[0]), str(error.args[1])
    if isinstance(error, OSError) and error.errno:
        return errno.errorcode.get(error.errno, str(error.errno)), str(error)
    if isinstance(error, ConnectionResetError):
        return "ECONNRESET", str(error)
    if isinstance(error, TimeoutError):
        return "TIMEOUT", ""
    return type(error).__name__, str(error)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


async def _run(op: Operation, source: str) -> None:
    began, error, detail = time.monotonic(), "", ""
    seconds = OPERATION_SECONDS + (90 if op.kind == "idle" else 0)
    try:
        await asyncio.wait_for(KINDS[op.kind](op), seconds)
    except (Exception, BaseExceptionGroup) as raised:  # noqa: BLE001 - every end is told and judged
        error, detail = error_word(raised)
    report(
        kind=op.kind, source=source, target=op.target["name"], pods=op.target["pods"], who=op.who,
        seed=op.seed, port=op.port, began=began, ended=time.monotonic(), error=error,
        used=op.used, detail=detail, bytes=op.bytes, address=op.target["address"],
    )  # fmt: skip


async def _actor(
    plan: dict[str, Any], kind: str, pause: float, seed: int, stop: asyncio.Event
) -> None:
    rng = random.Random(seed)
    targets = [t for t in plan["targets"] if kind != "udp" or t["udp_port"]]
    if kind == "refused":
        targets = [t for t in targets if len(t["pods"]) == 1]
    while not stop.is_set():
        await _wait(stop, rng.uniform(0, 2 * pause))
        if not stop.is_set():
            target, number = rng.choice(targets), rng.getrandbits(48)
            await _run(Operation(kind, target, number, rng, stop), plan["source"])


async def main(plan: dict[str, Any]) -> None:
    """Run every actor of the plan until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    report(event="listening")
    async with asyncio.TaskGroup() as group:
        for number, (kind, pause) in enumerate(plan["actors"]):
            group.create_task(_actor(plan, kind, pause, plan["seed"] * 1000 + number, stop))
    report(event="done")


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
